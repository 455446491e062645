"""Train the demo's vocoder: a small DiffWave that turns mel spectrograms into telephone speech.

A run can be stopped at any moment (Ctrl-C) and taken up again with --resume; whenever it ends it
exports the averaged weights as a folder that septet reads. Run tools/speech_data.py first.
"""

from __future__ import annotations

import argparse
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from septet.audio import log_mel_spectrogram
from septet.models import DiffWaveModel
from septet.pipelines import BDDMPipeline
from septet.schedulers import BDDMScheduler
from speech_data import MEL, OUTPUT, load_clips
from training import Training, add_options, check_resume, spread, train

ROOT = Path(__file__).parents[1]
CROP_FRAMES = 40
LEARNING_RATE = 1e-3
WARMUP_STEPS = 300
#: From this step on the rate falls as 1 / sqrt(step): a run has no end that must be known before.
DECAY_STEPS = 4000
NUM_TRAIN_TIMESTEPS = 200
#: Timesteps are drawn as T u**this: short schedules spend half their steps at low noise.
TIMESTEP_SKEW = 1.5

MODEL_CONFIG: dict[str, Any] = {
    "res_channels": 128,
    "skip_channels": 128,
    "num_res_layers": 12,
    "dilation_cycle": 6,
    "diffusion_step_embed_dim_in": 128,
    "diffusion_step_embed_dim_mid": 256,
    "diffusion_step_embed_dim_out": 256,
    "num_mels": MEL.num_mels,
    "upsample_factors": [5, 2],
    "group_size": 10,
    "sampling_rate": MEL.sampling_rate,
    "n_fft": MEL.n_fft,
    "win_length": MEL.win_length,
    "fmin": MEL.fmin,
    "fmax": MEL.fmax,
}


class Crops:
    """Random pieces of the recordings, each as long as the others.

    Args:
        folder: What tools/speech_data.py wrote.
    """

    def __init__(self, folder: Path) -> None:
        self.waveforms: list[Tensor] = []
        self.mels: list[Tensor] = []
        for clip in load_clips(folder):
            if clip.held_out:
                continue
            waveform = clip.waveform(folder)
            shortest = (CROP_FRAMES + 1) * MEL.hop_length
            waveform = F.pad(waveform, (0, max(0, shortest - len(waveform))))
            self.waveforms.append(waveform)
            self.mels.append(log_mel_spectrogram(waveform, MEL))
        self.weights = torch.tensor([float(len(w)) for w in self.waveforms])

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return ``[B, 1, samples]`` waveforms and their ``[B, num_mels, CROP_FRAMES]``."""
        waveforms, mels = [], []
        for index in torch.multinomial(
            self.weights, count, replacement=True, generator=generator
        ).tolist():
            last = len(self.waveforms[index]) // MEL.hop_length - CROP_FRAMES
            start = int(torch.randint(last + 1, (), generator=generator))
            samples = slice(start * MEL.hop_length, (start + CROP_FRAMES) * MEL.hop_length)
            waveforms.append(self.waveforms[index][None, samples])
            mels.append(self.mels[index][:, start : start + CROP_FRAMES])
        return torch.stack(waveforms), torch.stack(mels)


def interpolate_spectrograms(model: DiffWaveModel, mels: list[Tensor]) -> None:
    """Let the network start with stretched spectrograms that are interpolated and normalised.

    With random kernels the layers would first have to learn to read them.
    """
    values = torch.cat([mel.flatten() for mel in mels])
    mean, deviation = float(values.mean()), float(values.std())
    with torch.no_grad():
        for layer in model.residual_layer.layers:
            for index, conv in enumerate(layer.upsample_conv2d):
                factor = conv.stride[1]
                taps = torch.arange(2 * factor) + 0.5
                conv.weight.zero_()
                conv.weight[0, 0, 1] = 1 - (taps - factor).abs() / factor
                conv.bias.zero_()
                if index == 0:
                    conv.weight /= deviation
                    conv.bias -= mean / deviation


def start(seed: int, crops: Crops) -> Training[DiffWaveModel]:
    """Begin with random weights that read spectrograms well."""
    torch.manual_seed(seed)
    model = DiffWaveModel(**MODEL_CONFIG)
    interpolate_spectrograms(model, crops.mels)
    return Training.start(model, seed=seed, betas=(0.9, 0.99))


def noise_loss(
    training: Training[DiffWaveModel], crops: Crops, alphas: Tensor, batch_size: int
) -> Tensor:
    """Return the absolute error of the predicted noise, as in WaveGrad and BDDM.

    Here it is at any noise level, not only those of whole timesteps.

    Args:
        training: Its generator chooses recordings, timesteps and noise.
        crops: The recordings.
        alphas: ``[T]``, the signal's factor at every timestep.
        batch_size: Pieces of recordings to learn from.
    """
    generator = training.generator
    waveforms, mels = crops.draw(batch_size, generator)
    noise = torch.randn(waveforms.shape, generator=generator)
    timesteps = (len(alphas) - 1) * spread(len(waveforms), generator) ** TIMESTEP_SKEW
    below = timesteps.long().clamp(max=len(alphas) - 2)
    signal_part = torch.lerp(alphas[below], alphas[below + 1], timesteps - below)
    noise_part = (1 - signal_part**2).sqrt()
    noisy = signal_part[:, None, None] * waveforms + noise_part[:, None, None] * noise
    # Half the bits take two thirds of the time, and the loss does not show the difference.
    with torch.autocast("cpu", torch.bfloat16):
        prediction = training.model(noisy, timesteps, mels).sample
    return (prediction.float() - noise).abs().mean()


def learning_rate(step: int) -> float:
    """Rise linearly, stay, then fall with the square root of the step."""
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    return LEARNING_RATE * warmup * math.sqrt(min(1.0, DECAY_STEPS / (step + 1)))


def export(model: DiffWaveModel, folder: Path) -> None:
    """Write a vocoder with the weights in half precision."""
    scheduler = BDDMScheduler(num_train_timesteps=NUM_TRAIN_TIMESTEPS)
    BDDMPipeline(deepcopy(model).half(), scheduler).save_pretrained(folder)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_options(parser, steps=200_000, work=ROOT / "build/training/vocoder")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--data", type=Path, default=OUTPUT, help="folder of the prepared data")
    arguments = parser.parse_args()
    checkpoint = arguments.work / "checkpoint.pt"
    check_resume(parser, checkpoint, resume=arguments.resume)
    crops = Crops(arguments.data)
    training = start(arguments.seed, crops)
    if arguments.resume:
        training.load(checkpoint)
    betas = torch.linspace(1e-4, 0.02, NUM_TRAIN_TIMESTEPS, dtype=torch.float64)
    alphas = (1 - betas).cumprod(0).sqrt().float()

    def advance() -> dict[str, float]:
        loss = noise_loss(training, crops, alphas, arguments.batch_size)
        training.descend(loss, learning_rate(training.step))
        return {"loss": float(loss.detach())}

    limits = {"num_steps": arguments.steps, "seconds": 60 * arguments.minutes}
    train(training, advance, checkpoint, **limits)
    output = arguments.output or arguments.work / "export"
    export(training.averaged, output)
    print(f"step {training.step}: checkpoint {checkpoint}, exported to {output}")


if __name__ == "__main__":
    main()
