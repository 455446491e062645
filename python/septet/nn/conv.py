"""Convolution with weights packed once, and what follows it fused into it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from septet.backend import current_backend
from septet.memory import available_bytes, release
from septet.nn.packing import PackingBudget, packing_limit
from septet.ops import (
    ConvLayer,
    chosen_convolution,
    conv2d,
    conv2d_output_size,
    needs_gradient,
    pack_conv2d,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from septet.ops import PackedWeight


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
    that happens once, for the kernel that :func:`septet.ops.chosen_convolution` names, and a bias
    that depends on the step and a residual are added on the way out. The packed copy follows the
    weights: it is made anew when they change or move.
    """

    # By the algorithm that was asked for, with the weights they were made of.
    _packs: dict[str, PackedWeight | None] | None = None
    _packs_from: WeightVersion | None = None
    _packed: Tensor | None = None
    _packed_from: WeightVersion | None = None
    _budget: PackingBudget | None = None
    _budget_key = 0

    def __getstate__(self) -> dict[str, Any]:
        """Leave the packed copies out: oneDNN's tensors cannot be copied, and all are remade."""
        kept = ("_packs", "_packs_from", "_packed", "_packed_from", "_budget")
        return {**self.__dict__, **dict.fromkeys(kept)}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Conv2d:
        """Forget the packed copies where parameters move or change their type."""
        self._packs = self._packs_from = None
        self._packed = self._packed_from = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

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
        packed = self._pack_for(input, upscale) if self.infers(input, residual) else None
        if rest is not None and (packed is None or not self.reads_both(input, rest)):
            input, rest = torch.cat([input, rest], dim=1), None
        if packed is not None:
            return conv2d(
                input,
                packed,
                self.bias,
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
        return packing_serves(self, input, residual)

    def _pack_for(self, input: Tensor, upscale: int) -> PackedWeight | None:
        """Return the weights packed for a kernel of ours, None where torch computes."""
        algorithm = self.algorithm(input, upscale)
        if algorithm == "torch":
            return None
        source = self._packs_from
        if self._packs is None or source is None or not source.is_of(self.weight):
            self._packs, self._packs_from = {}, WeightVersion(self.weight)
        if algorithm not in self._packs:
            granted: str | None = algorithm
            if self._budget is not None:
                granted = self._budget.grant(self._budget_key, algorithm)
            self._packs[algorithm] = self._packed_as(granted)
        return self._packs[algorithm]

    def _packed_as(self, algorithm: str | None) -> PackedWeight | None:
        """Return the weights packed for one algorithm, which may serve in place of another."""
        assert self._packs is not None
        for pack in self._packs.values():
            if pack is not None and pack.algorithm == algorithm:
                return pack
        if algorithm is None:
            return None
        pack = pack_conv2d(self.weight, algorithm)
        release(self.weight)
        return pack

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
        source = self._packed_from
        if self._packed is None or source is None or not source.is_of(weight):
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(
                weight.detach(), self.padding, self.stride, self.dilation, self.groups
            )
            self._packed_from = WeightVersion(weight)
            release(weight)
        return self._packed


def share_packing(network: nn.Module) -> PackingBudget:
    """Let the convolutions of a network share one budget for their packed weights."""
    layers = winograd_pixels(network)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    shapes = [tuple(layer.weight.shape) for layer in layers]
    limit = packing_limit(shapes, parameters, available_bytes())
    budget = PackingBudget(shapes, list(layers.values()), limit)
    for key, layer in enumerate(layers):
        layer._budget, layer._budget_key = budget, key
        layer._packs = None
    return budget


def winograd_pixels(network: nn.Module) -> dict[Conv2d, float]:
    """Estimate for every convolution of a network how many pixels Winograd's algorithm computes.

    Sizes are not known before the first call, and all convolutions have to be weighed before it.
    But what halves or doubles the resolution can be counted on the way through the network.

    Returns:
        Pixels in units of those of the input; none for a layer that the algorithm does not suit.
    """
    pixels = 1.0
    found: dict[Conv2d, float] = {}
    for module in _as_they_run(network):
        if isinstance(module, nn.Conv2d):
            pixels /= module.stride[0] * module.stride[1]
        elif isinstance(module, nn.ConvTranspose2d):
            pixels *= module.stride[0] * module.stride[1]
        elif isinstance(module, nn.AvgPool2d) or getattr(module, "resample", None) == "down":
            pixels /= 4
        elif isinstance(module, nn.Upsample) or getattr(module, "resample", None) == "up":
            pixels *= 4
        if type(module) is Conv2d:
            suits = (module.kernel_size, module.stride, module.dilation) == ((3, 3), (1, 1), (1, 1))
            found[module] = pixels if suits else 0.0
    return found


def _as_they_run(module: nn.Module) -> Iterator[nn.Module]:
    """Walk through modules in the order of their registration, which is that of their use."""
    yield module
    children = dict(module.named_children())
    names = list(children)
    if {"up_blocks", "mid_block"} <= children.keys():
        # but for this: diffusers registers the middle behind the way up
        names.remove("mid_block")
        names.insert(names.index("up_blocks"), "mid_block")
    for name in names:
        yield from _as_they_run(children[name])


def packing_serves(
    layer: nn.Conv1d | nn.ConvTranspose1d | nn.Conv2d,
    input: Tensor,
    residual: Tensor | None = None,
) -> bool:
    """Tell whether packed weights can serve: float32 on the CPU, and no gradients."""
    weight = layer.weight
    return (
        input.device.type == "cpu"
        and input.dtype == weight.dtype == torch.float32
        and isinstance(layer.padding, tuple)
        and layer.padding_mode == "zeros"
        and input.numel() > 0
        and not needs_gradient(weight, input, residual)
        and not torch.compiler.is_compiling()
        and current_backend() == "fused"
    )


class WeightVersion:
    """The values that a weight has now, so that what is made of them can be kept.

    Args:
        weight: While this exists, so does its memory: no other weight can have the same address.
    """

    def __init__(self, weight: Tensor) -> None:
        self._weight, self._count = weight.detach(), _changes(weight)

    def is_of(self, weight: Tensor) -> bool:
        """Tell whether a weight is the same one and has not changed."""
        return weight.data_ptr() == self._weight.data_ptr() and _changes(weight) == self._count


def _changes(weight: Tensor) -> int:
    # Inference tensors count no versions: nobody may change them in place.
    return 0 if weight.is_inference() else weight._version


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
