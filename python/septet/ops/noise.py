"""Counter-based standard normal noise."""

from __future__ import annotations

import torch
from torch import Tensor

from septet.ops import _library
from septet.ops._dispatch import run, wants_reference


def philox_normal(
    philox: Tensor,
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    *,
    threads: int = 0,
    increment: int = 0,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Draw standard normal noise from Philox4x32-10 streams (Salmon et al. 2011).

    Args:
        philox: ``[streams, 2]`` int64 pairs (seed, offset). One stream fills the whole tensor;
            as many streams as ``shape[0]`` fill one sample each. The offset counts 32-bit
            words, as in ``torch.Generator``, and is a multiple of 4.
        shape: Shape of the result.
        dtype: float32, float16 or bfloat16; float64 holds the float32 values and is refused in
            torch's layout.
        threads: 0 numbers the words of a stream by element index, so a sample depends on its
            seed alone. Otherwise the layout of ``torch.randn`` on a CUDA device whose launch has
            that many threads (see :func:`septet.ops.torch_cuda_threads`).
        increment: Added to every offset.
        memory_format: Layout of the result; the values belong to the logical indices.

    Returns:
        The noise, on the device of ``philox``.

    Raises:
        ValueError: If an argument is out of range; the message names it.
    """
    if wants_reference():
        from septet.testing.references.noise import philox_normal as reference

        shift = torch.tensor([[0, increment]], device=philox.device)
        return reference(philox + shift, tuple(shape), dtype, threads).contiguous(
            memory_format=memory_format
        )
    out = torch.empty(shape, dtype=dtype, device=philox.device, memory_format=memory_format)
    run(_library.ops().philox_normal.default, out, philox, increment, threads)
    return out


def torch_cuda_threads(numel: int, multiprocessors: int, threads_per_multiprocessor: int) -> int:
    """Return the launch size of ``torch.randn`` for ``numel`` elements on a CUDA device.

    torch starts blocks of 256 threads, as many as are resident at once or as there are elements
    to fill, whichever is less; the values it draws depend on that number.

    Args:
        numel: Elements drawn at once.
        multiprocessors: Multiprocessors of the device.
        threads_per_multiprocessor: Its largest number of resident threads per multiprocessor.
    """
    blocks = multiprocessors * (threads_per_multiprocessor // 256)
    return 256 * max(1, min(blocks, -(-numel // 256)))


def torch_cuda_offset(numel: int, threads: int) -> int:
    """Return by how much one such draw advances the offset of a CUDA generator."""
    return ((max(numel, 1) - 1) // (threads * 4) + 1) * 4
