"""Where noise comes from: torch's generators, or one counter-based stream per sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Union

import torch
from torch import Tensor

from septet.ops.noise import philox_normal


class PhiloxSeeds:
    """One Philox stream per sample: a sample depends on its own seed and nothing else.

    Batch size, device and multiprocessor count do not change the values. Every draw takes the
    next words of each stream.

    Args:
        seeds: One seed per sample, each in ``[0, 2**63)``.
        offset: First word of the streams, a multiple of 4.

    Raises:
        ValueError: If there are no seeds, or one is out of range.
    """

    def __init__(self, seeds: Sequence[int], offset: int = 0) -> None:
        seeds = [int(seed) for seed in seeds]
        if not seeds or any(not 0 <= seed < 2**63 for seed in seeds):
            raise ValueError(f"seeds must be integers in [0, 2**63), at least one, got {seeds}")
        if offset < 0 or offset % 4:
            raise ValueError(f"offset must be a non-negative multiple of 4, got {offset}")
        self.seeds = seeds
        self.offset = offset

    def __len__(self) -> int:
        return len(self.seeds)

    def advance(self, numel: int) -> Tensor:
        """Reserve ``numel`` normals per sample and return the ``[B, 2]`` (seed, offset) pairs."""
        pairs = torch.tensor([[seed, self.offset] for seed in self.seeds], dtype=torch.int64)
        self.offset += words_per_draw(numel)
        return pairs


def words_per_draw(numel: int) -> int:
    """Return by how much a draw of ``numel`` normals per sample advances a stream's offset."""
    return 4 * -(-numel // 4)


#: What every ``generator`` argument accepts.
Generators = Union[torch.Generator, Sequence[torch.Generator], PhiloxSeeds, None]


def check_generator(generator: Generators, batch_size: int, device: torch.device) -> None:
    """Refuse a generator that cannot serve a batch on a device.

    Raises:
        ValueError: For a list or seeds of another length than the batch, or for a CUDA generator
            on the CPU.
    """
    if isinstance(generator, PhiloxSeeds):
        if len(generator) != batch_size:
            raise ValueError(
                f"generator holds {len(generator)} Philox seeds, but the batch size is {batch_size}"
            )
        return
    if isinstance(generator, Sequence):
        if len(generator) != batch_size:
            raise ValueError(
                f"generator is a list of length {len(generator)}, but the batch size is "
                f"{batch_size}"
            )
        members: Sequence[torch.Generator] = generator
    else:
        members = [] if generator is None else [generator]
    for member in members:
        if not isinstance(member, torch.Generator):
            raise ValueError(
                "generator must be a torch.Generator, a list of them, PhiloxSeeds or None, got "
                f"{type(member).__name__}"
            )
        if member.device.type != device.type and member.device.type != "cpu":
            raise ValueError(
                f"generator lives on {member.device}, which cannot draw for {device}; use a CPU "
                "generator or one on that device"
            )


def randn_tensor(
    shape: Sequence[int],
    generator: Generators = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw standard normal noise in the order and with the values that diffusers gives.

    A CPU generator draws on the CPU and the result is moved, so a seed gives the same values on
    every device. A list of generators draws one sample each.

    Args:
        shape: Shape of the result; the first dimension is the batch.
        generator: A ``torch.Generator``, a list of them, :class:`PhiloxSeeds`, or None for
            torch's global generator of the device.
        device: Device of the result, the CPU if not given.
        dtype: Floating-point type of the result.

    Raises:
        ValueError: See :func:`check_generator`.
    """
    device = torch.device(device or "cpu")
    shape = tuple(shape)
    check_generator(generator, shape[0], device)
    if isinstance(generator, PhiloxSeeds):
        numel = torch.Size(shape[1:]).numel()
        return philox_normal(generator.advance(numel).to(device), shape, dtype)
    if isinstance(generator, Sequence):
        if len(generator) == 1:
            generator = generator[0]
        else:
            draws = [randn_tensor((1, *shape[1:]), g, device, dtype) for g in generator]
            return torch.cat(draws)
    source = device if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=source, dtype=dtype).to(device)
