"""Linear layers of conditions, of the same input run as one, and 1x1 convolutions of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from septet.memory import SMALLEST_MAPPED, is_mapped, release

if TYPE_CHECKING:
    from collections.abc import Sequence


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution whose pixels are tokens already: a matrix product.

    Its weight has the shape ``[out_channels, in_channels, 1, 1]`` of published checkpoints.

    Args:
        in_channels: Width of a token of the input.
        out_channels: Width of a token of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1)

    def forward(self, input: Tensor) -> Tensor:
        """Map ``[..., in_channels]`` to ``[..., out_channels]``."""
        return F.linear(input, self.weight.flatten(1), self.bias)


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
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not _can_join(layers):
        return tuple(layer(input) for layer in layers)
    return F.linear(input, _joined([layer.weight for layer in layers])).chunk(len(layers), dim=-1)


def _can_join(layers: Sequence[nn.Linear]) -> bool:
    """Tell whether these are plain layers: neither replaced, nor hooked, nor quantised."""
    return all(
        (type(layer) is nn.Linear or (type(layer) is ConditionLinear and not layer.is_mapped()))
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
