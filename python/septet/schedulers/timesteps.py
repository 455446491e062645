"""Which training timesteps a sampler visits (Lin et al. 2023, table 2)."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import numpy.typing as npt

SPACINGS = ("leading", "linspace", "trailing")


def check_num_inference_steps(num_inference_steps: Any, num_train_timesteps: int) -> int:
    """Return the number of steps as an int.

    Raises:
        ValueError: If it is no integer from 1 to ``num_train_timesteps``.
    """
    try:
        steps = operator.index(num_inference_steps)
    except TypeError:
        steps = 0
    if isinstance(num_inference_steps, bool) or not 1 <= steps <= num_train_timesteps:
        raise ValueError(
            f"num_inference_steps must be an integer from 1 to {num_train_timesteps}, the number "
            f"of training steps, got {num_inference_steps!r}"
        )
    return steps


def spaced_timesteps(
    spacing: str, num_train_timesteps: int, num_inference_steps: int, steps_offset: int
) -> npt.NDArray[np.int64]:
    """Choose timesteps exactly as diffusers 0.42 does, but never a negative one.

    Args:
        spacing: One of :data:`SPACINGS`. "leading" counts up from ``steps_offset``, "trailing"
            down from the last training step, "linspace" includes both ends; only "leading" looks
            at the offset.
        num_train_timesteps: Number of training steps T.
        num_inference_steps: Number of timesteps wanted, 1 to T.
        steps_offset: Added to every timestep.

    Returns:
        ``[num_inference_steps]`` int64, ascending.
    """
    if spacing == "linspace":
        chosen = np.linspace(0, num_train_timesteps - 1, num_inference_steps).round()
    elif spacing == "leading":
        stride = num_train_timesteps // num_inference_steps
        chosen = np.arange(num_inference_steps) * stride + steps_offset
    else:
        step = num_train_timesteps / num_inference_steps
        # rounding of the stride can append a timestep of -1 (T = 1000, N = 61); diffusers keeps it
        counted = np.arange(num_train_timesteps, 0, -step)[:num_inference_steps]
        chosen = np.round(counted)[::-1] - 1
    ascending: npt.NDArray[np.int64] = chosen.astype(np.int64)
    return ascending
