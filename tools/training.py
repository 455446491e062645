"""What the training scripts share: steps, moving averages, checkpoints, and stopping politely."""

from __future__ import annotations

import argparse
import math
import os
import signal
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

CHECKPOINT_SECONDS = 120
WARMUP_STEPS = 300
EMA_DECAY = 0.999


@dataclass
class Training:
    """Everything that a checkpoint keeps, and the peak of the learning rate.

    Attributes:
        model: The network being trained, or several in an ``nn.ModuleDict``.
        averaged: The same with the exponential moving average of the weights.
        optimizer: Of ``model``.
        generator: Source of all random choices but the initial weights.
        learning_rate: Its peak.
        step: Number of optimisation steps taken.
    """

    model: nn.Module
    averaged: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    learning_rate: float
    step: int = 0

    @classmethod
    def start(cls, model: nn.Module, learning_rate: float, seed: int) -> Training:
        """Begin with the weights that the model has."""
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
        averaged = deepcopy(model).requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        return cls(model, averaged, optimizer, generator, learning_rate)

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

    def advance(self, loss: Tensor, num_steps: int) -> None:
        """Take one optimisation step down a loss, of ``num_steps`` in total."""
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * schedule(self.step, num_steps)
        self.optimizer.step()
        self.step += 1
        # The average forgets faster at first, when the weights are still poor.
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        for mean, weight in zip(self.averaged.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(weight.detach(), 1 - decay)


def schedule(step: int, num_steps: int) -> float:
    """Rise linearly to 1, then fall along a half cosine to zero at ``num_steps``."""
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    return warmup * (1 + math.cos(math.pi * min(1.0, step / num_steps))) / 2


def spread_timesteps(count: int, num_train_timesteps: int, generator: torch.Generator) -> Tensor:
    """Draw evenly spaced timesteps with one random offset: every batch sees all noise levels."""
    offset = torch.rand((), generator=generator)
    spread = (torch.arange(count) / count + offset) % 1
    return (spread * num_train_timesteps).long().clamp(max=num_train_timesteps - 1)


def add_noise(sample: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Mix samples ``[B, ...]`` with noise, by the products of alphas ``[B]`` at their timesteps."""
    alphas = alphas_cumprod.reshape(-1, *[1] * (sample.ndim - 1))
    return alphas.sqrt() * sample + (1 - alphas).sqrt() * noise


def train(
    training: Training,
    loss: Callable[[Training], Tensor],
    checkpoint: Path,
    *,
    num_steps: int,
    seconds: float,
) -> None:
    """Train until the steps are done, the time is up or a signal asks to stop; then save."""
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
            value = loss(training)
            training.advance(value, num_steps)
            latest = float(value.detach())
            mean_loss = latest if math.isnan(mean_loss) else 0.98 * mean_loss + 0.02 * latest
            progress.update()
            progress.set_postfix(loss=f"{mean_loss:.4f}", refresh=False)
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                training.save(checkpoint)
                saved = time.monotonic()
    training.save(checkpoint)


def add_options(parser: argparse.ArgumentParser, *, steps: int) -> None:
    """Add the options that every training has."""
    parser.add_argument("--steps", type=int, default=steps, help="optimisation steps in total")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in the work folder"
    )


def resume(
    parser: argparse.ArgumentParser, training: Training, path: Path, *, wanted: bool
) -> None:
    """Load the checkpoint if it is wanted, and end with a message if that and its being differ."""
    if path.exists() and not wanted:
        parser.error(f"{path} exists: add --resume to go on from it, or delete it")
    if wanted and not path.exists():
        parser.error(f"{path} does not exist: leave out --resume to start")
    if wanted:
        training.load(path)
