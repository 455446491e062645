"""The normals of torch's CPU generator, drawn by torch itself."""

from __future__ import annotations

import torch
from torch import Tensor


def mt19937_normal(out: Tensor, state: Tensor) -> Tensor:
    """Fill ``out``, advance ``state``; arguments as :func:`septet.ops.mt19937_normal`."""
    generator = torch.Generator()
    generator.set_state(state)
    out.copy_(torch.randn(out.shape, generator=generator, dtype=torch.float32))
    state.copy_(generator.get_state())
    return out
