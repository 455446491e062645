"""What the trainings of the demo's networks share: state, checkpoints, averaging, the loop."""

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
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

CHECKPOINT_SECONDS = 120
LOG_SECONDS = 60

NetworkT = TypeVar("NetworkT", bound=nn.Module)


@dataclass
class Training(Generic[NetworkT]):
    """Everything that a checkpoint keeps, and how a step changes it.

    Attributes:
        model: The network as it learns.
        averaged: Its exponential moving average.
        optimizer: Of the model's parameters.
        generator: The source of all randomness that a step draws explicitly.
        learning_rate: Its peak.
        warmup_steps: How many steps the learning rate takes to rise to it.
        ema_decay: How much of the average a step keeps.
        ema_restart: From this step on the average begins anew, because parts of the model that
            did not learn before do so now.
        step: Steps taken so far.
    """

    model: NetworkT
    averaged: NetworkT
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    learning_rate: float
    warmup_steps: int = 500
    ema_decay: float = 0.999
    ema_restart: int = 0
    step: int = 0

    @classmethod
    def start(
        cls, model: NetworkT, *, learning_rate: float, seed: int, weight_decay: float = 0.01
    ) -> Training[NetworkT]:
        """Begin with a network's weights as they are."""
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=learning_rate, weight_decay=weight_decay
        )
        averaged = deepcopy(model).eval().requires_grad_(False)
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

    def descend(self, loss: Tensor, parts: Sequence[nn.Module], num_steps: int) -> None:
        """Take one optimisation step.

        Args:
            loss: What to make smaller.
            parts: Parts of the model whose gradients are clipped, each by itself.
            num_steps: Length of the learning-rate schedule.
        """
        self.optimizer.zero_grad()
        loss.backward()
        for part in parts:
            torch.nn.utils.clip_grad_norm_(part.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * self._schedule(num_steps)
        self.optimizer.step()
        self.step += 1
        # The average forgets faster at first, when the weights are still poor.
        averaged = self.step - (self.ema_restart if self.step > self.ema_restart else 0)
        decay = min(self.ema_decay, (1 + averaged) / (10 + averaged))
        for mean, weight in zip(self.averaged.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(weight.detach(), 1 - decay)

    def _schedule(self, num_steps: int) -> float:
        """Rise linearly, then fall along a half cosine to zero at ``num_steps``."""
        warmup = min(1.0, (self.step + 1) / self.warmup_steps)
        return warmup * (1 + math.cos(math.pi * min(1.0, self.step / num_steps))) / 2


def run(
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
        losses = advance()
        means = {k: 0.98 * means.get(k, v) + 0.02 * v for k, v in losses.items()}
        now = time.monotonic()
        if now - logged > LOG_SECONDS:
            logged = now
            pace = (now - started) / (training.step - first)
            text = " ".join(f"{name}={mean:.4f}" for name, mean in means.items())
            print(f"step {training.step}/{num_steps} {pace:.2f} s/step {text}", flush=True)
        if now - saved > CHECKPOINT_SECONDS:
            training.save(checkpoint)
            saved = now
    training.save(checkpoint)


def command_line(
    description: str, *, steps: int, work: Path, output: Path, data: Path
) -> argparse.Namespace:
    """Read the arguments that all trainings have, and complain about a contradiction."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--steps", type=int, default=steps, help="optimisation steps in total")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in the work folder"
    )
    parser.add_argument("--work", type=Path, default=work)
    parser.add_argument("--output", type=Path, default=output)
    parser.add_argument("--data", type=Path, default=data, help="folder of the prepared data")
    arguments = parser.parse_args()
    arguments.checkpoint = arguments.work / "checkpoint.pt"
    if arguments.checkpoint.exists() and not arguments.resume:
        parser.error(f"{arguments.checkpoint} exists: add --resume to go on, or delete it")
    if arguments.resume and not arguments.checkpoint.exists():
        parser.error(f"{arguments.checkpoint} does not exist: leave out --resume to start")
    return arguments
