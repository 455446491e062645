"""The Python faces of the compiled kernels; the only place that reaches ``torch.ops.septet``."""

from septet.ops._buffers import empty_contiguous, release_buffers
from septet.ops._dispatch import needs_gradient
from septet.ops.attention import attention
from septet.ops.conv import PackedWeight, conv2d, conv2d_output_size, pack_conv2d, packed_floats
from septet.ops.conv_choice import Layer as ConvLayer
from septet.ops.conv_choice import chosen as chosen_convolution
from septet.ops.conv_choice import use_convolution
from septet.ops.mt19937 import mt19937_normal
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
from septet.ops.threshold import threshold_quantile
from septet.ops.wavenet import wavenet_layer

__all__ = [
    "COLUMNS",
    "CURRENT_OUTPUT",
    "NO_SLOT",
    "UNUSED",
    "ConvLayer",
    "NoiseKind",
    "PackedWeight",
    "StepRow",
    "attention",
    "chosen_convolution",
    "conv2d",
    "conv2d_output_size",
    "empty_contiguous",
    "group_norm_act",
    "mt19937_normal",
    "needs_gradient",
    "pack_conv2d",
    "packed_floats",
    "philox_normal",
    "release_buffers",
    "step",
    "threshold_quantile",
    "torch_cuda_offset",
    "torch_cuda_threads",
    "use_convolution",
    "wavenet_layer",
]
