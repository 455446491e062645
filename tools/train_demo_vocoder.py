"""Train the demo's vocoder: a small DiffWave that turns mel spectrograms into telephone speech.

A run can be stopped at any moment (Ctrl-C) and taken up again with --resume; whenever it ends it
exports the averaged weights as a folder that septet reads. Run tools/speech_data.py first.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import time
from copy import deepcopy
from dataclasses import dataclass
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

ROOT = Path(__file__).parents[1]
CHECKPOINT_SECONDS = 120
CROP_FRAMES = 40
LEARNING_RATE = 1e-3
WARMUP_STEPS = 300
#: From this step on the rate falls as 1 / sqrt(step): a run has no end that must be known before.
DECAY_STEPS = 4000
EMA_DECAY = 0.999
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


@dataclass
class Training:
    """Everything that a checkpoint keeps."""

    model: DiffWaveModel
    averaged: DiffWaveModel
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    step: int = 0

    @classmethod
    def start(cls, seed: int, crops: Crops) -> Training:
        """Begin with random weights."""
        torch.manual_seed(seed)
        model = DiffWaveModel(**MODEL_CONFIG)
        interpolate_spectrograms(model, crops.mels)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01
        )
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

    def advance(self, crops: Crops, alphas: Tensor, batch_size: int) -> float:
        """Take one optimisation step and return its loss.

        The loss is that of WaveGrad and BDDM: the absolute error of the predicted noise, here at
        any noise level, not only those of whole timesteps.

        Args:
            crops: The recordings.
            alphas: ``[T]``, the signal's factor at every timestep.
            batch_size: Pieces of recordings to learn from.
        """
        waveforms, mels = crops.draw(batch_size, self.generator)
        noise = torch.randn(waveforms.shape, generator=self.generator)
        # One random offset for evenly spaced timesteps: every batch sees all noise levels.
        offset = torch.rand((), generator=self.generator)
        spread = (torch.arange(len(waveforms)) / len(waveforms) + offset) % 1
        timesteps = (len(alphas) - 1) * spread**TIMESTEP_SKEW
        below = timesteps.long().clamp(max=len(alphas) - 2)
        signal_part = torch.lerp(alphas[below], alphas[below + 1], timesteps - below)
        noise_part = (1 - signal_part**2).sqrt()
        noisy = signal_part[:, None, None] * waveforms + noise_part[:, None, None] * noise
        # Half the bits take two thirds of the time, and the loss does not show the difference.
        with torch.autocast("cpu", torch.bfloat16):
            prediction = self.model(noisy, timesteps, mels).sample
        loss = (prediction.float() - noise).abs().mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step)
        self.optimizer.step()
        self.step += 1
        # The average forgets faster at first, when the weights are still poor.
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        for mean, weight in zip(self.averaged.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(weight.detach(), 1 - decay)
        return float(loss.detach())


def learning_rate(step: int) -> float:
    """Rise linearly, stay, then fall with the square root of the step."""
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    return LEARNING_RATE * warmup * math.sqrt(min(1.0, DECAY_STEPS / (step + 1)))


def export(model: DiffWaveModel, folder: Path) -> None:
    """Write a vocoder with the weights in half precision."""
    scheduler = BDDMScheduler(num_train_timesteps=NUM_TRAIN_TIMESTEPS)
    BDDMPipeline(deepcopy(model).half(), scheduler).save_pretrained(folder)


def train(
    training: Training,
    crops: Crops,
    work: Path,
    *,
    batch_size: int,
    num_steps: int,
    seconds: float,
) -> None:
    """Train until the steps are done, the time is up or a signal asks to stop; then save."""
    betas = torch.linspace(1e-4, 0.02, NUM_TRAIN_TIMESTEPS, dtype=torch.float64)
    alphas = (1 - betas).cumprod(0).sqrt().float()
    stopped = False

    def stop(_signal: int, _frame: object) -> None:
        nonlocal stopped
        stopped = True

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, stop)
    started = saved = time.monotonic()
    mean_loss = math.nan
    while training.step < num_steps and time.monotonic() - started < seconds and not stopped:
        loss = training.advance(crops, alphas, batch_size)
        mean_loss = loss if math.isnan(mean_loss) else 0.99 * mean_loss + 0.01 * loss
        now = time.monotonic()
        if now - saved > CHECKPOINT_SECONDS:
            training.save(work / "checkpoint.pt")
            line = {"step": training.step, "loss": round(mean_loss, 5), "s": round(now - started)}
            with (work / "log.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            saved = now
    training.save(work / "checkpoint.pt")
    print(f"step {training.step}: loss {mean_loss:.4f}, checkpoint in {work}")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=200_000, help="optimisation steps in total")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this time")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in the work folder"
    )
    parser.add_argument("--data", type=Path, default=OUTPUT)
    parser.add_argument("--work", type=Path, default=ROOT / "build/training/vocoder")
    parser.add_argument("--output", type=Path, help="folder to export to, by default in --work")
    arguments = parser.parse_args()
    checkpoint = arguments.work / "checkpoint.pt"
    if checkpoint.exists() and not arguments.resume:
        parser.error(f"{checkpoint} exists: add --resume to go on from it, or delete it")
    if arguments.resume and not checkpoint.exists():
        parser.error(f"{checkpoint} does not exist: leave out --resume to start")
    crops = Crops(arguments.data)
    training = Training.start(arguments.seed, crops)
    if arguments.resume:
        training.load(checkpoint)
    arguments.work.mkdir(parents=True, exist_ok=True)
    seconds = 60 * arguments.minutes
    train(
        training,
        crops,
        arguments.work,
        batch_size=arguments.batch_size,
        num_steps=arguments.steps,
        seconds=seconds,
    )
    output = arguments.output or arguments.work / "export"
    export(training.averaged, output)
    print(f"exported to {output}")


if __name__ == "__main__":
    main()
