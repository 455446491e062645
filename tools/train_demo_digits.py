"""Train the demo checkpoint: a small DDPM of handwritten digits.

A run can be stopped at any moment (Ctrl-C) and taken up again with --resume; whenever it ends it
exports the averaged weights as a folder that septet and diffusers read.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import time
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from septet.checkpoints import write_index, write_json
from septet.cli.judge import augment, load_digits
from septet.models import UNet2DModel

ROOT = Path(__file__).parents[1]
CHECKPOINT_SECONDS = 120
BATCH_SIZE = 64
LEARNING_RATE = 1e-3
WARMUP_STEPS = 300
EMA_DECAY = 0.999
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


@dataclass
class Training:
    """Everything that a checkpoint keeps."""

    model: UNet2DModel
    averaged: UNet2DModel
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    step: int = 0

    @classmethod
    def start(cls, seed: int) -> Training:
        """Begin with random weights."""
        torch.manual_seed(seed)
        model = UNet2DModel(**MODEL_CONFIG)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
        averaged = deepcopy(model).requires_grad_(False)
        return cls(model, averaged, optimizer, torch.Generator().manual_seed(seed))

    def save(self, path: Path) -> None:
        """Write a checkpoint; it replaces the last one only once it is complete."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        state = {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
        }
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def load(self, path: Path) -> None:
        """Go back to a checkpoint."""
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.step = state["step"]

    def advance(self, pixels: Tensor, alphas_cumprod: Tensor, num_steps: int) -> float:
        """Take one optimisation step and return its loss.

        Args:
            pixels: ``[N, 1, 8, 8]`` in [0, 1], the digits to learn.
            alphas_cumprod: ``[num_train_timesteps]``.
            num_steps: Length of the learning-rate schedule.
        """
        choice = torch.randint(len(pixels), (BATCH_SIZE,), generator=self.generator)
        images = augment(pixels[choice], self.generator, strength=AUGMENTATION) * 2 - 1
        noise = torch.randn(images.shape, generator=self.generator)
        # One random offset for evenly spaced timesteps: every batch sees all noise levels.
        offset = torch.rand((), generator=self.generator)
        spread = (torch.arange(BATCH_SIZE) / BATCH_SIZE + offset) % 1
        timesteps = (spread * NUM_TRAIN_TIMESTEPS).long().clamp(max=NUM_TRAIN_TIMESTEPS - 1)
        signal_part = alphas_cumprod[timesteps].sqrt()[:, None, None, None]
        noise_part = (1 - alphas_cumprod[timesteps]).sqrt()[:, None, None, None]
        prediction = self.model(signal_part * images + noise_part * noise, timesteps).sample
        loss = (prediction - noise).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, num_steps)
        self.optimizer.step()
        self.step += 1
        # The average forgets faster at first, when the weights are still poor.
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        for mean, weight in zip(self.averaged.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(weight.detach(), 1 - decay)
        return float(loss.detach())


def learning_rate(step: int, num_steps: int) -> float:
    """Rise linearly, then fall along a half cosine to zero at ``num_steps``."""
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    return LEARNING_RATE * warmup * (1 + math.cos(math.pi * min(1.0, step / num_steps))) / 2


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


def train(training: Training, checkpoint: Path, *, num_steps: int, seconds: float) -> None:
    """Train until the steps are done, the time is up or a signal asks to stop; then save."""
    digits = load_digits()
    pixels = digits.pixels[digits.is_train]
    betas = torch.linspace(1e-4, 0.02, NUM_TRAIN_TIMESTEPS, dtype=torch.float64)
    alphas_cumprod = (1 - betas).cumprod(0).float()
    stopped = False

    def stop(_signal: int, _frame: object) -> None:
        nonlocal stopped
        stopped = True

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, stop)
    started = saved = time.monotonic()
    mean_loss = math.nan
    with tqdm(total=num_steps, initial=training.step, mininterval=5) as progress:
        while training.step < num_steps and time.monotonic() - started < seconds and not stopped:
            loss = training.advance(pixels, alphas_cumprod, num_steps)
            mean_loss = loss if math.isnan(mean_loss) else 0.98 * mean_loss + 0.02 * loss
            progress.update()
            progress.set_postfix(loss=f"{mean_loss:.4f}", refresh=False)
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                training.save(checkpoint)
                saved = time.monotonic()
    training.save(checkpoint)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=6000, help="optimisation steps in total")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in the work folder"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "build/training/digits")
    parser.add_argument("--output", type=Path, default=ROOT / "python/septet/assets/digits")
    arguments = parser.parse_args()
    checkpoint = arguments.work / "checkpoint.pt"
    if checkpoint.exists() and not arguments.resume:
        parser.error(f"{checkpoint} exists: add --resume to go on from it, or delete it")
    if arguments.resume and not checkpoint.exists():
        parser.error(f"{checkpoint} does not exist: leave out --resume to start")
    training = Training.start(arguments.seed)
    if arguments.resume:
        training.load(checkpoint)
    seconds = 60 * arguments.minutes
    train(training, checkpoint, num_steps=arguments.steps, seconds=seconds)
    export(training.averaged, arguments.output)
    print(f"step {training.step}: checkpoint {checkpoint}, exported to {arguments.output}")


if __name__ == "__main__":
    main()
