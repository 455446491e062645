"""Which training timesteps a sampler visits (Lin et al. 2023, table 2; GLIDE's respacing)."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Union

import numpy as np
import numpy.typing as npt

SPACINGS = ("leading", "linspace", "trailing")

#: How to choose timesteps in GLIDE: see :func:`respaced_timesteps`.
Respacing = Union[int, str, Sequence[int]]
#: What the authors found to need the fewest steps for the upsampler.
_FAST27 = (10, 10, 3, 2, 2)


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


def respaced_timesteps(num_train_timesteps: int, respacing: Respacing) -> list[int]:
    """Choose timesteps exactly as GLIDE and guided-diffusion do (Dhariwal and Nichol 2021).

    Args:
        num_train_timesteps: Number of training steps T.
        respacing: One of: a number, as many evenly spaced timesteps, both ends included; a list
            of numbers, so many in each of as many equal sections of the training steps; the same
            as a string, such as "250" or "10,10,3,2,2"; "ddimN", exactly N timesteps a whole
            number apart; "fast27", which is "10,10,3,2,2" with the noisiest timestep moved down
            by two.

    Returns:
        The timesteps, ascending.

    Raises:
        ValueError: If ``respacing`` is something else, or does not fit the training steps.
    """
    if isinstance(respacing, str) and respacing.startswith("ddim"):
        return _strided(num_train_timesteps, respacing)
    if respacing == "fast27":
        chosen = _sections(num_train_timesteps, _FAST27, respacing)
        return [*chosen[:-1], num_train_timesteps - 3]
    return _sections(num_train_timesteps, _section_counts(respacing), respacing)


def _section_counts(respacing: Respacing) -> list[int]:
    """Return the number of timesteps per section."""
    parts: Sequence[Any] = respacing.split(",") if isinstance(respacing, str) else [respacing]
    if isinstance(respacing, Sequence) and not isinstance(respacing, str):
        parts = respacing
    try:
        if any(isinstance(part, bool) for part in parts):
            raise TypeError
        counts = [int(p) if isinstance(p, str) else operator.index(p) for p in parts]
    except (TypeError, ValueError):
        counts = []
    if not counts or min(counts) < 0 or max(counts) == 0:
        raise ValueError(
            "respacing must be a number, a list of numbers, such numbers separated by commas, "
            f"'ddimN' or 'fast27', got {respacing!r}"
        )
    return counts


def _strided(num_train_timesteps: int, respacing: str) -> list[int]:
    text = respacing.removeprefix("ddim")
    count = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    for stride in range(1, num_train_timesteps):
        if len(range(0, num_train_timesteps, stride)) == count:
            return list(range(0, num_train_timesteps, stride))
    raise ValueError(
        f"respacing {respacing!r} does not fit: no whole stride through {num_train_timesteps} "
        "timesteps gives that many"
    )


def _sections(num_train_timesteps: int, counts: Sequence[int], respacing: Respacing) -> list[int]:
    size, larger = divmod(num_train_timesteps, len(counts))
    chosen: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        length = size + (section < larger)
        if count > length:
            raise ValueError(
                f"respacing {respacing!r} does not fit: a section of {length} of the "
                f"{num_train_timesteps} timesteps cannot give {count}"
            )
        stride = 1.0 if count <= 1 else (length - 1) / (count - 1)
        position = 0.0
        for _ in range(count):
            # summed and rounded half to even, as in the original
            chosen.append(start + round(position))
            position += stride
        start += length
    return chosen
