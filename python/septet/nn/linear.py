"""Linear layers of tokens, which pack their weights; of conditions; and several run as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from septet.backend import current_backend
from septet.memory import SMALLEST_MAPPED, is_mapped, release
from septet.nn.packing import KeepsCopies, packing_serves
from septet.ops import ConvLayer, chosen_convolution, conv2d, pack_conv2d

if TYPE_CHECKING:
    from collections.abc import Sequence

    from septet.ops import PackedWeight


class _OfTokens(KeepsCopies):
    """Applies a matrix to tokens; in inference on the CPU, the kernel of convolutions does."""

    weight: Tensor

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Map ``[B, T, in_channels]`` to ``[B, T, out_channels]`` and add the residual."""
        bias: Tensor | None = self.bias  # type: ignore[attr-defined]
        if not self.packs(input, residual):
            result = F.linear(input, self.weight.flatten(1), bias)
            if residual is None:
                return result
            in_place = not torch.is_grad_enabled() and result.dtype == residual.dtype
            return result.add_(residual) if in_place else result + residual
        image = conv2d(
            _as_image(input),
            self._copy_of(self.weight, _packed),
            bias,
            residual=None if residual is None else _as_image(residual),
        )
        return image.permute(0, 2, 3, 1).reshape(*input.shape[:-1], -1)

    def packs(self, input: Tensor, residual: Tensor | None = None) -> bool:
        """Tell whether packed weights serve this call."""
        # a vector for each sample reads all weights for few products: torch's is as good
        return (
            input.dim() > 2
            and self.may_pack
            and packing_serves(self.weight, input, residual)
            and chosen_convolution(_POINTWISE) != "torch"
        )


_POINTWISE = ConvLayer((1, 1), (1, 1), (1, 1), 1, 1)


def _packed(weight: Tensor) -> PackedWeight:
    return pack_conv2d(weight.flatten(1)[..., None, None])


def _as_image(tokens: Tensor) -> Tensor:
    """Return ``[B, ..., C]`` as an image ``[B, C, T, 1]`` of as many pixels in channels_last."""
    return tokens.reshape(tokens.shape[0], -1, 1, tokens.shape[-1]).permute(0, 3, 1, 2)


class Linear(_OfTokens, nn.Linear):
    """``torch.nn.Linear`` with the same parameters, for tokens, with the sum that often follows."""


class PointwiseConv1d(_OfTokens, nn.Conv1d):
    """A linear layer over the channels of tokens, stored as the convolution of width 1 it was.

    Args:
        in_channels: Width of a token of the input.
        out_channels: Width of a token of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1)


class PointwiseConv2d(_OfTokens, nn.Conv2d):
    """A 1x1 convolution whose pixels are tokens already: a matrix product.

    Its weight has the shape ``[out_channels, in_channels, 1, 1]`` of published checkpoints.

    Args:
        in_channels: Width of a token of the input.
        out_channels: Width of a token of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1)


def as_tokens(sample: Tensor) -> Tensor:
    """Return ``[B, C, H, W]`` as ``[B, H * W, C]``, a view if the sample is channels_last."""
    return sample.permute(0, 2, 3, 1).flatten(1, 2)


def image_of(tokens: Tensor, sample: Tensor) -> Tensor:
    """Return ``[B, H * W, C]`` as ``[B, C, H, W]``, of the size and in the layout of a sample."""
    image = tokens.reshape(tokens.shape[0], *sample.shape[2:], -1).permute(0, 3, 1, 2)
    return image.contiguous() if sample.is_contiguous() else image


def sum_with(layer: nn.Module, input: Tensor, residual: Tensor) -> Tensor:
    """Return ``layer(input) + residual``, whether or not a layer of ours is still in its place.

    Args:
        layer: Maps ``[B, T, C]`` to ``[B, T, C']``.
        input: ``[B, T, C]``.
        residual: ``[B, T, C']``.
    """
    total: Tensor
    total = layer(input, residual) if isinstance(layer, _OfTokens) else layer(input) + residual
    return total


def packs_tokens(layer: nn.Module) -> bool:
    """Tell whether a layer is one of tokens that will pack its weights in inference."""
    return (
        isinstance(layer, _OfTokens)
        and layer.may_pack
        and current_backend() == "fused"
        and chosen_convolution(_POINTWISE) != "torch"
    )


class ConditionLinear(nn.Linear):
    """A linear layer of what a sample is conditioned on: it runs once for all steps.

    So its weight may stay in a file that is mapped, instead of taking memory through all steps: it
    is read when the layer runs, and its pages are given back.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map ``[..., in_features]`` to ``[..., out_features]``."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or not self.is_mapped():
            return super().forward(input)
        # a copy is aligned for vector loads: the product's bits must not depend on the file
        result = F.linear(input, self.weight.clone(), self.bias)
        release(self.weight)
        return result

    def is_mapped(self) -> bool:
        """Tell whether the weight is in a file."""
        return self.weight.nbytes >= SMALLEST_MAPPED and is_mapped(self.weight)


def joint_linear(input: Tensor, layers: Sequence[nn.Linear]) -> tuple[Tensor, ...]:
    """Apply several linear layers without bias to one input, as one matrix product if possible.

    For inference the weights are moved once so that they are neighbours in memory: then they are
    one matrix, at no cost in memory, and remain parameters under their own names. Where they have
    been moved apart since (``to``, a copy, assigned weights), that happens anew.

    Args:
        input: ``[..., in_features]``.
        layers: Layers of equal width that have no bias.

    Returns:
        One ``[..., out_features]`` per layer, views of one tensor if it was one product.
    """
    if (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or not _can_join(layers)
        # packed weights gain nothing from their neighbours
        or any(isinstance(layer, Linear) and layer.packs(input) for layer in layers)
    ):
        return tuple(layer(input) for layer in layers)
    return F.linear(input, _joined([layer.weight for layer in layers])).chunk(len(layers), dim=-1)


def _can_join(layers: Sequence[nn.Linear]) -> bool:
    """Tell whether these are plain layers: neither replaced, nor hooked, nor quantised."""
    return all(
        (
            type(layer) in (nn.Linear, Linear)
            or (type(layer) is ConditionLinear and not layer.is_mapped())
        )
        and type(layer.weight) is nn.Parameter
        and layer.bias is None
        and not layer._forward_hooks
        and not layer._forward_pre_hooks
        and layer.weight.is_contiguous()
        and not layer.weight.is_inference()
        and layer.weight.device.type in ("cpu", "cuda")
        and layer.weight.dtype == layers[0].weight.dtype
        and layer.weight.device == layers[0].weight.device
        and layer.weight.shape == layers[0].weight.shape
        for layer in layers
    )


def _joined(weights: Sequence[Tensor]) -> Tensor:
    """Return matrices as one, moving them next to each other first if they are not."""
    first = weights[0]
    storage = first.untyped_storage().data_ptr()
    step = first.numel() * first.element_size()
    are_neighbours = all(
        weight.untyped_storage().data_ptr() == storage
        and weight.data_ptr() == first.data_ptr() + index * step
        for index, weight in enumerate(weights)
    )
    if not are_neighbours:
        with torch.inference_mode(False), torch.no_grad():
            moved = torch.cat([weight.detach() for weight in weights])
            for weight, part in zip(weights, moved.chunk(len(weights)), strict=True):
                weight.data = part
        return moved
    rows, columns = first.shape
    return first.detach().as_strided((len(weights) * rows, columns), (columns, 1))
