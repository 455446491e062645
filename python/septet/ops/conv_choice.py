"""Who computes a convolution on the CPU: torch's oneDNN, or one of the algorithms of septet.

``SEPTET_CONV=direct``, ``winograd`` or ``torch`` chooses for a whole process,
:func:`use_convolution` for a block; "auto" is the rule of :func:`chosen`. An algorithm that does
not suit a layer gives way to the next one: Winograd's to the direct one, and that to torch.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import NamedTuple

from septet.backend import Switch

CHOICES = ("auto", "direct", "winograd", "torch")

# Fewer outputs than these make so few tiles of 4x4 (2x2) that transforming the weights takes longer
# than the products they save.
_FEWEST_FOR_4 = 8 * 8
_FEWEST_FOR_2 = 4 * 4


class Layer(NamedTuple):
    """What the choice depends on. The batch is no part of it: a sample's bits do not depend on it.

    Attributes:
        kernel: Height and width, as those below.
        stride: Of height and width.
        dilation: Of height and width.
        groups: Groups of channels.
        outputs: Pixels of a sample's result.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    outputs: int


_choice = Switch("SEPTET_CONV", CHOICES, "auto")


def use_convolution(name: str) -> AbstractContextManager[None]:
    """Let one implementation compute the convolutions inside the block.

    Args:
        name: "direct", "winograd", "torch", or "auto".

    Raises:
        ValueError: If the name is none of them.
    """
    return _choice.using(name, "convolution")


def chosen(layer: Layer) -> str:
    """Return "torch", or the name of an algorithm of :func:`septet.ops.conv2d`."""
    return _rule(_choice.value, layer)


@cache
def _rule(choice: str, layer: Layer) -> str:
    if choice == "torch" or layer.groups != 1 or not has_fast_kernels():
        return "torch"
    suits_winograd = layer.kernel == (3, 3) and layer.stride == layer.dilation == (1, 1)
    if choice == "direct" or not suits_winograd:
        return "direct"
    if layer.outputs >= _FEWEST_FOR_4:
        return "winograd4"
    return "winograd2" if layer.outputs >= _FEWEST_FOR_2 or choice == "winograd" else "direct"


@cache
def has_fast_kernels() -> bool:
    """Tell whether the kernels are there and this processor multiplies and adds in one step.

    Without that instruction the kernels give the same values, but slowly.
    """
    try:
        from septet import _host
    except ImportError:
        return False
    return str(_host.build_info()["cpu_isa"]) != "baseline"
