"""Convolution with weights packed once, and what follows it fused into it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from septet.backend import current_backend


def channels_last_on_cpu(sample: Tensor) -> Tensor:
    """Bring ``[B, C, H, W]`` into the order in which the networks run on its device.

    On the CPU, oneDNN and our kernels work pixel by pixel: no convolution has to reorder its input.
    """
    if sample.device.type == "cpu":
        return sample.contiguous(memory_format=torch.channels_last)
    return sample


class Conv2d(nn.Conv2d):
    """``torch.nn.Conv2d`` with the same parameters, faster for inference on the CPU.

    Eager torch brings the weights of every convolution into oneDNN's order at every call. Here
    that happens once, and a bias that depends on the step and a residual are added on the way out.
    The packed copy follows the weights: it is made anew when they change or move.
    """

    _packed: Tensor | None = None
    _packed_from: tuple[int, int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the packed copy out: oneDNN's tensors cannot be copied, but are soon remade."""
        return {**self.__dict__, "_packed": None}

    def forward(
        self, input: Tensor, *, residual: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        """Convolve, then add.

        Args:
            input: ``[B, in_channels, H, W]``.
            residual: Added to the result, of its shape; left unchanged.
            shift: ``[1, out_channels]`` or ``[B, out_channels]``, added to every pixel.

        Returns:
            ``[B, out_channels, H', W']``.
        """
        bias = self.bias
        if shift is not None and shift.shape[0] == 1:
            bias = shift[0] if bias is None else bias + shift[0]
            shift = None
        if shift is None and self.can_pack(input, residual):
            return self._packed_convolution(input, bias, residual)
        output = F.conv2d(
            input, self.weight, bias, self.stride, self.padding, self.dilation, self.groups
        )
        if shift is not None:
            output = output + shift[:, :, None, None]
        return output if residual is None else output + residual

    def can_pack(self, input: Tensor, residual: Tensor | None = None) -> bool:
        """Tell whether oneDNN serves this call; every other one takes the ordinary way."""
        weight = self.weight
        needs_gradient = torch.is_grad_enabled() and (
            weight.requires_grad
            or input.requires_grad
            or (residual is not None and residual.requires_grad)
        )
        return (
            HAS_ONEDNN
            and input.device.type == "cpu"
            and input.dtype == weight.dtype == torch.float32
            and isinstance(self.padding, tuple)
            and self.padding_mode == "zeros"
            and input.numel() > 0
            and not needs_gradient
            and not torch.compiler.is_compiling()
            and current_backend() == "fused"
        )

    def _packed_convolution(
        self, input: Tensor, bias: Tensor | None, residual: Tensor | None
    ) -> Tensor:
        weight = self._packed_weight()
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        convolve = torch.ops.mkldnn._convolution_pointwise
        result: Tensor
        if residual is None:
            result = convolve.default(input, weight, bias, *geometry, "none", [], "")
        else:
            result = convolve.binary(
                input, residual, weight, bias, *geometry, "add", None, None, [], None
            )
        return result

    def _packed_weight(self) -> Tensor:
        weight = self.weight
        source = weight_version(weight)
        if self._packed is None or self._packed_from != source:
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(
                weight.detach(), self.padding, self.stride, self.dilation, self.groups
            )
            self._packed_from = source
        return self._packed


def weight_version(weight: Tensor) -> tuple[int, int]:
    """Identify the values of a weight, so that what was made of them can be kept."""
    # Inference tensors count no versions: nobody may change them in place.
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version


def is_plain(conv: nn.Module) -> bool:
    """Tell whether a layer is a convolution of ours that nobody has replaced or hooked."""
    return (
        type(conv) is Conv2d
        and type(conv.weight) is nn.Parameter
        and not (conv._forward_hooks or conv._forward_pre_hooks)
    )


def _has_onednn() -> bool:
    """Try the two operators once: they belong to torch, but not to its stable interface."""
    try:
        module = Conv2d(1, 1, 1)
        image = torch.zeros(1, 1, 1, 1)
        with torch.no_grad():
            module._packed_convolution(image, module.bias, None)
            module._packed_convolution(image, module.bias, image)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return True


#: Whether this torch can pack weights for oneDNN.
HAS_ONEDNN = torch.backends.mkldnn.is_available() and _has_onednn()  # type: ignore[no-untyped-call]
