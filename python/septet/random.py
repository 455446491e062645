"""Where noise comes from: torch's generators, or one counter-based stream per sample."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Sequence
from typing import Union

import torch
from torch import Tensor

from septet.backend import current_backend
from septet.errors import LibraryError
from septet.ops.mt19937 import mt19937_normal
from septet.ops.noise import philox_normal

_CPU = torch.device("cpu")


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
    every device. A list of generators draws one sample each. Large float32 draws on the CPU use
    all threads and still have the bits of ``torch.randn``; see docs/numerics.md.

    Args:
        shape: Shape of the result; the first dimension is the batch.
        generator: A ``torch.Generator``, a list of them, :class:`PhiloxSeeds`, or None for
            torch's global generator of the device.
        device: Device of the result, the CPU if not given.
        dtype: Floating-point type of the result.

    Raises:
        ValueError: See :func:`check_generator`.
    """
    target = _CPU if device is None else torch.device(device)
    # The most frequent cases first: small draws take little longer than the checks.
    if generator is None:
        return _draw(shape, None, target, dtype)
    if isinstance(generator, torch.Generator):
        source = generator.device
        if source == target:
            return _draw(shape, generator, source, dtype)
        check_generator(generator, shape[0], target)
        return _draw(shape, generator, source, dtype).to(target)
    shape = tuple(shape)
    check_generator(generator, shape[0], target)
    if isinstance(generator, PhiloxSeeds):
        numel = math.prod(shape[1:])
        return philox_normal(generator.advance(numel).to(target), shape, dtype)
    if len(generator) == 1:
        return randn_tensor(shape, generator[0], target, dtype)
    return torch.cat([randn_tensor((1, *shape[1:]), g, target, dtype) for g in generator])


def randn_leading(
    shape: Sequence[int],
    generator: Generators = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    copies: int = 1,
) -> Tensor:
    """Draw noise as a run does whose batch holds all samples several times; keep the first of it.

    With guidance the original GLIDE samples a doubled batch and drops one half in the end.

    Args:
        shape: See :func:`randn_tensor`, as for the next three.
        generator: The same. One per sample draws for the copies of its own sample;
            :class:`PhiloxSeeds`, which have no original to agree with, draw no copies.
        device: The same.
        dtype: The same.
        copies: How many times the batch is there.

    Raises:
        ValueError: See :func:`check_generator`.
    """
    if copies == 1 or isinstance(generator, PhiloxSeeds):
        return randn_tensor(shape, generator, device, dtype)
    batch, rest = shape[0], shape[1:]
    if isinstance(generator, Sequence):
        check_generator(generator, batch, torch.device(device or _CPU))
        drawn = [randn_tensor((copies, *rest), member, device, dtype)[:1] for member in generator]
        return torch.cat(drawn)
    return randn_tensor((copies * batch, *rest), generator, device, dtype)[:batch]


# Below, torch's own draw is done before its state is read and written.
_FEWEST_VALUES = 2048

# Between reading a generator's state and writing it back, no other draw of ours may read it.
_state_lock = threading.Lock()


def _draw(
    shape: Sequence[int],
    generator: torch.Generator | None,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Return ``torch.randn`` of these arguments, by our kernel where that gives the same bits."""
    if (
        dtype is torch.float32
        and device.type == "cpu"
        and not torch.compiler.is_compiling()
        and math.prod(shape) >= _FEWEST_VALUES
        and current_backend() == "fused"
    ):
        noise = torch.empty(shape, dtype=dtype, device=device)
        # Under a mode such as that of fake tensors it is none of ours to fill.
        if type(noise) is Tensor and _kernel_draws_as_torch():
            generator = torch.default_generator if generator is None else generator
            with _state_lock:
                state = generator.get_state()
                mt19937_normal(noise, state)
                generator.set_state(state)
            return noise
    return torch.randn(shape, generator=generator, device=device, dtype=dtype)


@functools.cache
def _kernel_draws_as_torch() -> bool:
    """Compare our kernel with torch's once per process, in values and in what it leaves behind.

    They differ where torch runs no AVX2 code, and might with another release: torch promises
    nothing there. A difference in rounding shows in one of a hundred values.
    """
    for seed, size in ((0, 4099), (2**40 + 7, 8192)):
        generator = torch.Generator().manual_seed(seed)
        noise = torch.empty(size, dtype=torch.float32, device=_CPU)
        state = generator.get_state()
        try:
            mt19937_normal(noise, state)
        except (LibraryError, ValueError):
            return False
        expected = torch.randn(size, generator=generator, dtype=torch.float32, device=_CPU)
        same_bits = torch.equal(noise.view(torch.int32), expected.view(torch.int32))
        if not same_bits or not torch.equal(state, generator.get_state()):
            return False
    return True
