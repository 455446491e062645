"""What the two image autoencoders have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from septet.models.base import PretrainedModel
from septet.nn import Decoder, Encoder, ResnetOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from septet.models.autoencoder_config import AutoencoderConfig

_EPS = 1e-6


@dataclass(frozen=True, eq=False)
class DecoderOutput:
    """What decoding returns.

    Attributes:
        sample: ``[B, out_channels, H, W]``.
        commit_loss: For a quantised autoencoder how far the latents were from the codebook, for
            training; else None.
    """

    sample: Tensor
    commit_loss: Tensor | None = None


class Autoencoder(PretrainedModel):
    """The checks of images, and the option to do a batch one by one.

    Args:
        settings: The checked configuration.
    """

    def __init__(self, settings: AutoencoderConfig) -> None:
        super().__init__(settings)
        self._downsampling = settings.downsampling
        self._in_channels = settings.in_channels
        self.use_slicing = False

    def enable_slicing(self) -> None:
        """Encode and decode the samples of a batch one by one, which takes less memory."""
        self.use_slicing = True

    def disable_slicing(self) -> None:
        """Encode and decode a batch at once again."""
        self.use_slicing = False

    def _in_slices(self, network: Callable[[Tensor], Tensor], sample: Tensor) -> Tensor:
        """Run a network on a batch, or on its samples one by one.

        The result is channels_last if the sample is only that, else contiguous.
        """
        if self.use_slicing and sample.shape[0] > 1:
            output = torch.cat([network(one) for one in torch.split(sample, 1)])
        else:
            output = network(sample)
        keep = sample.is_contiguous(memory_format=torch.channels_last)
        return output if keep and not sample.is_contiguous() else output.contiguous()

    def _check_images(self, sample: Tensor) -> None:
        if sample.ndim != 4 or sample.shape[1] != self._in_channels:
            raise ValueError(
                f"sample must have shape [B, {self._in_channels}, H, W], got {list(sample.shape)}"
            )
        least = self._downsampling
        if min(sample.shape[2:]) < least:
            raise ValueError(
                f"sample must have at least {least} x {least} pixels, got {list(sample.shape)}"
            )


def make_encoder(settings: AutoencoderConfig, out_channels: int) -> Encoder:
    """Make the encoder of an autoencoder; ``out_channels`` are those of what it returns."""
    return Encoder(
        settings.in_channels,
        out_channels,
        settings.block_out_channels,
        [kind.startswith("Attn") for kind in settings.down_block_types],
        _resnet_options(settings),
        num_layers=settings.layers_per_block,
        mid_attends=settings.mid_block_add_attention,
    )


def make_decoder(settings: AutoencoderConfig) -> Decoder:
    """Make the decoder of an autoencoder."""
    return Decoder(
        settings.latent_channels,
        settings.out_channels,
        settings.block_out_channels,
        [kind.startswith("Attn") for kind in settings.up_block_types],
        _resnet_options(settings),
        num_layers=settings.layers_per_block + 1,
        mid_attends=settings.mid_block_add_attention,
    )


def _resnet_options(settings: AutoencoderConfig) -> ResnetOptions:
    return ResnetOptions(
        temb_channels=None, groups=settings.norm_num_groups, eps=_EPS, act_fn=settings.act_fn
    )


def check_latents(latents: Tensor, channels: int) -> None:
    """Raise ValueError unless latents have shape ``[B, channels, H, W]``, not empty."""
    if latents.ndim != 4 or latents.shape[1] != channels or 0 in latents.shape[2:]:
        raise ValueError(
            f"latents must have shape [B, {channels}, H, W], got {list(latents.shape)}"
        )
