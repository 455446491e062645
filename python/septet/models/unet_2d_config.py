"""The configuration of :class:`septet.models.UNet2DModel`."""

from __future__ import annotations

from dataclasses import dataclass

from septet.models.config import MAX_CHANNELS, MAX_LAYERS, check_bool, check_choice, check_int
from septet.models.unet_config import MAX_CLASSES, UNetConfig

DOWN_BLOCK_TYPES = ("DownBlock2D", "AttnDownBlock2D")
UP_BLOCK_TYPES = ("UpBlock2D", "AttnUpBlock2D")


@dataclass(frozen=True)
class UNet2DConfig(UNetConfig):
    """All keys of diffusers' ``UNet2DModel`` configuration, with its defaults.

    Block types are ``"DownBlock2D"`` and ``"AttnDownBlock2D"``, ``"UpBlock2D"`` and
    ``"AttnUpBlock2D"``. The network takes every size that it can halve often enough.

    Attributes:
        mid_block_type: ``"UNetMidBlock2D"``, or None for no middle block.
        layers_per_block: Residual blocks per level on the way down; one more on the way up.
        downsample_type: ``"conv"`` or ``"resnet"``, for levels with attention; others use "conv".
        upsample_type: The same on the way up.
        attention_head_dim: Width of an attention head; None means a single head.
        attn_norm_num_groups: Groups of the normalisation before the middle attention; None means
            ``norm_num_groups``, or no normalisation with ``"scale_shift"``.
        add_attention: Whether the middle block has attention.
        num_train_timesteps: Kept for other readers of the file; only learned time embeddings,
            which are not supported, have a use for it.
    """

    down_block_types: tuple[str, ...] = (
        "DownBlock2D",
        "AttnDownBlock2D",
        "AttnDownBlock2D",
        "AttnDownBlock2D",
    )
    up_block_types: tuple[str, ...] = (
        "AttnUpBlock2D",
        "AttnUpBlock2D",
        "AttnUpBlock2D",
        "UpBlock2D",
    )
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    mid_block_type: str | None = "UNetMidBlock2D"
    layers_per_block: int = 2
    downsample_type: str | None = "conv"
    upsample_type: str | None = "conv"
    attention_head_dim: int | None = 8
    attn_norm_num_groups: int | None = None
    add_attention: bool = True
    num_train_timesteps: int | None = None

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
        self._check_common(DOWN_BLOCK_TYPES, UP_BLOCK_TYPES)
        check_int("layers_per_block", self.layers_per_block, 1, MAX_LAYERS)
        if self.num_train_timesteps is not None:
            check_int("num_train_timesteps", self.num_train_timesteps, 1, MAX_CLASSES)
        check_bool("add_attention", self.add_attention)
        check_choice("mid_block_type", self.mid_block_type, ("UNetMidBlock2D", None))
        check_choice("downsample_type", self.downsample_type, ("conv", "resnet", None))
        check_choice("upsample_type", self.upsample_type, ("conv", "resnet", None))
        if self.attn_norm_num_groups is not None:
            check_int("attn_norm_num_groups", self.attn_norm_num_groups, 1, MAX_CHANNELS)
            self._check_divides(
                "attn_norm_num_groups", self.attn_norm_num_groups, self.num_levels - 1
            )
        if self.attention_head_dim is not None:
            high = min(self._attention_widths(), default=MAX_CHANNELS)
            check_int("attention_head_dim", self.attention_head_dim, 1, high)
        self._check_total("layers_per_block", self._block_parameters())

    def _block_parameters(self) -> float:
        # Two 3x3 convolutions, one of which reads twice the channels, attention, time projection.
        layers = 2 * self.layers_per_block + 1
        return sum(
            layers * (32 * channels + self.time_width) * channels
            for channels in self.block_out_channels
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
