"""Networks of text to image at full size; only one is in memory at a time."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from septet.bench import peers
from septet.bench.model_rows import count_flops
from septet.bench.rows import Candidate, Loaded, Row, SeparateWorkload, shape_text
from septet.models import AutoencoderKL, UNet2DConditionModel

_UNET: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "attention_head_dim": 8,
}
#: CompVis/ldm-text2im-large-256 (Rombach et al. 2022), 872 million parameters.
LDM_TEXT2IM_LARGE = {**_UNET, "sample_size": 32, "cross_attention_dim": 1280}
#: Stable Diffusion 1.1 to 1.5, 860 million parameters.
STABLE_DIFFUSION = {**_UNET, "sample_size": 64, "cross_attention_dim": 768}
#: Its autoencoder, 84 million parameters.
STABLE_DIFFUSION_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
# Ten steps evenly spaced, one of which is computed by everybody.
_TIMESTEPS = tuple(range(901, 0, -100))
_TIMESTEP = 501
_TOKENS = 77


@dataclass(frozen=True)
class LargeSpec:
    """One network on one input.

    Attributes:
        name: Of the network.
        network: Its class; that of diffusers has the same name.
        config: For both.
        shape: Of the latents. A UNet gets the same latents in both halves, as with guidance.
    """

    name: str
    network: type[UNet2DConditionModel | AutoencoderKL]
    config: dict[str, Any]
    shape: tuple[int, ...]

    @property
    def is_unet(self) -> bool:
        """Whether it denoises with a text, in contrast to decoding."""
        return self.network is UNet2DConditionModel


SPECS = (
    LargeSpec("ldm-text2im-large", UNet2DConditionModel, LDM_TEXT2IM_LARGE, (2, 4, 32, 32)),
    LargeSpec("sd15", UNet2DConditionModel, STABLE_DIFFUSION, (2, 4, 32, 32)),
    LargeSpec("sd15", UNet2DConditionModel, STABLE_DIFFUSION, (2, 4, 64, 64)),
    LargeSpec("sd-vae.decode", AutoencoderKL, STABLE_DIFFUSION_VAE, (1, 4, 32, 32)),
    LargeSpec("sd-vae.decode", AutoencoderKL, STABLE_DIFFUSION_VAE, (1, 4, 64, 64)),
)


def rows() -> list[Row]:
    """Return a row per network and input."""
    return [_row(spec) for spec in SPECS]


def _row(spec: LargeSpec) -> Row:
    facts: dict[str, Any] = {
        "model": spec.name, "weights": "random", "dtype": "float32",
        "shape": shape_text(spec.shape),
    }  # fmt: skip
    if spec.is_unet:
        facts |= {"timestep": _TIMESTEP, "tokens": _TOKENS}
    return Row("large", f"{spec.name}/{shape_text(spec.shape)}", facts, lambda: build(spec))


def build(spec: LargeSpec) -> SeparateWorkload:
    """List the candidates; nothing is allocated."""
    network = peers.Network(
        f"diffusers:{spec.network.__name__}",
        spec.config,
        functools.partial(_inputs, spec),
        "forward" if spec.is_unet else "decode",
    )
    found = peers.candidates(network, is_large=True)
    own = functools.partial(_load_septet, spec)
    found.append(Candidate("septet", own, is_baseline=not found))
    if spec.is_unet:
        prepared = functools.partial(_load_prepared, spec)
        name = f"septet, {len(_TIMESTEPS)} prepared steps"
        found.append(Candidate(name, prepared, steps=len(_TIMESTEPS)))
    ref = f"{found[0].name} in float32"
    return SeparateWorkload(
        tuple(found), functools.partial(write_weights, spec), ref, num_flops(spec)
    )


def write_weights(spec: LargeSpec, folder: Path) -> None:
    """Save the network with random weights, the same every time."""
    torch.manual_seed(0)
    spec.network(**spec.config).save_pretrained(folder)


def _inputs(spec: LargeSpec) -> tuple[Tensor, ...]:
    """Return the latents; for a UNet also the timestep and the embedded text."""
    generator = torch.Generator().manual_seed(1)
    batch, *image = spec.shape
    latents = torch.randn(1, *image, generator=generator).repeat(batch, 1, 1, 1)
    if not spec.is_unet:
        return (latents,)
    width = spec.config["cross_attention_dim"]
    text = torch.randn(batch, _TOKENS, width, generator=generator)
    return latents, torch.tensor(_TIMESTEP), text


def _run(spec: LargeSpec, model: Any, *inputs: Tensor) -> list[Tensor]:
    output = model(*inputs) if spec.is_unet else model.decode(*inputs)
    return [output.sample]


def _load_septet(spec: LargeSpec, folder: Path) -> Loaded:
    model = spec.network.from_pretrained(folder)
    run = functools.partial(_run, spec, model, *_inputs(spec))
    return Loaded(run, run)


def _load_prepared(spec: LargeSpec, folder: Path) -> Loaded:
    """Load a network to run as a pipeline does: one latent, guided from one text to another."""
    model = UNet2DConditionModel.from_pretrained(folder)
    latents, _, text = _inputs(spec)
    latents, text, negative = latents[:1], text[:1], text[1:]
    timesteps = torch.tensor(_TIMESTEPS)

    def call() -> None:
        prepared = model.prepare(timesteps, text, negative)
        for row in range(len(prepared)):
            prepared(latents, row)

    def result() -> list[Tensor]:
        prepared = model.prepare(timesteps, text, negative)
        # the conditional half and the other one
        return [torch.cat(tuple(prepared(latents, _TIMESTEPS.index(_TIMESTEP))))]

    return Loaded(call, result)


def num_flops(spec: LargeSpec) -> int:
    """Count the operations of matrix products and convolutions in one evaluation."""
    with torch.device("meta"):
        model = spec.network(**spec.config)
    inputs = [tensor.to("meta") for tensor in _inputs(spec)]
    return count_flops(functools.partial(_run, spec, model, *inputs))
