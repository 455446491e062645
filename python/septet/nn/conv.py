"""Convolution with weights packed once, and what follows it fused into it."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from septet.nn.packing import KeepsCopies, packing_serves
from septet.ops import (
    ConvLayer,
    chosen_convolution,
    conv2d,
    conv2d_output_size,
    pack_conv2d,
)


def channels_last_on_cpu(sample: Tensor) -> Tensor:
    """Bring ``[B, C, H, W]`` into the order in which the networks run on its device.

    On the CPU, oneDNN and our kernels work pixel by pixel: no convolution has to reorder its input.
    """
    if sample.device.type == "cpu":
        return sample.contiguous(memory_format=torch.channels_last)
    return sample


class Conv2d(KeepsCopies, nn.Conv2d):
    """``torch.nn.Conv2d`` with the same parameters, faster for inference on the CPU.

    Eager torch brings the weights of every convolution into oneDNN's order at every call. Here
    that happens once, for the kernel that :func:`septet.ops.chosen_convolution` names, and a bias
    that depends on the step and a residual are added on the way out.
    """

    def forward(
        self,
        input: Tensor,
        *,
        residual: Tensor | None = None,
        shift: Tensor | None = None,
        upscale: int = 1,
        rest: Tensor | None = None,
    ) -> Tensor:
        """Convolve, then add.

        Args:
            input: ``[B, in_channels, H, W]``.
            residual: Added to the result, of its shape or half as high and wide: then every pixel
                of it is repeated in both directions. Left unchanged.
            shift: ``[1, out_channels]`` or ``[B, out_channels]``, added to every pixel.
            upscale: 2 repeats every pixel of the input in both directions first.
            rest: ``[B, C', H, W]``, further channels behind those of ``input``.

        Returns:
            ``[B, out_channels, H', W']``.
        """
        algorithm = self.algorithm(input, upscale) if self.infers(input, residual) else "torch"
        if rest is not None and (algorithm == "torch" or not self.reads_both(input, rest)):
            input, rest = torch.cat([input, rest], dim=1), None
        if algorithm != "torch":
            return conv2d(
                input,
                self._copy_of(self.weight, pack_conv2d),
                self.bias,
                algorithm=algorithm,
                stride=self.stride,
                padding=cast("tuple[int, ...]", self.padding),
                dilation=self.dilation,
                shift=shift,
                residual=residual,
                upscale=upscale,
                rest=rest,
            )
        if residual is not None:
            size = self.output_size(input, upscale)
            if tuple(residual.shape[2:]) != size:
                residual = F.interpolate(residual, size=size, mode="nearest")
        if upscale != 1:
            input = F.interpolate(input, scale_factor=float(upscale), mode="nearest")
        return self._torch_convolution(input, residual, shift)

    def _torch_convolution(
        self, input: Tensor, residual: Tensor | None, shift: Tensor | None
    ) -> Tensor:
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
        return HAS_ONEDNN and self.infers(input, residual)

    def reads_both(self, input: Tensor, rest: Tensor) -> bool:
        """Tell whether the channels of two tensors need not be concatenated first."""
        return (
            input.shape[1] % 16 == rest.shape[1] % 16 == 0
            and self.infers(input)
            and self.infers(rest)
            and self.algorithm(input) == "direct"
        )

    def algorithm(self, input: Tensor, upscale: int = 1) -> str:
        """Return who computes this call in inference on the CPU.

        Returns:
            "torch", or the name of an algorithm of :func:`septet.ops.conv2d`.
        """
        height, width = self.output_size(input, upscale)
        kernel, stride, dilation = self.kernel_size, self.stride, self.dilation
        return chosen_convolution(ConvLayer(kernel, stride, dilation, self.groups, height * width))

    def output_size(self, input: Tensor, upscale: int = 1) -> tuple[int, int]:
        """Return height and width of the result."""
        padding = cast("tuple[int, ...]", self.padding)
        geometry = self.kernel_size, self.stride, padding, self.dilation
        return conv2d_output_size(input.shape[2:], *geometry, upscale)

    def infers(self, input: Tensor, residual: Tensor | None = None) -> bool:
        """Tell whether packed weights can serve: float32 on the CPU, and no gradients."""
        return self.may_pack and convolution_packs(self, input, residual)

    def _packed_convolution(
        self, input: Tensor, bias: Tensor | None, residual: Tensor | None
    ) -> Tensor:
        weight = self._copy_of(self.weight, self._reordered, "oneDNN")
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

    def _reordered(self, weight: Tensor) -> Tensor:
        reordered: Tensor = torch.ops.mkldnn._reorder_convolution_weight(
            weight, self.padding, self.stride, self.dilation, self.groups
        )
        return reordered


def convolution_packs(
    layer: nn.Conv1d | nn.ConvTranspose1d | nn.Conv2d,
    input: Tensor,
    residual: Tensor | None = None,
) -> bool:
    """Tell whether packed weights can serve: float32 on the CPU, and no gradients."""
    return (
        isinstance(layer.padding, tuple)
        and layer.padding_mode == "zeros"
        and packing_serves(layer.weight, input, residual)
    )


def parts_for(
    shortcut: nn.Module | None, sample: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Concatenate the two parts of a residual block's input, unless its shortcut reads both.

    Args:
        shortcut: The layer that leads around the block; None if it has to be given the whole.
        sample: ``[B, C, H, W]``.
        state: ``[B, C', H, W]``, further channels.

    Returns:
        What to give to the layers that read the input, as ``input`` and ``rest``.
    """
    if state is None or (isinstance(shortcut, Conv2d) and shortcut.reads_both(sample, state)):
        return sample, state
    return torch.cat([sample, state], dim=1), None


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
