"""Short noise schedules for BDDM: found by a search, published by its authors, or given."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from septet.config import brief
from septet.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

MAX_STEPS = 1000

# The authors' schedules, for networks trained with T = 200 and betas from 1e-4 to 0.02. The
# timesteps are kept as published: derived from the rounded betas they differ in the fourth digit.
_PUBLISHED = {
    "lj-12": (
        (0.12038140743970871, 3.0703554153442383, 11.572979927062988, 44.617923736572266,
         70.71846008300781, 90.70243072509766, 107.87928009033203, 123.3707275390625,
         137.7254180908203, 151.2566375732422, 164.16639709472656, 176.59359741210938),
        (0.00012411805801093578, 0.0009108744561672211, 0.0074848937802016735,
         0.0933118537068367, 0.14349496364593506, 0.15208084881305695, 0.15970604121685028,
         0.16682913899421692, 0.17371276021003723, 0.18044927716255188, 0.18713615834712982,
         0.19382314383983612),
    ),
    "lj-7": (
        (0.17818832397460938, 3.2909610271453857, 12.613082885742188, 54.323978424072266,
         96.44412994384766, 126.50244140625, 151.69204711914062),
        (0.00013559394574258476, 0.0010096001205965877, 0.008778375573456287,
         0.13596367835998535, 0.27755701541900635, 0.2893098294734955, 0.30000001192092896),
    ),
    "vctk-8": (
        (1.1816375255584717, 3.153350830078125, 5.641834259033203, 9.051384925842285,
         13.811037063598633, 20.59091567993164, 30.359878540039062, 133.14947509765625),
        (0.0003544672508724034, 0.0007220751140266657, 0.0014719057362526655,
         0.0030041460413485765, 0.006144929211586714, 0.012615003623068333,
         0.026042096316814423, 0.5767547488212585),
    ),
}  # fmt: skip

#: Names that stand for a schedule of the authors: the data they trained on, the number of steps.
PUBLISHED_SCHEDULES = tuple(_PUBLISHED)


@dataclass(frozen=True)
class NoiseSchedule:
    """The noise of every step of a short process, and what the network is told there.

    Args:
        betas: Variances added by the steps, increasing, in (0, 1); the first step, the least
            noisy one, comes first.
        timesteps: Where these noise levels lie among the training steps, not decreasing,
            fractions count.

    Raises:
        ValueError: If the lengths differ, or the values are out of range or do not increase.
    """

    betas: tuple[float, ...]
    timesteps: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the values."""
        _check_betas(self.betas)
        _check_timesteps(self.timesteps)
        if len(self.betas) != len(self.timesteps):
            raise ValueError(
                f"a noise schedule needs as many timesteps as betas, got {len(self.timesteps)} "
                f"and {len(self.betas)}"
            )

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.betas)

    @classmethod
    def from_betas(
        cls, betas: Sequence[float], train_alphas: npt.NDArray[np.float32]
    ) -> NoiseSchedule:
        """Complete a schedule with its timesteps.

        Args:
            betas: See the class.
            train_alphas: See :func:`noise_level_to_timestep`.

        Raises:
            ValueError: See the class.
        """
        values = as_floats("betas", betas)
        _check_betas(values)
        alphas = signal_factors(torch.tensor(values, dtype=torch.float32))
        timesteps = [noise_level_to_timestep(float(alpha), train_alphas) for alpha in alphas]
        # float32 like the authors', so that they are the same as in a file
        return cls(values, tuple(float(np.float32(timestep)) for timestep in timesteps))

    @classmethod
    def published(cls, name: str) -> NoiseSchedule:
        """Return a schedule of the authors.

        Args:
            name: One of :data:`PUBLISHED_SCHEDULES`.

        Raises:
            ValueError: If there is none of this name.
        """
        if name not in _PUBLISHED:
            raise ValueError(
                f"schedule must be one of {PUBLISHED_SCHEDULES}, a .ns file, betas or a "
                f"NoiseSchedule, got {brief(name)}"
            )
        timesteps, betas = _PUBLISHED[name]
        return cls(betas, timesteps)

    @classmethod
    def from_file(cls, path: Path) -> NoiseSchedule:
        """Read a ``.ns`` file of the authors' search.

        Args:
            path: What torch saved of ``(timesteps, alphas, betas, sigmas)``; the second and the
                last follow from the betas.

        Raises:
            CheckpointError: If the file is missing, damaged, would run code, or holds no schedule.
        """
        from septet.checkpoints.tensors import read_pickled

        content = read_pickled(path)
        if not isinstance(content, tuple | list) or len(content) != 4:
            raise CheckpointError(f"{path}: expected (timesteps, alphas, betas, sigmas)")
        columns: list[tuple[float, ...]] = []
        for tensor in (content[0], content[2]):
            if not isinstance(tensor, Tensor) or tensor.ndim != 1 or len(tensor) > MAX_STEPS:
                raise CheckpointError(
                    f"{path}: expected timesteps and betas of at most {MAX_STEPS} steps"
                )
            columns.append(tuple(float(value) for value in tensor))
        try:
            return cls(columns[1], columns[0])
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error


