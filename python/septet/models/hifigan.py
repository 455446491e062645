"""HiFi-GAN, a vocoder without diffusion (Kong et al. 2020), the usual companion of Grad-TTS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from septet.models.base import PretrainedModel
from septet.models.config import ModelConfig, check_choice, check_int, each
from septet.nn.conv1d import ConvTranspose1d

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_SLOPE = 0.1
#: The authors call the last activation without a slope, and so get torch's default.
_LAST_SLOPE = 0.01
_MAX_CHANNELS = 1 << 13
_MAX_FACTOR = 1 << 10


@dataclass(frozen=True)
class HiFiGANConfig(ModelConfig):
    """The generator's keys in the authors' configuration, with the values of V1.

    Attributes:
        resblock: ``"1"``, dilated and plain convolutions in pairs, or ``"2"``, dilated ones only.
        upsample_rates: Factors by which the stages lengthen; their product is the hop length.
        upsample_kernel_sizes: Kernels of the stages; each exceeds its factor by an even number.
        upsample_initial_channel: Channels before the first stage; every stage halves them.
        resblock_kernel_sizes: Kernels of the residual blocks of every stage; odd.
        resblock_dilation_sizes: Dilations within each of these blocks.
        num_mels: Bins of the mel spectrogram.
        sampling_rate: Of the audio, in Hz.
    """

    resblock: str = "1"
    upsample_rates: tuple[int, ...] = (8, 8, 2, 2)
    upsample_kernel_sizes: tuple[int, ...] = (16, 16, 4, 4)
    upsample_initial_channel: int = 512
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    num_mels: int = 80
    sampling_rate: int = 22050

    def check(self) -> None:
        """Raise ValueError, naming the key, if a value makes no sense."""
        check_choice("resblock", self.resblock, ("1", "2"))
        for key, rate in each("upsample_rates", self.upsample_rates, 1, 8):
            check_int(key, rate, 1, _MAX_FACTOR)
        stages = len(self.upsample_rates)
        kernels = each("upsample_kernel_sizes", self.upsample_kernel_sizes, stages, stages)
        for (key, kernel), rate in zip(kernels, self.upsample_rates, strict=True):
            check_int(key, kernel, rate, 2 * _MAX_FACTOR)
            if (kernel - rate) % 2:
                raise ValueError(f"{key} must exceed its rate {rate} by an even number")
        check_int("upsample_initial_channel", self.upsample_initial_channel, 1, _MAX_CHANNELS)
        if self.upsample_initial_channel % (1 << stages):
            raise ValueError(
                f"upsample_initial_channel must be a multiple of {1 << stages}, to be halved by "
                f"{stages} stages, got {self.upsample_initial_channel}"
            )
        for key, kernel in each("resblock_kernel_sizes", self.resblock_kernel_sizes, 1, 16):
            check_int(key, kernel, 1, 255)
            if kernel % 2 == 0:
                raise ValueError(f"{key} must be odd, got {kernel}")
        count = len(self.resblock_kernel_sizes)
        for key, sizes in each(
            "resblock_dilation_sizes", self.resblock_dilation_sizes, count, count
        ):
            for inner, dilation in each(key, sizes, 1, 16):
                check_int(inner, dilation, 1, _MAX_FACTOR)
        check_int("num_mels", self.num_mels, 1, _MAX_CHANNELS)
        check_int("sampling_rate", self.sampling_rate, 1, 1 << 20)

    @property
    def hop_length(self) -> int:
        """Samples of audio per frame."""
        product = 1
        for rate in self.upsample_rates:
            product *= rate
        return product

    @classmethod
    def from_dict(cls, values: Any) -> HiFiGANConfig:
        """Make a configuration; see :meth:`ModelConfig.from_dict`."""
        dilations = values.get("resblock_dilation_sizes")
        if isinstance(dilations, list | tuple):
            inner = tuple(tuple(d) if isinstance(d, list) else d for d in dilations)
            values = {**values, "resblock_dilation_sizes": inner}
        return super().from_dict(values)


class HiFiGANModel(PretrainedModel):
    """Turns mel spectrograms into waveforms.

    The authors' files hold weights in weight-norm form; they are folded when a file is read.

    Args:
        **config: The keys of :class:`HiFiGANConfig`; missing ones get their default.

    Raises:
        ValueError: If a key is unknown or a value makes no sense; nothing has been allocated then.
    """

    config_class: ClassVar[type[HiFiGANConfig]] = HiFiGANConfig

    def __init__(self, **config: Any) -> None:
        settings = HiFiGANConfig.from_dict(config)
        super().__init__(settings)
        self.hop_length = settings.hop_length
        width = settings.upsample_initial_channel
        self.conv_pre = nn.Conv1d(settings.num_mels, width, 7, padding=3)
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        shapes = list(
            zip(settings.resblock_kernel_sizes, settings.resblock_dilation_sizes, strict=True)
        )
        block = _PairBlock if settings.resblock == "1" else _PlainBlock
        for rate, kernel in zip(
            settings.upsample_rates, settings.upsample_kernel_sizes, strict=True
        ):
            padding = (kernel - rate) // 2
            self.ups.append(ConvTranspose1d(width, width // 2, kernel, rate, padding))
            width //= 2
            self.resblocks.extend(block(width, *shape) for shape in shapes)
        self.conv_post = nn.Conv1d(width, 1, 7, padding=3)

    def forward(self, mel: Tensor) -> Tensor:
        """Make audio.

        Args:
            mel: ``[B, num_mels, T]``, natural log of amplitude.

        Returns:
            ``[B, hop_length * T]`` in (-1, 1), in the type of the weights.

        Raises:
            ValueError: If the shape of ``mel`` does not suit.
        """
        if mel.ndim != 3 or mel.shape[1] != self.config.num_mels or not mel.shape[2]:
            raise ValueError(
                f"mel must have shape [B, {self.config.num_mels}, T] with at least one frame, got "
                f"{list(mel.shape)}"
            )
        hidden = self.conv_pre(mel)
        for stage, blocks in zip(self.ups, self._blocks(), strict=True):
            hidden = stage(F.leaky_relu(hidden, _SLOPE))
            total = blocks[0](hidden)
            for other in blocks[1:]:
                total = total + other(hidden)
            hidden = total / len(blocks)
        waveform: Tensor = self.conv_post(F.leaky_relu(hidden, _LAST_SLOPE))
        return torch.tanh(waveform)[:, 0]

    def _blocks(self) -> Iterator[list[nn.Module]]:
        """Go through the residual blocks of the stages."""
        per_stage = len(self.resblocks) // len(self.ups)
        for start in range(0, len(self.resblocks), per_stage):
            yield list(self.resblocks[start : start + per_stage])


class _PairBlock(nn.Module):
    """Per dilation a shortcut around a dilated and a plain convolution."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(_dilated(channels, kernel, d) for d in dilations)
        self.convs2 = nn.ModuleList(_dilated(channels, kernel, 1) for _ in dilations)

    def forward(self, sample: Tensor) -> Tensor:
        for dilated, plain in zip(self.convs1, self.convs2, strict=True):
            hidden = dilated(F.leaky_relu(sample, _SLOPE))
            sample = sample + plain(F.leaky_relu(hidden, _SLOPE))
        return sample


class _PlainBlock(nn.Module):
    """Per dilation a shortcut around a dilated convolution."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_dilated(channels, kernel, d) for d in dilations)

    def forward(self, sample: Tensor) -> Tensor:
        for dilated in self.convs:
            sample = sample + dilated(F.leaky_relu(sample, _SLOPE))
        return sample


def _dilated(channels: int, kernel: int, dilation: int) -> nn.Conv1d:
    padding = dilation * (kernel - 1) // 2
    return nn.Conv1d(channels, channels, kernel, padding=padding, dilation=dilation)
