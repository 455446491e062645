"""The Python faces of the compiled kernels; the only place that reaches ``torch.ops.septet``."""

from septet.ops.noise import philox_normal, torch_cuda_offset, torch_cuda_threads
from septet.ops.norm import group_norm_act
from septet.ops.step import step
from septet.ops.table import (
    COLUMNS,
    CURRENT_OUTPUT,
    NO_SLOT,
    UNUSED,
    NoiseKind,
    StepRow,
)

__all__ = [
    "COLUMNS",
    "CURRENT_OUTPUT",
    "NO_SLOT",
    "UNUSED",
    "NoiseKind",
    "StepRow",
    "group_norm_act",
    "philox_normal",
    "step",
    "torch_cuda_offset",
    "torch_cuda_threads",
]
