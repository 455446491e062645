"""Latents: the shape a picture has inside an autoencoder, and the way back to pixels."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from septet.config import as_integer
from septet.pipelines.output import OUTPUT_TYPES, check_output_type, to_images

#: What a latent pipeline can return: also the latents themselves.
LATENT = "latent"


def vae_scale_factor(vae: Any) -> int:
    """Return how many pixels a latent stands for in each direction."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def check_latent_output(output_type: str, vae: Any) -> None:
    """Refuse an output type that is unknown or cannot show the autoencoder's pictures.

    Raises:
        ValueError: The message names the argument.
    """
    if output_type == LATENT:
        return
    if output_type not in OUTPUT_TYPES:
        known = (*OUTPUT_TYPES, LATENT)
        raise ValueError(f"output_type must be one of {known}, got {output_type!r}")
    check_output_type(output_type, vae.config.out_channels)


def latent_size(pixels: object, default: int | None, factor: int, name: str) -> int:
    """Return the number of latents along one side of a picture.

    Args:
        pixels: Length of the side; None means ``default`` latents.
        default: What the network was trained with, None if unknown.
        factor: Pixels per latent.
        name: "height" or "width", for the message.

    Raises:
        ValueError: If it is no positive multiple of the factor.
    """
    if pixels is None:
        if default is None:
            raise ValueError(f"{name} must be given: unet.config.sample_size is not set")
        return default
    length = as_integer(pixels)
    if length is None or length < 1 or length % factor:
        raise ValueError(f"{name} must be a positive multiple of {factor}, got {pixels!r}")
    return length // factor


def latents_to_images(vae: Any, latents: Tensor, output_type: str) -> Any:
    """Decode latents and map them to images, or leave them as they are for "latent".

    Args:
        vae: See :func:`decode_latents`.
        latents: The same.
        output_type: "latent", or see :func:`septet.pipelines.output.to_images`.
    """
    if output_type == LATENT:
        return latents
    return to_images(decode_latents(vae, latents), output_type)


def decode_latents(vae: Any, latents: Tensor) -> Tensor:
    """Turn latents into pictures ``[B, C, H, W]`` in about [-1, 1].

    Args:
        vae: An ``AutoencoderKL`` or ``VQModel`` of septet or diffusers.
        latents: ``[B, C, h, w]`` as the network made them: scaled by ``vae.config.scaling_factor``
            and moved by ``shift_factor``, where there is one.
    """
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    dtype = next(vae.parameters()).dtype
    scaled = latents / vae.config.scaling_factor + shift
    decoded: Tensor = vae.decode(scaled.to(dtype)).sample
    return decoded
