"""What the configurations of the image UNets have in common."""

from __future__ import annotations

from dataclasses import dataclass

from septet.models.config import (
    MAX_CHANNELS,
    MAX_LEVELS,
    MAX_PARAMETERS,
    ModelConfig,
    check_bool,
    check_choice,
    check_int,
    check_number,
    each,
)
from septet.nn import ACTIVATIONS

# As the limits of septet.models.config.
MAX_CLASSES = 1 << 24


@dataclass(frozen=True)
class UNetConfig(ModelConfig):
    """The keys that all image UNets of diffusers have.

    Attributes:
        sample_size: Height and width of a sample in pixels, or ``[height, width]``; only read by
            pipelines.
        in_channels: Channels of a sample.
        out_channels: Channels of the output.
        center_input_sample: Map a sample from [0, 1] to [-1, 1] first.
        time_embedding_dim: Width of the time embedding; None means four times the first width.
        freq_shift: See :func:`septet.nn.sinusoidal_embedding`.
        flip_sin_to_cos: See :func:`septet.nn.sinusoidal_embedding`.
        down_block_types: Per level, highest resolution first, the kind of block on the way down.
        up_block_types: Per level, lowest resolution first, the kind of block on the way up.
        block_out_channels: Channels per level, highest resolution first.
        mid_block_scale_factor: Sums in the middle block are divided by it.
        downsample_padding: 1, or 0 for padding right and bottom only.
        dropout: Kept for other readers of the file; sampling has none.
        act_fn: Activation of the residual blocks.
        norm_num_groups: Groups of the normalisations.
        norm_eps: Epsilon of the normalisations.
        resnet_time_scale_shift: How the time embedding enters, ``"default"`` (added) or
            ``"scale_shift"``.
        class_embed_type: None, ``"timestep"`` or ``"identity"``.
        num_class_embeds: Number of classes of a learned embedding, with ``class_embed_type`` None.
        time_embedding_type: ``"positional"``, the only one supported.
    """

    sample_size: int | tuple[int, int] | None = None
    in_channels: int = 3
    out_channels: int = 3
    center_input_sample: bool = False
    time_embedding_type: str = "positional"
    time_embedding_dim: int | None = None
    freq_shift: float = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[str, ...] = ()
    up_block_types: tuple[str, ...] = ()
    block_out_channels: tuple[int, ...] = ()
    mid_block_scale_factor: float = 1
    downsample_padding: int = 1
    dropout: float = 0.0
    act_fn: str = "silu"
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    resnet_time_scale_shift: str = "default"
    class_embed_type: str | None = None
    num_class_embeds: int | None = None

    @property
    def num_levels(self) -> int:
        """The number of resolutions the network works at."""
        return len(self.block_out_channels)

    @property
    def time_width(self) -> int:
        """The width of the time embedding."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    def _check_common(self, down_kinds: tuple[str, ...], up_kinds: tuple[str, ...]) -> None:
        """Check all of these keys, but not how large the network gets.

        Args:
            down_kinds: The kinds of blocks that there are on the way down.
            up_kinds: The same on the way up.
        """
        self._check_sizes()
        self._check_time()
        self._check_choices()
        self._check_blocks({"down_block_types": down_kinds, "up_block_types": up_kinds})
        check_int("norm_num_groups", self.norm_num_groups, 1, MAX_CHANNELS)
        for level in range(self.num_levels):
            self._check_divides("norm_num_groups", self.norm_num_groups, level)

    def _check_sizes(self) -> None:
        if isinstance(self.sample_size, int):
            check_int("sample_size", self.sample_size, 1, 1 << 20)
        elif self.sample_size is not None:
            for key, size in each("sample_size", self.sample_size, 2, 2):
                check_int(key, size, 1, 1 << 20)
        check_int("in_channels", self.in_channels, 1, MAX_CHANNELS)
        check_int("out_channels", self.out_channels, 1, MAX_CHANNELS)
        check_int("downsample_padding", self.downsample_padding, 0, 1)
        check_number("dropout", self.dropout, 0, 1)
        check_number("norm_eps", self.norm_eps, 0, 1)
        check_number("mid_block_scale_factor", self.mid_block_scale_factor, 1e-6, 1e6)
        if self.num_class_embeds is not None:
            check_int("num_class_embeds", self.num_class_embeds, 1, MAX_CLASSES)

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
        for key in ("center_input_sample", "flip_sin_to_cos"):
            check_bool(key, getattr(self, key))
        act_fn = self.act_fn.lower() if isinstance(self.act_fn, str) else self.act_fn
        check_choice("act_fn", act_fn, tuple(ACTIVATIONS))
        check_choice(
            "resnet_time_scale_shift", self.resnet_time_scale_shift, ("default", "scale_shift")
        )
        check_choice("class_embed_type", self.class_embed_type, (None, "timestep", "identity"))

    def _check_blocks(self, kinds: dict[str, tuple[str, ...]]) -> None:
        for key, channels in each("block_out_channels", self.block_out_channels, 1, MAX_LEVELS):
            check_int(key, channels, 1, MAX_CHANNELS)
        for name, choices in kinds.items():
            for key, block_type in each(name, getattr(self, name), 1, MAX_LEVELS):
                check_choice(key, block_type, choices)
            self._check_per_level(name)
        half = self.block_out_channels[0] // 2
        if half == self.freq_shift:
            raise ValueError(
                f"freq_shift must differ from block_out_channels[0] // 2, both are {half}"
            )

    def _check_per_level(self, key: str) -> None:
        if len(getattr(self, key)) != self.num_levels:
            raise ValueError(
                f"{key} must have one entry per entry of block_out_channels, got "
                f"{len(getattr(self, key))} for {self.num_levels}"
            )

    def _check_divides(self, key: str, groups: int, level: int) -> None:
        channels = self.block_out_channels[level]
        if channels % groups:
            raise ValueError(
                f"{key} must divide block_out_channels, but {groups} does not divide "
                f"block_out_channels[{level}] = {channels}"
            )

    def _check_total(self, keys: str, blocks: float) -> None:
        """Refuse what no machine could hold.

        Args:
            keys: The keys that ask for it, besides block_out_channels.
            blocks: About how many parameters the blocks have.
        """
        total = blocks + self.time_width * (self.time_width + (self.num_class_embeds or 0))
        if total > MAX_PARAMETERS:
            raise ValueError(
                f"block_out_channels, {keys}, time_embedding_dim and num_class_embeds ask for "
                f"about {total:.1e} parameters, more than {MAX_PARAMETERS:.0e}"
            )
