"""The standard normal noise of torch's CPU generator."""

from __future__ import annotations

from torch import Tensor

from septet.ops import _library
from septet.ops._dispatch import run, wants_reference


def mt19937_normal(out: Tensor, state: Tensor) -> Tensor:
    """Fill a tensor as ``torch.randn`` does on a CPU with AVX2, bit for bit, with all threads.

    Args:
        out: Contiguous float32 tensor on the CPU with at least 16 values; torch draws fewer in
            another way.
        state: ``[5056]`` uint8, what ``torch.Generator.get_state`` gives on the CPU. It is
            advanced as the draw would advance the generator.

    Returns:
        ``out``.

    Raises:
        ValueError: If an argument cannot be served; the message names it.
    """
    if wants_reference():
        from septet.testing.references.mt19937 import mt19937_normal as reference

        return reference(out, state)
    run(_library.ops().mt19937_normal.default, out, state)
    return out
