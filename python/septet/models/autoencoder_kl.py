"""The autoencoder of latent diffusion whose latents are regularised towards a normal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from septet.models.autoencoder import (
    Autoencoder,
    DecoderOutput,
    check_latents,
    make_decoder,
    make_encoder,
)
from septet.models.autoencoder_config import AutoencoderKLConfig
from septet.models.gaussian import DiagonalGaussianDistribution
from septet.models.tiling import Tiling
from septet.nn import Conv2d

if TYPE_CHECKING:
    from torch import Tensor

    from septet.random import Generators


@dataclass(frozen=True, eq=False)
class AutoencoderKLOutput:
    """What encoding returns.

    Attributes:
        latent_dist: The distribution of the latents.
    """

    latent_dist: DiagonalGaussianDistribution


class AutoencoderKL(Autoencoder):
    """Maps images to a distribution of latents, and latents to images.

    Source: Rombach et al. 2022; keys and configuration as in diffusers' ``AutoencoderKL``. No
    scaling factor is applied here: pipelines do that.

    Args:
        **config: The keys of :class:`AutoencoderKLConfig`; missing ones get their default.

    Attributes:
        use_slicing: See :meth:`enable_slicing`.
        use_tiling: See :meth:`enable_tiling`.
        tile_sample_min_size: Height and width of a tile in pixels; ``sample_size`` at first.
        tile_latent_min_size: The same in pixels of the latents.
        tile_overlap_factor: The part of a tile that it shares with its neighbour.

    Raises:
        ValueError: If a key is unknown or a value makes no sense; nothing has been allocated then.
    """

    config_class: ClassVar[type[AutoencoderKLConfig]] = AutoencoderKLConfig

    def __init__(self, **config: Any) -> None:
        settings = AutoencoderKLConfig.from_dict(config)
        channels = settings.latent_channels
        super().__init__(settings)
        self.encoder = make_encoder(settings, 2 * channels)
        self.decoder = make_decoder(settings)
        self.quant_conv = (
            Conv2d(2 * channels, 2 * channels, kernel_size=1) if settings.use_quant_conv else None
        )
        self.post_quant_conv = (
            Conv2d(channels, channels, kernel_size=1) if settings.use_post_quant_conv else None
        )
        self._latent_channels = channels
        self.use_tiling = False
        self.tile_sample_min_size = settings.tile_size
        self.tile_latent_min_size = settings.tile_size // settings.downsampling
        self.tile_overlap_factor = 0.25

    def enable_tiling(self) -> None:
        """Process images larger than a tile in tiles that overlap, which bounds the memory.

        The result differs a little: a tile does not see beyond its edges.
        """
        self.use_tiling = True

    def disable_tiling(self) -> None:
        """Process images in one piece again."""
        self.use_tiling = False

    def encode(
        self, sample: Tensor, return_dict: bool = True
    ) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """Encode images.

        Args:
            sample: ``[B, in_channels, H, W]``, usually in [-1, 1].
            return_dict: Whether to return an object instead of a tuple.

        Returns:
            The distribution of ``[B, latent_channels, H / f, W / f]``, where f is two to the power
            of the number of levels less one. Quotients are rounded down: what remains at the right
            and at the bottom has no latents of its own.

        Raises:
            ValueError: If the shape of ``sample`` is wrong.
        """
        self._check_images(sample)
        posterior = DiagonalGaussianDistribution(self._in_slices(self._moments, sample))
        return AutoencoderKLOutput(posterior) if return_dict else (posterior,)

    def decode(
        self, z: Tensor, return_dict: bool = True, generator: object = None
    ) -> DecoderOutput | tuple[Tensor]:
        """Decode latents.

        Args:
            z: ``[B, latent_channels, H, W]``.
            return_dict: Whether to return an object instead of a tuple.
            generator: Ignored: nothing is random here. Pipelines of diffusers pass one.

        Returns:
            The images, ``[B, out_channels, f * H, f * W]`` with f as in :meth:`encode`.

        Raises:
            ValueError: If the shape of ``z`` is wrong.
        """
        check_latents(z, self._latent_channels)
        sample = self._in_slices(self._images, z)
        return DecoderOutput(sample) if return_dict else (sample,)

    def forward(
        self,
        sample: Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: Generators = None,
    ) -> DecoderOutput | tuple[Tensor]:
        """Encode images and decode the latents.

        Args:
            sample: See :meth:`encode`.
            sample_posterior: Whether to draw the latents; else the most likely ones are taken.
            return_dict: Whether to return an object instead of a tuple.
            generator: See :func:`septet.randn_tensor`.

        Returns:
            The images, ``[B, out_channels, H, W]``.

        Raises:
            ValueError: If the shape of ``sample`` is wrong.
        """
        self._check_images(sample)
        posterior = DiagonalGaussianDistribution(self._in_slices(self._moments, sample))
        z = posterior.sample(generator) if sample_posterior else posterior.mode()
        return self.decode(z, return_dict)

    def _moments(self, sample: Tensor) -> Tensor:
        if self.use_tiling and max(sample.shape[2:]) > self.tile_sample_min_size:
            tiling = Tiling.with_overlap(
                self.tile_sample_min_size, self.tile_latent_min_size, self.tile_overlap_factor
            )
            return tiling.run(self._encode_piece, sample)
        return self._encode_piece(sample)

    def _encode_piece(self, sample: Tensor) -> Tensor:
        encoded: Tensor = self.encoder(self._enter(sample))
        return encoded if self.quant_conv is None else self.quant_conv(encoded)

    def _images(self, z: Tensor) -> Tensor:
        if self.use_tiling and max(z.shape[2:]) > self.tile_latent_min_size:
            tiling = Tiling.with_overlap(
                self.tile_latent_min_size, self.tile_sample_min_size, self.tile_overlap_factor
            )
            return tiling.run(self._decode_piece, z)
        return self._decode_piece(z)

    def _decode_piece(self, z: Tensor) -> Tensor:
        z = self._enter(z)
        if self.post_quant_conv is not None:
            z = self.post_quant_conv(z)
        decoded: Tensor = self.decoder(z)
        return decoded
