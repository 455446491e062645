"""What the training scripts share: state, checkpoints, averaging, the loop, the command line."""

from __future__ import annotations

import argparse
import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

CHECKPOINT_SECONDS = 120
LOG_SECONDS = 60
EMA_DECAY = 0.999
#: How much of the running mean of a loss a step keeps.
LOSS_DECAY = 0.98

NetworkT = TypeVar("NetworkT", bound=nn.Module)


@dataclass
class Training(Generic[NetworkT]):
    """Everything that a checkpoint keeps, and how a step changes it.

    Attributes:
        model: The network as it learns, or several in one module.
        averaged: The same with the exponential moving average of the weights.
        optimizer: Of the model's parameters.
        generator: Source of all random choices but the initial weights and dropout.
        ema_restart: From this step on the average begins anew, because parts of the model that
            did not learn before do so now.
        step: Optimisation steps taken so far.
    """

    model: NetworkT
    averaged: NetworkT
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    ema_restart: int = 0
    step: int = 0

    @classmethod
    def start(
        cls, model: NetworkT, *, seed: int, ema_restart: int = 0, **optimizer: Any
    ) -> Training[NetworkT]:
        """Begin with a network's weights as they are.

        Args:
            model: The network.
            seed: Of the generator.
            ema_restart: See :class:`Training`.
            **optimizer: Options of AdamW; the learning rate is given at each step.
        """
        averaged = deepcopy(model).eval().requires_grad_(False)
        adam = torch.optim.AdamW(model.parameters(), weight_decay=0.01, **optimizer)
        generator = torch.Generator().manual_seed(seed)
        return cls(model, averaged, adam, generator, ema_restart)

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

    def descend(
        self, loss: Tensor, learning_rate: float, parts: Sequence[nn.Module] | None = None
    ) -> None:
        """Take one optimisation step.

        Args:
            loss: What to make smaller.
            learning_rate: Of this step.
            parts: Parts of the model whose gradients are clipped, each by itself; None clips the
                gradients of the whole model as one.
        """
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        for part in parts or [self.model]:
            nn.utils.clip_grad_norm_(part.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.step += 1
        # The average forgets faster at first, when the weights are still poor.
        averaged = self.step - (self.ema_restart if self.step > self.ema_restart else 0)
        decay = min(EMA_DECAY, (1 + averaged) / (10 + averaged))
        for mean, weight in zip(self.averaged.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(weight.detach(), 1 - decay)


def load_averaged(model: nn.Module, checkpoint: Path) -> nn.Module:
    """Load the moving average of a training's weights."""
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["averaged"])
    return model.eval()


def warmup_then_cosine(step: int, num_steps: int, warmup_steps: int = 300) -> float:
    """Rise linearly to 1, then fall along a half cosine to zero at ``num_steps``."""
    warmup = min(1.0, (step + 1) / warmup_steps)
    return warmup * (1 + math.cos(math.pi * min(1.0, step / num_steps))) / 2


def spread(count: int, generator: torch.Generator) -> Tensor:
    """Draw evenly spaced numbers in [0, 1), ``[count]``, with one random offset.

    As times of a batch they show it all noise levels.
    """
    offset = torch.rand((), generator=generator)
    return (torch.arange(count) / count + offset) % 1


def spread_timesteps(count: int, num_train_timesteps: int, generator: torch.Generator) -> Tensor:
    """Draw evenly spaced timesteps with one random offset."""
    timesteps = (spread(count, generator) * num_train_timesteps).long()
    return timesteps.clamp(max=num_train_timesteps - 1)


def add_noise(sample: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Mix samples ``[B, ...]`` with noise, by the products of alphas ``[B]`` at their timesteps."""
    alphas = alphas_cumprod.reshape(-1, *[1] * (sample.ndim - 1))
    return alphas.sqrt() * sample + (1 - alphas).sqrt() * noise


def train(
    training: Training[NetworkT],
    advance: Callable[[], dict[str, float]],
    checkpoint: Path,
    *,
    num_steps: int,
    seconds: float,
) -> None:
    """Train until the steps are done, the time is up or a signal asks to stop; then save.

    Args:
        training: What is trained.
        advance: Takes one step and returns its losses by name; their running means are printed.
        checkpoint: Written every two minutes and at the end.
        num_steps: Steps in total, those of earlier runs included.
        seconds: Time of this run.
    """
    stopped = False

    def stop(_signal: int, _frame: object) -> None:
        nonlocal stopped
        stopped = True

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, stop)
    started = saved = logged = time.monotonic()
    first = training.step
    means: dict[str, float] = {}
    while training.step < num_steps and time.monotonic() - started < seconds and not stopped:
        means = {
            name: LOSS_DECAY * means.get(name, loss) + (1 - LOSS_DECAY) * loss
            for name, loss in advance().items()
        }
        now = time.monotonic()
        if now - logged > LOG_SECONDS:
            pace = (now - started) / (training.step - first)
            text = " ".join(f"{name}={mean:.4f}" for name, mean in means.items())
            print(f"step {training.step}/{num_steps} {pace:.2f} s/step {text}", flush=True)
            logged = now
        if now - saved > CHECKPOINT_SECONDS:
            training.save(checkpoint)
            saved = now
    training.save(checkpoint)


def add_options(
    parser: argparse.ArgumentParser, *, steps: int, work: Path, output: Path | None = None
) -> None:
    """Add the options that every training has, with these defaults."""
    parser.add_argument("--steps", type=int, default=steps, help="optimisation steps in total")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in the work folder"
    )
    parser.add_argument("--work", type=Path, default=work, help="folder of the checkpoints")
    place = str(output or "export in the work folder")
    parser.add_argument(
        "--output", type=Path, default=output, help=f"folder to export to ({place})"
    )


def check_resume(parser: argparse.ArgumentParser, checkpoint: Path, *, resume: bool) -> None:
    """End with a message if the checkpoint to go on from is missing, or one would be lost."""
    if checkpoint.exists() and not resume:
        parser.error(f"{checkpoint} exists: add --resume to go on from it, or delete it")
    if resume and not checkpoint.exists():
        parser.error(f"{checkpoint} does not exist: leave out --resume to start")
