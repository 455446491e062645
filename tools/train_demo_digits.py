"""Train the demo checkpoint: a small DDPM of handwritten digits.

A run can be stopped at any moment (Ctrl-C) and taken up again with --resume; whenever it ends it
exports the averaged weights as a folder that septet and diffusers read.
"""

from __future__ import annotations

import argparse
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from septet.checkpoints import write_index, write_json
from septet.cli.judge import augment, load_digits
from septet.models import UNet2DModel
from training import (
    Training,
    add_noise,
    add_options,
    check_resume,
    spread_timesteps,
    train,
    warmup_then_cosine,
)

ROOT = Path(__file__).parents[1]
BATCH_SIZE = 64
LEARNING_RATE = 1e-3
AUGMENTATION = 0.6
NUM_TRAIN_TIMESTEPS = 1000

MODEL_CONFIG: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [32, 48, 64],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 8,
    "attention_head_dim": 16,
}
SCHEDULER_CONFIG: dict[str, Any] = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": NUM_TRAIN_TIMESTEPS,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "variance_type": "fixed_small",
    "prediction_type": "epsilon",
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "steps_offset": 0,
    "rescale_betas_zero_snr": False,
}


def start(seed: int) -> Training[UNet2DModel]:
    """Begin with random weights."""
    torch.manual_seed(seed)
    model = UNet2DModel(**MODEL_CONFIG).to(memory_format=torch.channels_last)
    return Training.start(model, seed=seed)


def noise_loss(training: Training[UNet2DModel], pixels: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Return the mean square error of the predicted noise.

    Args:
        training: Its generator chooses digits, timesteps and noise.
        pixels: ``[N, 1, 8, 8]`` in [0, 1], the digits to learn.
        alphas_cumprod: ``[num_train_timesteps]``.
    """
    generator = training.generator
    choice = torch.randint(len(pixels), (BATCH_SIZE,), generator=generator)
    images = augment(pixels[choice], generator, strength=AUGMENTATION) * 2 - 1
    noise = torch.randn(images.shape, generator=generator)
    timesteps = spread_timesteps(BATCH_SIZE, NUM_TRAIN_TIMESTEPS, generator)
    noisy = add_noise(images, noise, alphas_cumprod[timesteps])
    return F.mse_loss(training.model(noisy, timesteps).sample, noise)


def export(model: UNet2DModel, folder: Path) -> None:
    """Write the weights in half precision, with scheduler and index, as diffusers lays them out."""
    deepcopy(model).half().save_pretrained(folder / "unet")
    (folder / "scheduler").mkdir(exist_ok=True)
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER_CONFIG)
    components = {
        "unet": "UNet2DModel",
        "scheduler": "DDPMScheduler",
    }
    write_index(folder, "DDPMPipeline", components)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_options(
        parser,
        steps=6000,
        work=ROOT / "build/training/digits",
        output=ROOT / "python/septet/assets/digits",
    )
    arguments = parser.parse_args()
    checkpoint = arguments.work / "checkpoint.pt"
    check_resume(parser, checkpoint, resume=arguments.resume)
    training = start(arguments.seed)
    if arguments.resume:
        training.load(checkpoint)
    digits = load_digits()
    pixels = digits.pixels[digits.is_train]
    betas = torch.linspace(1e-4, 0.02, NUM_TRAIN_TIMESTEPS, dtype=torch.float64)
    products = (1 - betas).cumprod(0).float()

    def advance() -> dict[str, float]:
        loss = noise_loss(training, pixels, products)
        rate = LEARNING_RATE * warmup_then_cosine(training.step, arguments.steps)
        training.descend(loss, rate)
        return {"loss": float(loss.detach())}

    limits = {"num_steps": arguments.steps, "seconds": 60 * arguments.minutes}
    train(training, advance, checkpoint, **limits)
    export(training.averaged, arguments.output)
    print(f"step {training.step}: checkpoint {checkpoint}, exported to {arguments.output}")


if __name__ == "__main__":
    main()
