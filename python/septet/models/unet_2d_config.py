"""The configuration of :class:`septet.models.UNet2DModel`."""

from __future__ import annotations

from dataclasses import dataclass

from septet.models.config import (
    ModelConfig,
    check_bool,
    check_choice,
    check_int,
    check_number,
    each,
)
from septet.nn import ACTIVATIONS

DOWN_BLOCK_TYPES = ("DownBlock2D", "AttnDownBlock2D")
UP_BLOCK_TYPES = ("UpBlock2D", "AttnUpBlock2D")

# Far above every published network, far below what would exhaust a machine by building it.
MAX_CHANNELS = 1 << 14
MAX_LEVELS = 12
MAX_LAYERS = 32
MAX_CLASSES = 1 << 24
MAX_PARAMETERS = 10_000_000_000


@dataclass(frozen=True)
class UNet2DConfig(ModelConfig):
    """All keys of diffusers' ``UNet2DModel`` configuration, with its defaults.

    Attributes:
        sample_size: Height and width of a sample in pixels, or ``[height, width]``; only read by
            pipelines, the network itself takes every size it can halve often enough.
        in_channels: Channels of a sample.
        out_channels: Channels of the output.
        center_input_sample: Map a sample from [0, 1] to [-1, 1] first.
        time_embedding_type: ``"positional"``, the only one supported.
        time_embedding_dim: Width of the time embedding; None means four times the first width.
        freq_shift: See :func:`septet.nn.sinusoidal_embedding`.
        flip_sin_to_cos: See :func:`septet.nn.sinusoidal_embedding`.
        down_block_types: Per level ``"DownBlock2D"`` or ``"AttnDownBlock2D"``.
        mid_block_type: ``"UNetMidBlock2D"``, or None for no middle block.
        up_block_types: Per level, lowest resolution first, ``"UpBlock2D"`` or ``"AttnUpBlock2D"``.
        block_out_channels: Channels per level, highest resolution first.
        layers_per_block: Residual blocks per level on the way down; one more on the way up.
        mid_block_scale_factor: Sums in the middle block are divided by it.
        downsample_padding: 1, or 0 for padding right and bottom only.
        downsample_type: ``"conv"`` or ``"resnet"``, for levels with attention; others use "conv".
        upsample_type: The same on the way up.
        dropout: Kept for other readers of the file; sampling has none.
        act_fn: Activation of the residual blocks.
        attention_head_dim: Width of an attention head; None means a single head.
        norm_num_groups: Groups of the normalisations.
        attn_norm_num_groups: Groups of the normalisation before the middle attention; None means
            ``norm_num_groups``, or no normalisation with ``"scale_shift"``.
        norm_eps: Epsilon of the normalisations.
        resnet_time_scale_shift: How the time embedding enters, ``"default"`` (added) or
            ``"scale_shift"``.
        add_attention: Whether the middle block has attention.
        class_embed_type: None, ``"timestep"`` or ``"identity"``.
        num_class_embeds: Number of classes of a learned embedding, with ``class_embed_type`` None.
        num_train_timesteps: Kept for other readers of the file; only learned time embeddings,
            which are not supported, have a use for it.
    """

    sample_size: int | tuple[int, int] | None = None
    in_channels: int = 3
    out_channels: int = 3
    center_input_sample: bool = False
    time_embedding_type: str = "positional"
    time_embedding_dim: int | None = None
    freq_shift: float = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[str, ...] = (
        "DownBlock2D",
        "AttnDownBlock2D",
        "AttnDownBlock2D",
        "AttnDownBlock2D",
    )
    mid_block_type: str | None = "UNetMidBlock2D"
    up_block_types: tuple[str, ...] = (
        "AttnUpBlock2D",
        "AttnUpBlock2D",
        "AttnUpBlock2D",
        "UpBlock2D",
    )
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    layers_per_block: int = 2
    mid_block_scale_factor: float = 1
    downsample_padding: int = 1
    downsample_type: str | None = "conv"
    upsample_type: str | None = "conv"
    dropout: float = 0.0
    act_fn: str = "silu"
    attention_head_dim: int | None = 8
    norm_num_groups: int = 32
    attn_norm_num_groups: int | None = None
    norm_eps: float = 1e-5
    resnet_time_scale_shift: str = "default"
    add_attention: bool = True
    class_embed_type: str | None = None
    num_class_embeds: int | None = None
    num_train_timesteps: int | None = None

    @property
    def num_levels(self) -> int:
        """The number of resolutions the network works at."""
        return len(self.block_out_channels)

    @property
    def time_width(self) -> int:
        """The width of the time embedding."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    @property
    def mid_attention_groups(self) -> int | None:
        """Groups of the normalisation before the middle attention, None for none."""
        if self.attn_norm_num_groups is not None:
            return self.attn_norm_num_groups
        return self.norm_num_groups if self.resnet_time_scale_shift == "default" else None

    def head_dim(self, level: int) -> int:
        """Return the width of an attention head at a level."""
        return self.attention_head_dim or self.block_out_channels[level]

    def check(self) -> None:
        """Raise ValueError, naming the key, if a value makes no sense."""
        self._check_sizes()
        self._check_time()
        self._check_choices()
        self._check_blocks()
        self._check_groups()
        self._check_total()

    def _check_sizes(self) -> None:
        if isinstance(self.sample_size, int):
            check_int("sample_size", self.sample_size, 1, 1 << 20)
        elif self.sample_size is not None:
            for key, size in each("sample_size", self.sample_size, 2, 2):
                check_int(key, size, 1, 1 << 20)
        check_int("in_channels", self.in_channels, 1, MAX_CHANNELS)
        check_int("out_channels", self.out_channels, 1, MAX_CHANNELS)
        check_int("layers_per_block", self.layers_per_block, 1, MAX_LAYERS)
        check_int("downsample_padding", self.downsample_padding, 0, 1)
        check_number("dropout", self.dropout, 0, 1)
        check_number("norm_eps", self.norm_eps, 0, 1)
        check_number("mid_block_scale_factor", self.mid_block_scale_factor, 1e-6, 1e6)
        if self.num_class_embeds is not None:
            check_int("num_class_embeds", self.num_class_embeds, 1, MAX_CLASSES)
        if self.num_train_timesteps is not None:
            check_int("num_train_timesteps", self.num_train_timesteps, 1, MAX_CLASSES)

    def _check_time(self) -> None:
        if self.time_embedding_type in ("fourier", "learned"):
            raise ValueError(
                f"time_embedding_type {self.time_embedding_type!r} is not supported, expected "
                "'positional'"
            )
        check_choice("time_embedding_type", self.time_embedding_type, ("positional",))
        if self.time_embedding_dim is not None:
            check_int("time_embedding_dim", self.time_embedding_dim, 1, 4 * MAX_CHANNELS)
        check_number("freq_shift", self.freq_shift, -1e6, 1e6)

    def _check_choices(self) -> None:
        for key in ("center_input_sample", "flip_sin_to_cos", "add_attention"):
            check_bool(key, getattr(self, key))
        act_fn = self.act_fn.lower() if isinstance(self.act_fn, str) else self.act_fn
        check_choice("act_fn", act_fn, tuple(ACTIVATIONS))
        check_choice("mid_block_type", self.mid_block_type, ("UNetMidBlock2D", None))
        check_choice("downsample_type", self.downsample_type, ("conv", "resnet", None))
        check_choice("upsample_type", self.upsample_type, ("conv", "resnet", None))
        check_choice(
            "resnet_time_scale_shift", self.resnet_time_scale_shift, ("default", "scale_shift")
        )
        check_choice("class_embed_type", self.class_embed_type, (None, "timestep", "identity"))

    def _check_blocks(self) -> None:
        for key, channels in each("block_out_channels", self.block_out_channels, 1, MAX_LEVELS):
            check_int(key, channels, 1, MAX_CHANNELS)
        levels = self.num_levels
        for name, choices in (
            ("down_block_types", DOWN_BLOCK_TYPES),
            ("up_block_types", UP_BLOCK_TYPES),
        ):
            for key, block_type in each(name, getattr(self, name), 1, MAX_LEVELS):
                check_choice(key, block_type, choices)
            if len(getattr(self, name)) != levels:
                raise ValueError(
                    f"{name} must have one entry per entry of block_out_channels, got "
                    f"{len(getattr(self, name))} for {levels}"
                )
        half = self.block_out_channels[0] // 2
        if half == self.freq_shift:
            raise ValueError(
                f"freq_shift must differ from block_out_channels[0] // 2, both are {half}"
            )

    def _check_groups(self) -> None:
        check_int("norm_num_groups", self.norm_num_groups, 1, MAX_CHANNELS)
        for level, channels in enumerate(self.block_out_channels):
            self._check_divides("norm_num_groups", self.norm_num_groups, level, channels)
        if self.attn_norm_num_groups is not None:
            check_int("attn_norm_num_groups", self.attn_norm_num_groups, 1, MAX_CHANNELS)
            last = self.num_levels - 1
            channels = self.block_out_channels[last]
            self._check_divides("attn_norm_num_groups", self.attn_norm_num_groups, last, channels)
        if self.attention_head_dim is not None:
            high = min(self._attention_widths(), default=MAX_CHANNELS)
            check_int("attention_head_dim", self.attention_head_dim, 1, high)

    def _check_total(self) -> None:
        layers = 2 * self.layers_per_block + 1
        total = self.time_width * (self.time_width + (self.num_class_embeds or 0))
        # Two 3x3 convolutions, one of which reads twice the channels, attention, time projection.
        total += sum(
            layers * (32 * channels + self.time_width) * channels
            for channels in self.block_out_channels
        )
        if total > MAX_PARAMETERS:
            raise ValueError(
                f"block_out_channels, layers_per_block, time_embedding_dim and num_class_embeds "
                f"ask for about {total:.1e} parameters, more than {MAX_PARAMETERS:.0e}"
            )

    def _attention_widths(self) -> list[int]:
        """List the widths of the levels at which something attends."""
        widths = [
            channels
            for kinds, order in ((self.down_block_types, 1), (self.up_block_types, -1))
            for kind, channels in zip(kinds, self.block_out_channels[::order], strict=True)
            if kind.startswith("Attn")
        ]
        if self.mid_block_type is not None and self.add_attention:
            widths.append(self.block_out_channels[-1])
        return widths

    @staticmethod
    def _check_divides(key: str, groups: int, level: int, channels: int) -> None:
        if channels % groups:
            raise ValueError(
                f"{key} must divide block_out_channels, but {groups} does not divide "
                f"block_out_channels[{level}] = {channels}"
            )
