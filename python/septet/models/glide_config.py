"""The configurations of GLIDE's two networks."""

from __future__ import annotations

from dataclasses import dataclass

from septet.models.config import (
    MAX_CHANNELS,
    MAX_LAYERS,
    MAX_LEVELS,
    MAX_PARAMETERS,
    ModelConfig,
    check_choice,
    check_int,
    check_number,
    each,
)
from septet.models.unet_config import MAX_CLASSES
from septet.nn.text_transformer import TEXT_ACTIVATIONS

_MAX_TEXT = 1 << 16


@dataclass(frozen=True)
class GlideTextToImageConfig(ModelConfig):
    """The keys of the authors' networks; the defaults are those of the published base model.

    Attributes:
        sample_size: Height and width of a sample; only read by pipelines.
        in_channels: Channels of the input: those of a sample, or for inpainting twice as many
            and one more (the known image and its mask).
        out_channels: Channels of the output, twice those of a sample: the noise and where its
            variance lies in its range.
        model_channels: Width that the multipliers multiply; also that of the timestep's sines.
        channel_mult: Width of every level in ``model_channels``, highest resolution first.
        num_res_blocks: Residual blocks per level on the way down; one more on the way up.
        attention_resolutions: By what a resolution with attention is smaller than the sample.
        num_heads: Number of attention heads, where ``num_head_channels`` is None.
        num_head_channels: Width of an attention head.
        norm_num_groups: Groups of the normalisations; 32 in all of the authors' networks.
        dropout: Share of channels dropped while training.
        text_ctx: Number of tokens of a text.
        xf_width: Width of the text transformer; None for a network that reads no text.
        xf_layers: Its number of layers.
        xf_heads: Its number of heads.
        n_vocab: Size of the vocabulary; the last entry is the padding.
        hidden_act: Its activation, "gelu" (the authors'), or "quick_gelu" as in the folder of
            June 2022.
    """

    sample_size: int = 64
    in_channels: int = 3
    out_channels: int = 6
    model_channels: int = 192
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    num_res_blocks: int = 3
    attention_resolutions: tuple[int, ...] = (2, 4, 8)
    num_heads: int = 1
    num_head_channels: int | None = 64
    norm_num_groups: int = 32
    dropout: float = 0.1
    text_ctx: int = 128
    xf_width: int | None = 512
    xf_layers: int = 16
    xf_heads: int = 8
    n_vocab: int = 50257
    hidden_act: str = "gelu"

    @property
    def sample_channels(self) -> int:
        """Channels of a sample."""
        return self.out_channels // 2

    @property
    def condition_channels(self) -> int:
        """Channels of the input beside the sample, inpainting aside."""
        return 0

    @property
    def inpaints(self) -> bool:
        """Whether the input has a known image and its mask."""
        return self.in_channels > self.sample_channels + self.condition_channels

    @property
    def embedding_channels(self) -> int:
        """Width of the embedding of timestep and text."""
        return 4 * self.model_channels

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every level."""
        return tuple(self.model_channels * factor for factor in self.channel_mult)

    def attends(self, level: int) -> bool:
        """Tell whether a level has attention."""
        return 1 << level in self.attention_resolutions

    def check(self) -> None:
        """Raise ValueError, naming the key, if a value makes no sense."""
        self._check_sizes()
        self._check_channels()
        self._check_attention()
        if self.xf_width is not None:
            self._check_text()
        self._check_total()

    def _check_sizes(self) -> None:
        check_int("sample_size", self.sample_size, 1, 1 << 20)
        check_int("model_channels", self.model_channels, 1, MAX_CHANNELS)
        for key, factor in each("channel_mult", self.channel_mult, 1, MAX_LEVELS):
            check_int(key, factor, 1, MAX_CHANNELS)
        for key, factor in each("attention_resolutions", self.attention_resolutions, 0, MAX_LEVELS):
            check_int(key, factor, 1, 1 << MAX_LEVELS)
        check_int("num_res_blocks", self.num_res_blocks, 1, MAX_LAYERS)
        check_number("dropout", self.dropout, 0, 1)

    def _check_channels(self) -> None:
        check_int("out_channels", self.out_channels, 2, MAX_CHANNELS)
        if self.out_channels % 2:
            raise ValueError(
                f"out_channels must be even, noise and its variance, got {self.out_channels}"
            )
        plain = self.sample_channels + self.condition_channels
        expected = (plain, plain + self.sample_channels + 1)
        if self.in_channels not in expected:
            raise ValueError(
                f"in_channels must be {expected[0]}, or {expected[1]} for inpainting, with "
                f"out_channels {self.out_channels}; got {self.in_channels!r}"
            )

    def _check_attention(self) -> None:
        check_int("norm_num_groups", self.norm_num_groups, 1, MAX_CHANNELS)
        check_int("num_heads", self.num_heads, 1, MAX_CHANNELS)
        key, divisor = "num_heads", self.num_heads
        if self.num_head_channels is not None:
            check_int("num_head_channels", self.num_head_channels, 1, MAX_CHANNELS)
            key, divisor = "num_head_channels", self.num_head_channels
        last = len(self.widths) - 1
        for level, width in enumerate(self.widths):
            if width > MAX_CHANNELS or width % self.norm_num_groups:
                raise ValueError(
                    f"model_channels * channel_mult[{level}] must be a multiple of "
                    f"norm_num_groups = {self.norm_num_groups}, at most {MAX_CHANNELS}, got {width}"
                )
            if (level == last or self.attends(level)) and width % divisor:
                raise ValueError(
                    f"{key} must divide model_channels * channel_mult[{level}] = {width}, got "
                    f"{divisor}"
                )

    def _check_text(self) -> None:
        check_int("xf_width", self.xf_width, 1, MAX_CHANNELS)
        check_int("xf_layers", self.xf_layers, 1, 16 * MAX_LAYERS)
        check_int("xf_heads", self.xf_heads, 1, MAX_CHANNELS)
        check_int("text_ctx", self.text_ctx, 1, _MAX_TEXT)
        check_int("n_vocab", self.n_vocab, 1, MAX_CLASSES)
        check_choice("hidden_act", self.hidden_act, tuple(TEXT_ACTIVATIONS))
        if self.xf_width is not None and self.xf_width % self.xf_heads:
            raise ValueError(
                f"xf_heads must divide xf_width = {self.xf_width}, got {self.xf_heads}"
            )

    def _check_total(self) -> None:
        layers = 2 * self.num_res_blocks + 2
        # Two 3x3 convolutions, one of which reads twice the channels, attention, embedding.
        total = sum(
            layers * (32 * width + 2 * self.embedding_channels) * width for width in self.widths
        )
        if self.xf_width is not None:
            total += self.xf_width * (self.n_vocab + 12 * self.xf_layers * self.xf_width)
        if total > MAX_PARAMETERS:
            raise ValueError(
                "model_channels, channel_mult, num_res_blocks, xf_width, xf_layers and n_vocab ask "
                f"for about {total:.1e} parameters, more than {MAX_PARAMETERS:.0e}"
            )


@dataclass(frozen=True)
class GlideSuperResolutionConfig(GlideTextToImageConfig):
    """The same for the upsampler; the defaults are those of the published one.

    Attributes:
        in_channels: Channels of the input: twice those of a sample (the second half is the small
            image), or for inpainting three times as many and one more.
        upscale_factor: By what the sample is larger than the small image.
    """

    sample_size: int = 256
    in_channels: int = 6
    channel_mult: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (8, 16, 32)
    upscale_factor: int = 4

    @property
    def condition_channels(self) -> int:
        """Channels of the input beside the sample, inpainting aside: those of the small image."""
        return self.sample_channels

    @property
    def low_res_size(self) -> int:
        """Height and width of the small image."""
        return self.sample_size // self.upscale_factor

    def check(self) -> None:
        """Raise ValueError, naming the key, if a value makes no sense."""
        super().check()
        check_int("upscale_factor", self.upscale_factor, 1, self.sample_size)
        if self.sample_size % self.upscale_factor:
            raise ValueError(
                f"upscale_factor must divide sample_size = {self.sample_size}, got "
                f"{self.upscale_factor}"
            )
