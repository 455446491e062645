"""Shape functions of the ops, for ``torch.compile`` and ``torch.export``.

All ops write into tensors they are given, so a shape function has nothing to compute.
"""

from __future__ import annotations

from typing import Any

import torch


def _nothing(*arguments: Any) -> None:
    """Compute no shapes."""


for _name in (
    "attention",
    "conv2d",
    "conv2d_pack",
    "group_norm_act",
    "mt19937_normal",
    "philox_normal",
    "step",
    "step.plain",
    "threshold_quantile",
    "wavenet_layer",
):
    torch.library.register_fake(f"septet::{_name}", _nothing)