def signal_factors(betas: Tensor) -> npt.NDArray[np.float32]:
    """Return the square roots of ``alphas_cumprod``, rounded like the authors'.

    Args:
        betas: ``[N]`` float32 on the CPU.
    """
    # torch.cumprod accumulates in float64; torch's root is not always numpy's
    alphas_cumprod = np.multiply.accumulate((1 - betas).numpy())
    factors: npt.NDArray[np.float32] = torch.from_numpy(alphas_cumprod).sqrt().numpy()
    return factors


def noise_level_to_timestep(alpha: float, train_alphas: npt.NDArray[np.float32]) -> float:
    """Find where a noise level lies among the training steps (BDDM, algorithm 3).

    Args:
        alpha: Square root of ``alphas_cumprod``, the signal's factor.
        train_alphas: ``[T]`` the same of the training steps, decreasing.

    Returns:
        A timestep from 0 to T - 1, interpolated linearly between neighbours, in float32 like the
        authors'.
    """
    last = len(train_alphas) - 1
    level = np.float32(alpha)
    if level < train_alphas[last]:
        return float(last)
    if level > train_alphas[0]:
        return 0.0
    if not last:
        return 0.0
    # the first of two, where the level is that of a training step
    below = int(np.argmax(train_alphas[1:] <= level))
    upper, lower = train_alphas[below], train_alphas[below + 1]
    return below + float((upper - level) / (upper - lower))


def as_floats(name: str, values: Any) -> tuple[float, ...]:
    """Return numbers of a list, array or tensor as a tuple.

    Raises:
        ValueError: If it is something else, or too long.
    """
    entries = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(entries, list | tuple) or not all(
        isinstance(entry, int | float) and not isinstance(entry, bool) for entry in entries
    ):
        raise ValueError(f"{name} must be a list of numbers, got {brief(values)}")
    if not 1 <= len(entries) <= MAX_STEPS:
        raise ValueError(f"{name} must have 1 to {MAX_STEPS} entries, got {len(entries)}")
    return tuple(float(entry) for entry in entries)


def _check_betas(betas: Sequence[float]) -> None:
    in_range = betas and all(0 < beta < 1 for beta in betas)
    if not in_range or any(a >= b for a, b in itertools.pairwise(betas)):
        raise ValueError(
            f"betas of a noise schedule must lie in (0, 1) and increase, got {brief(betas)}"
        )


def _check_timesteps(timesteps: Sequence[float]) -> None:
    in_range = timesteps and all(0 <= timestep < math.inf for timestep in timesteps)
    # Equal ones are fine: all levels beyond those of training share its first or last timestep.
    if not in_range or any(a > b for a, b in itertools.pairwise(timesteps)):
        raise ValueError(
            "timesteps of a noise schedule must be finite, at least 0, and not decrease, got "
            f"{brief(timesteps)}"
        )
