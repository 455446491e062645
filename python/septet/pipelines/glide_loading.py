"""Making GLIDE's components out of files, and checking that they suit each other."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from septet.models import GlideSuperResolutionUNet, GlideTextToImageUNet
from septet.schedulers import GLIDEScheduler
from septet.text import GlideTokenizer

if TYPE_CHECKING:
    import os
    from pathlib import Path

    import torch

    Config = Mapping[str, Any] | str | os.PathLike[str] | None

logger = logging.getLogger(__name__)


def authors_components(
    base: str | os.PathLike[str],
    upsample: str | os.PathLike[str] | None,
    given: Mapping[str, Any],
    *,
    configs: tuple[Config, Config],
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Make the components of a pipeline from the authors' files.

    Args:
        base: See :meth:`septet.GLIDEPipeline.from_single_file`, as for the next two.
        upsample: The same.
        given: Components to use instead.
        configs: Configurations of both networks, None for what the weights tell.
        dtype: Type of the weights.

    Raises:
        CheckpointError: If a file is missing, damaged or does not suit.
    """
    made = dict(given)
    if "text_unet" not in made:
        made["text_unet"] = GlideTextToImageUNet.from_single_file(
            base, config=configs[0], dtype=dtype
        )
    if "upscale_unet" not in made and upsample is not None:
        made["upscale_unet"] = GlideSuperResolutionUNet.from_single_file(
            upsample, config=configs[1], dtype=dtype
        )
    if "text_scheduler" not in made:
        made["text_scheduler"] = GLIDEScheduler()
    if "tokenizer" not in made:
        made["tokenizer"] = GlideTokenizer.bundled()
    return made


def tell_of_missing_text(unet: GlideSuperResolutionUNet, folder: Path) -> None:
    """Warn that an upsampler reads no text, as those of the folders of June 2022."""
    if unet.config.xf_width is None:
        logger.warning(
            "%s: the upsampler of this folder has no weights for the text (they were lost when it "
            "was made), so it enlarges without looking at the prompt; "
            "GLIDEPipeline.from_single_file(..., upsample='upsample.pt') reads the authors'",
            folder,
        )


def upsampler_scheduler(unet: GlideSuperResolutionUNet) -> GLIDEScheduler:
    """Return the sampler that the authors use for an upsampler."""
    return GLIDEScheduler(beta_schedule="linear", sampler="ddpm" if inpaints(unet) else "ddim")


def inpaints(unet: GlideTextToImageUNet | GlideSuperResolutionUNet) -> bool:
    """Tell whether a network reads a known image and its mask."""
    return unet.config_class.from_dict(unet.config).inpaints


def low_res_size(unet: GlideSuperResolutionUNet) -> int:
    """Return height and width of the images that an upsampler enlarges."""
    return int(unet.config.sample_size // unet.config.upscale_factor)


def config_of(name: str, scheduler: Any) -> Mapping[str, Any]:
    """Return the configuration of a scheduler, ours or a foreign one.

    Raises:
        ValueError: If it has none.
    """
    config = getattr(scheduler, "config", None)
    if not isinstance(config, Mapping):
        raise ValueError(f"{name} must be a scheduler, got {type(scheduler).__name__}")
    return config


def check_networks(text_unet: Any, upscale_unet: Any, tokenizer: Any) -> None:
    """Raise ValueError if networks and tokenizer do not suit each other."""
    if not isinstance(text_unet, GlideTextToImageUNet):
        raise ValueError(
            f"text_unet must be a GlideTextToImageUNet, got {type(text_unet).__name__}"
        )
    networks: dict[str, Any] = {"text_unet": text_unet}
    if upscale_unet is not None:
        if not isinstance(upscale_unet, GlideSuperResolutionUNet):
            raise ValueError(
                f"upscale_unet must be a GlideSuperResolutionUNet, got "
                f"{type(upscale_unet).__name__}"
            )
        networks["upscale_unet"] = upscale_unet
        reads, makes = low_res_size(upscale_unet), text_unet.config.sample_size
        if reads != makes:
            raise ValueError(
                f"upscale_unet enlarges images of {reads} pixels, but text_unet makes images of "
                f"{makes} pixels"
            )
        if upscale_unet.config.out_channels != text_unet.config.out_channels:
            raise ValueError(
                f"upscale_unet has {upscale_unet.config.out_channels} out_channels, but text_unet "
                f"has {text_unet.config.out_channels}"
            )
    for name, unet in networks.items():
        if unet.config.xf_width is not None and unet.config.n_vocab != tokenizer.n_vocab:
            raise ValueError(
                f"tokenizer must have the {unet.config.n_vocab} tokens of {name}, got "
                f"{tokenizer.n_vocab}"
            )
