"""One sampler step of GLIDE's networks at full size, against the original re-enacted."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from septet import ops
from septet.bench.glide_original import OriginalGlide, OriginalSampler, guided
from septet.bench.rows import Candidate, Loaded, Row, SeparateWorkload, shape_text
from septet.models import GlideSuperResolutionUNet, GlideTextToImageUNet
from septet.nn import Conv2d
from septet.nn.linear import PointwiseConv1d
from septet.schedulers import GLIDEScheduler

_GUIDANCE = 3.0
_TOKENS = 12


@dataclass(frozen=True)
class GlideSpec:
    """One network and how it is sampled.

    Attributes:
        name: Of the network.
        network: Its class.
        respacing: The timesteps; the step in their middle is measured.
        config: Of the network; empty means the published one.
    """

    name: str
    network: type[GlideTextToImageUNet | GlideSuperResolutionUNet]
    respacing: str
    config: dict[str, Any] = field(default_factory=dict)


SPECS = (
    GlideSpec("glide-base", GlideTextToImageUNet, "100"),
    GlideSpec("glide-upsampler", GlideSuperResolutionUNet, "fast27"),
)


def rows() -> list[Row]:
    """Return a row per network."""
    return [_row(spec) for spec in SPECS]


def _row(spec: GlideSpec) -> Row:
    settings = spec.network.config_class.from_dict(spec.config)
    shape = (1, settings.sample_channels, settings.sample_size, settings.sample_size)
    facts = {
        "model": spec.name, "weights": "random", "dtype": "float32", "shape": shape_text(shape),
        "respacing": spec.respacing, "guided": spec.network is GlideTextToImageUNet,
    }  # fmt: skip
    return Row("large", f"{spec.name}.step/{shape_text(shape)}", facts, lambda: _build(spec, shape))


def _build(spec: GlideSpec, shape: tuple[int, ...]) -> SeparateWorkload:
    candidates = tuple(
        Candidate(name, functools.partial(_load, spec, shape, name), name == _ORIGINAL)
        for name in _CALLS
    )
    return SeparateWorkload(
        candidates, functools.partial(_write_weights, spec), "the original in float32"
    )


def _write_weights(spec: GlideSpec, folder: Path) -> None:
    """Save the network with random weights, the same every time."""
    torch.manual_seed(0)
    unet = spec.network(**spec.config)
    for module in unet.modules():
        if isinstance(module, Conv2d | PointwiseConv1d):
            module.reset_parameters()  # some start at zero, which would hide all the others
    unet.save_pretrained(folder)


def _load(spec: GlideSpec, shape: tuple[int, ...], name: str, folder: Path) -> Loaded:
    unet = spec.network.from_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        step = _Step(unet, spec, torch.randn(2 * shape[0], *shape[1:]))
    call = functools.partial(_CALLS[name], step)
    return Loaded(call, call)


class _Step:
    """The step in the middle of a run, network included; the noise is given."""

    def __init__(
        self,
        unet: GlideTextToImageUNet | GlideSuperResolutionUNet,
        spec: GlideSpec,
        doubled: Tensor,
    ) -> None:
        self.unet: Any = unet
        self.guided = spec.network is GlideTextToImageUNet
        self.doubled = doubled
        self.sample = doubled[: len(doubled) // 2]
        scheduler = GLIDEScheduler(
            beta_schedule="squaredcos_cap_v2" if self.guided else "linear",
            sampler="ddpm" if self.guided else "ddim",
        )
        scheduler.set_timesteps(spec.respacing)
        self.sampler = OriginalSampler(
            scheduler._cumprod.numpy(), scheduler.timesteps.flip(0).tolist()
        )
        table = scheduler.table()
        self.table = table.with_guidance(_GUIDANCE) if self.guided else table
        self.row = len(table) // 2
        config = unet.config
        self.tokens = torch.randint(0, config.n_vocab, (2, config.text_ctx))
        self.mask = torch.arange(config.text_ctx)[None] < torch.tensor([[_TOKENS], [0]])
        self.images: dict[str, Tensor] = {}
        if not self.guided:
            size = config.sample_size // config.upscale_factor
            low_res = torch.rand(1, self.sample.shape[1], size, size) * 2 - 1
            self.images = {"low_res": low_res}
            self.tokens, self.mask = self.tokens[:1], self.mask[:1]
        self._prepared: Any = None
        self._cached: OriginalGlide | None = None

    def original(self) -> list[Tensor]:
        """Do what the authors' code does, and keep of it what it returns in the end."""
        return self._original(OriginalGlide(self.unet))

    def text_cached(self) -> list[Tensor]:
        """Do the same with the text encoded once for all steps."""
        if self._cached is None:
            self._cached = OriginalGlide(self.unet, cache_text=True)
        return self._original(self._cached)

    def _original(self, model: OriginalGlide) -> list[Tensor]:
        index = len(self.sampler.timesteps) - 1 - self.row
        x = self.doubled if self.guided else self.sample
        times = torch.full((len(x),), self.sampler.timesteps[index])
        if self.guided:
            output = guided(model, x, times, self.tokens, self.mask, _GUIDANCE)
            prev, _ = self.sampler.ddpm(output, x, index, self.doubled)
        else:
            output = model(x, times, self.tokens, self.mask, **self.images)
            prev, _ = self.sampler.ddim(output, x, index, self.sample)
        return [prev[: len(self.sample)]]

    def unprepared(self) -> list[Tensor]:
        """Use our operators, but compute in this step all that it needs."""
        timesteps = torch.tensor([self.table.timesteps[self.row]])
        return self._apply(self._prepare(timesteps), 0)

    def prepared(self) -> list[Tensor]:
        """Run a step of the loop as it is."""
        if self._prepared is None:
            self._prepared = self._prepare(torch.tensor(self.table.timesteps))
        return self._apply(self._prepared, self.row)

    def _prepare(self, timesteps: Tensor) -> Any:
        return self.unet.prepare(
            timesteps, tokens=self.tokens, mask=self.mask, guided=self.guided, **self.images
        )

    def _apply(self, prepared: Any, row: int) -> list[Tensor]:
        output = prepared(self.sample, row)
        output, uncond = output if isinstance(output, tuple) else (output, None)
        table = self.table.on(self.sample)
        prev = ops.step(
            self.sample, output, table, self.row, uncond_output=uncond, noise=self.sample
        )
        return [prev]


_ORIGINAL = "original"
_CALLS: dict[str, Callable[[_Step], list[Tensor]]] = {
    _ORIGINAL: _Step.original,
    "original, text cached": _Step.text_cached,
    "septet, prepared every step": _Step.unprepared,
    "septet": _Step.prepared,
}
