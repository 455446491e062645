"""The autoencoder of latent diffusion whose latents are entries of a codebook."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from septet.models.autoencoder import (
    Autoencoder,
    DecoderOutput,
    check_latents,
    make_decoder,
    make_encoder,
)
from septet.models.autoencoder_config import VQConfig
from septet.nn import Conv2d, VectorQuantizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True, eq=False)
class VQEncoderOutput:
    """What encoding returns.

    Attributes:
        latents: ``[B, vq_embed_dim, H, W]``, before quantisation.
    """

    latents: Tensor


class VQModel(Autoencoder):
    """Maps images to latents, and latents to images by way of the nearest codebook entries.

    Source: VQGAN (Esser et al. 2021) as used by Rombach et al. 2022; keys and configuration as in
    diffusers' ``VQModel``. No scaling factor is applied here: pipelines do that.

    Args:
        **config: The keys of :class:`VQConfig`; missing ones get their default.

    Attributes:
        use_slicing: See :meth:`enable_slicing`.

    Raises:
        ValueError: If a key is unknown or a value makes no sense; nothing has been allocated then.
    """

    config_class: ClassVar[type[VQConfig]] = VQConfig

    def __init__(self, **config: Any) -> None:
        settings = VQConfig.from_dict(config)
        channels, width = settings.latent_channels, settings.embed_dim
        super().__init__(settings)
        self.encoder = make_encoder(settings, channels)
        self.quant_conv = Conv2d(channels, width, kernel_size=1)
        self.quantize = VectorQuantizer(settings.num_vq_embeddings, width)
        self.post_quant_conv = Conv2d(width, channels, kernel_size=1)
        self.decoder = make_decoder(settings)
        self._embed_dim = width
        self._looks_up = settings.lookup_from_codebook

    def encode(self, sample: Tensor, return_dict: bool = True) -> VQEncoderOutput | tuple[Tensor]:
        """Encode images.

        Args:
            sample: ``[B, in_channels, H, W]``, usually in [-1, 1].
            return_dict: Whether to return an object instead of a tuple.

        Returns:
            ``[B, vq_embed_dim, H / f, W / f]``, not quantised yet; f is two to the power of the
            number of levels less one. Quotients are rounded down: what remains at the right and at
            the bottom has no latents of its own.

        Raises:
            ValueError: If the shape of ``sample`` is wrong.
        """
        self._check_images(sample)
        latents = self._in_slices(self._latents, sample)
        return VQEncoderOutput(latents) if return_dict else (latents,)

    def decode(
        self,
        h: Tensor,
        force_not_quantize: bool = False,
        return_dict: bool = True,
        shape: Sequence[int] | None = None,
    ) -> DecoderOutput | tuple[Tensor, Tensor]:
        """Decode latents, which are quantised first.

        Args:
            h: ``[B, vq_embed_dim, H, W]``. With ``force_not_quantize`` and the configuration key
                ``lookup_from_codebook``: indices of codebook entries, ``[B, H, W]`` or any shape of
                as many.
            force_not_quantize: Whether to decode latents as they are.
            return_dict: Whether to return an object instead of a tuple.
            shape: ``(B, H, W, vq_embed_dim)``, needed for indices that do not have theirs.

        Returns:
            The images, ``[B, out_channels, f * H, f * W]`` with f as in :meth:`encode`, and the
            loss of the quantisation: a scalar, or ``[B]`` zeros without.

        Raises:
            ValueError: If a shape is wrong, or an index out of range.
        """
        if force_not_quantize and self._looks_up:
            h = self.quantize.entries(self._index_grid(h, shape)).to(self.dtype)
        check_latents(h, self._embed_dim)
        if force_not_quantize:
            loss = torch.zeros(h.shape[0], device=h.device, dtype=h.dtype)
        else:
            h, loss, _ = self.quantize(h)
        sample = self._in_slices(self._images, h)
        return DecoderOutput(sample, loss) if return_dict else (sample, loss)

    def forward(
        self, sample: Tensor, return_dict: bool = True
    ) -> DecoderOutput | tuple[Tensor, Tensor]:
        """Encode images and decode the latents.

        Args:
            sample: See :meth:`encode`.
            return_dict: Whether to return an object instead of a tuple.

        Returns:
            See :meth:`decode`.

        Raises:
            ValueError: If the shape of ``sample`` is wrong.
        """
        self._check_images(sample)
        return self.decode(self._in_slices(self._latents, sample), return_dict=return_dict)

    def _latents(self, sample: Tensor) -> Tensor:
        latents: Tensor = self.quant_conv(self.encoder(self._enter(sample)))
        return latents

    def _images(self, h: Tensor) -> Tensor:
        sample: Tensor = self.decoder(self.post_quant_conv(self._enter(h)))
        return sample

    def _index_grid(self, indices: Tensor, shape: Sequence[int] | None) -> Tensor:
        """Bring indices into the shape ``[B, H, W]``."""
        if shape is not None:
            grid, width = tuple(shape[:3]), self._embed_dim
            fits = len(shape) == 4 and shape[3] == width and min(shape) > 0
            if not fits or math.prod(grid) != indices.numel():
                raise ValueError(
                    f"shape must be (B, H, W, {width}) with one pixel per index, got "
                    f"{tuple(shape)} for {indices.numel()} indices"
                )
            indices = indices.reshape(grid)
        if indices.ndim != 3:
            raise ValueError(
                f"indices must have shape [B, H, W] where no shape is given, got "
                f"{list(indices.shape)}"
            )
        return indices
