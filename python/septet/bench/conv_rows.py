"""Convolutions at the shapes of the models: our algorithms against torch, eager and packed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from septet.bench.rows import Implementation, Row, Workload, shape_text
from septet.nn import Conv2d
from septet.ops import use_convolution
from septet.ops.conv import ALGORITHMS, conv2d, pack_conv2d


@dataclass(frozen=True)
class ConvSpec:
    """One layer on square images, padded so that stride 1 keeps their size.

    Attributes:
        model: Where it occurs.
        batch: B.
        channels: Of the input.
        size: Height and width of the input.
        out_channels: Of the result.
        kernel: Height and width of the weights.
        stride: In both directions.
    """

    model: str
    batch: int
    channels: int
    size: int
    out_channels: int
    kernel: int = 3
    stride: int = 1

    @property
    def num_flops(self) -> int:
        """Operations of the sums as they stand, whatever the algorithm saves."""
        outputs = self.batch * (-(-self.size // self.stride)) ** 2 * self.out_channels
        return 2 * outputs * self.channels * self.kernel**2


def _levels(model: str, *layers: tuple[int, int, int], batches: tuple[int, ...]) -> Iterator[
    ConvSpec
]:  # fmt: skip
    for batch in batches:
        for layer in layers:
            yield ConvSpec(model, batch, *layer)


SPECS = (
    *_levels(
        "ddpm-cifar10",
        (128, 32, 128),
        (384, 32, 128),
        (256, 16, 256),
        (512, 16, 256),
        (256, 8, 256),
        (256, 4, 256),
        batches=(1, 4),
    ),
    ConvSpec("ddpm-cifar10", 4, 3, 32, 128),
    ConvSpec("ddpm-cifar10", 4, 128, 32, 3),
    ConvSpec("ddpm-cifar10", 4, 128, 32, 128, stride=2),
    ConvSpec("ddpm-cifar10", 4, 512, 16, 256, kernel=1),
    *_levels(
        "stable-diffusion-1.5", (320, 64, 320), (640, 32, 640), (1280, 16, 1280), batches=(2,)
    ),
    ConvSpec("vae", 1, 128, 256, 128),
)


def rows() -> list[Row]:
    """Return a row per layer."""
    return [_row(spec) for spec in SPECS]


def _row(spec: ConvSpec) -> Row:
    shape = shape_text((spec.batch, spec.channels, spec.size, spec.size))
    layer = f"{spec.kernel}x{spec.kernel}/{spec.stride} to {spec.out_channels}"
    facts = {"op": "conv2d", "row": f"{spec.model} {layer}", "dtype": "float32", "shape": shape}
    name = f"conv2d/{spec.model}/{spec.kernel}x{spec.kernel}s{spec.stride}/{shape}"
    return Row("ops", f"{name}/{spec.out_channels}", facts, lambda: _build(spec))


def calls(spec: ConvSpec) -> tuple[Conv2d, Tensor, dict[str, Callable[[], Tensor]]]:
    """Return a layer, its input, and the same call of every implementation by its name."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = Conv2d(
            spec.channels,
            spec.out_channels,
            spec.kernel,
            stride=spec.stride,
            padding=spec.kernel // 2,
        )
        image = torch.randn(spec.batch, spec.channels, spec.size, spec.size)
    layer.requires_grad_(False)
    image = image.contiguous(memory_format=torch.channels_last)
    eager = torch.nn.Conv2d(
        spec.channels, spec.out_channels, spec.kernel, spec.stride, spec.kernel // 2
    )
    eager.requires_grad_(False).load_state_dict(layer.state_dict())
    eager.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def packed_by_torch() -> Tensor:
        with use_convolution("torch"):
            result: Tensor = layer(image)
        return result

    weight = pack_conv2d(layer.weight)

    def ours(algorithm: str) -> Tensor:
        stride, padding = (spec.stride,) * 2, (spec.kernel // 2,) * 2
        return conv2d(
            image, weight, layer.bias, algorithm=algorithm, stride=stride, padding=padding
        )

    suits_winograd = (spec.kernel, spec.stride) == (3, 1)
    found: dict[str, Callable[[], Tensor]] = {
        "torch channels_last": lambda: eager(image),
        "torch packed": packed_by_torch,
    }
    for algorithm in ALGORITHMS:
        if suits_winograd or algorithm == "direct":
            found[algorithm] = functools.partial(ours, algorithm)
    return layer, image, found


def _build(spec: ConvSpec) -> Workload:
    layer, image, found = calls(spec)

    def exact() -> list[Tensor]:
        bias = None if layer.bias is None else layer.bias.double()
        return [
            torch.nn.functional.conv2d(
                image.double(), layer.weight.double(), bias, spec.stride, spec.kernel // 2
            )
        ]

    def result(call: Callable[[], Tensor]) -> Callable[[], list[Tensor]]:
        return lambda: [call()]

    implementations = [
        Implementation(name, call, result(call), exact, is_baseline=name == "torch packed")
        for name, call in found.items()
    ]
    return Workload(tuple(implementations), "the same layer in float64", num_flops=spec.num_flops)
