"""The configuration of :class:`septet.models.UNet2DConditionModel`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from septet.config import brief
from septet.models.config import (
    MAX_CHANNELS,
    MAX_LAYERS,
    check_bool,
    check_choice,
    check_int,
    each,
)
from septet.models.unet_config import UNetConfig
from septet.nn import TransformerOptions

DOWN_BLOCK_TYPES = ("DownBlock2D", "CrossAttnDownBlock2D")
UP_BLOCK_TYPES = ("UpBlock2D", "CrossAttnUpBlock2D")
MID_BLOCK_TYPES = ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None)
MAX_KERNEL = 15

# What networks of other pipelines use, with the values that mean "not used".
_NOT_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "num_attention_heads": (None,),
    "dual_cross_attention": (False,),
    "addition_embed_type": (None,),
    "addition_time_embed_dim": (None,),
    "addition_embed_type_num_heads": (64,),
    "resnet_skip_time_act": (False,),
    "resnet_out_scale_factor": (1.0,),
    "time_embedding_act_fn": (None,),
    "timestep_post_act": (None,),
    "time_cond_proj_dim": (None,),
    "projection_class_embeddings_input_dim": (None,),
    "attention_type": ("default",),
    "class_embeddings_concat": (False,),
    "mid_block_only_cross_attention": (None, False),
    "cross_attention_norm": (None,),
}


@dataclass(frozen=True)
class UNet2DConditionConfig(UNetConfig):
    """All keys of diffusers' ``UNet2DConditionModel`` configuration, with its defaults.

    Block types are ``"DownBlock2D"`` and ``"CrossAttnDownBlock2D"``, ``"UpBlock2D"`` and
    ``"CrossAttnUpBlock2D"``. Where a list is allowed it has one entry per level, highest resolution
    first. Keys that are not described here are accepted with their default only.

    Attributes:
        mid_block_type: ``"UNetMidBlock2DCrossAttn"``, ``"UNetMidBlock2D"`` (a single residual
            block), or None for no middle block.
        only_cross_attention: Whether the first attention of a transformer block, too, attends to
            the text; a flag or a list.
        layers_per_block: Residual blocks per level on the way down, one more on the way up; a
            number or a list.
        cross_attention_dim: Width of a token of the text; a list must have equal entries where
            something attends, since there is but one text.
        transformer_layers_per_block: Transformer blocks after each residual block; a number, or a
            list of numbers and of lists with one number per residual block.
        reverse_transformer_layers_per_block: The same for the way up, lowest resolution first;
            needed if the other holds lists.
        attention_head_dim: Number of attention heads, a number or a list. The name is a mistake of
            2022 that too many files share to correct it.
        use_linear_projection: Whether spatial transformers begin and end with a linear layer
            (Stable Diffusion 2) instead of a 1x1 convolution.
        upcast_attention: Kept for other readers of the file; logits are always float32 here.
        conv_in_kernel: Kernel size of the first convolution, odd.
        conv_out_kernel: Kernel size of the last convolution, odd.
    """

    in_channels: int = 4
    out_channels: int = 4
    down_block_types: tuple[str, ...] = (
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    )
    mid_block_type: str | None = "UNetMidBlock2DCrossAttn"
    up_block_types: tuple[str, ...] = (
        "UpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
    )
    only_cross_attention: bool | tuple[bool, ...] = False
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int | tuple[int, ...] = 2
    cross_attention_dim: int | tuple[int, ...] = 1280
    transformer_layers_per_block: int | tuple[int | tuple[int, ...], ...] = 1
    reverse_transformer_layers_per_block: tuple[int | tuple[int, ...], ...] | None = None
    encoder_hid_dim: int | None = None
    encoder_hid_dim_type: str | None = None
    attention_head_dim: int | tuple[int, ...] = 8
    num_attention_heads: int | tuple[int, ...] | None = None
    dual_cross_attention: bool = False
    use_linear_projection: bool = False
    addition_embed_type: str | None = None
    addition_time_embed_dim: int | None = None
    upcast_attention: bool = False
    resnet_skip_time_act: bool = False
    resnet_out_scale_factor: float = 1.0
    time_embedding_act_fn: str | None = None
    timestep_post_act: str | None = None
    time_cond_proj_dim: int | None = None
    conv_in_kernel: int = 3
    conv_out_kernel: int = 3
    projection_class_embeddings_input_dim: int | None = None
    attention_type: str = "default"
    class_embeddings_concat: bool = False
    mid_block_only_cross_attention: bool | None = None
    cross_attention_norm: str | None = None
    addition_embed_type_num_heads: int = 64

    @property
    def text_width(self) -> int | None:
        """The width of a token of the text, None if nothing attends to it."""
        levels = self._attending_levels()
        return self.at_level("cross_attention_dim", levels[0]) if levels else None

    def at_level(self, key: str, level: int) -> Any:
        """Return a value that may be given once for all levels, or per level."""
        value = getattr(self, key)
        return value[level] if isinstance(value, tuple) else value

    def transformer(self, level: int, part: str) -> TransformerOptions | None:
        """Describe the spatial transformers of a block; None if it has none.

        Args:
            level: The block's level, the lowest one for the middle block.
            part: ``"down"``, ``"mid"`` or ``"up"``.
        """
        if not self._attends(level, part):
            return None
        layers = self.at_level("layers_per_block", level) + (part == "up")
        return TransformerOptions(
            heads=self.at_level("attention_head_dim", level),
            context_dim=self.at_level("cross_attention_dim", level),
            layers=self._transformer_layers(level, part, 1 if part == "mid" else layers),
            use_linear_projection=self.use_linear_projection,
            only_cross_attention=part != "mid" and self.at_level("only_cross_attention", level),
        )

    def check(self) -> None:
        """Raise ValueError, naming the key, if a value makes no sense or is not supported."""
        for key, neutral in _NOT_SUPPORTED.items():
            value = getattr(self, key)
            same = [one for one in neutral if isinstance(value, bool) == isinstance(one, bool)]
            if value not in same:
                raise ValueError(f"{key} {brief(value)} is not supported, expected {neutral[0]!r}")
        self._check_common(DOWN_BLOCK_TYPES, UP_BLOCK_TYPES)
        check_choice("mid_block_type", self.mid_block_type, MID_BLOCK_TYPES)
        for key in ("use_linear_projection", "upcast_attention"):
            check_bool(key, getattr(self, key))
        for key in ("conv_in_kernel", "conv_out_kernel"):
            check_int(key, getattr(self, key), 1, MAX_KERNEL)
            if getattr(self, key) % 2 == 0:
                raise ValueError(f"{key} must be odd, got {getattr(self, key)}")
        for key, entry in self._per_level("only_cross_attention"):
            check_bool(key, entry)
        for key, high in (
            ("layers_per_block", MAX_LAYERS),
            ("cross_attention_dim", MAX_CHANNELS),
            ("attention_head_dim", MAX_CHANNELS),
        ):
            for name, entry in self._per_level(key):
                check_int(name, entry, 1, high)
        self._check_transformer_layers()
        self._check_attention()
        self._check_total(
            "layers_per_block, transformer_layers_per_block, cross_attention_dim",
            self._block_parameters(),
        )

    def _per_level(self, key: str) -> list[tuple[str, Any]]:
        """List a value under its key, or each entry of a list under key and index."""
        value = getattr(self, key)
        if not isinstance(value, tuple):
            return [(key, value)]
        self._check_per_level(key)
        return list(each(key, value, self.num_levels, self.num_levels))

    def _check_transformer_layers(self) -> None:
        down, up = "transformer_layers_per_block", "reverse_transformer_layers_per_block"
        nested = False
        for key in (down, up) if self.reverse_transformer_layers_per_block is not None else (down,):
            if key == up and not isinstance(self.reverse_transformer_layers_per_block, tuple):
                raise ValueError(f"{up} must be a list, got {brief(getattr(self, up))}")
            for index, (name, entry) in enumerate(self._per_level(key)):
                if not isinstance(entry, list | tuple):
                    check_int(name, entry, 1, MAX_LAYERS)
                    continue
                nested |= key == down
                level = index if key == down else self.num_levels - 1 - index
                count = self.at_level("layers_per_block", level) + (key == up)
                for inner, layers in each(name, tuple(entry), count, count):
                    check_int(inner, layers, 1, MAX_LAYERS)
        if nested and self.reverse_transformer_layers_per_block is None:
            raise ValueError(f"{up} must be given, since {down} holds lists")

    def _check_attention(self) -> None:
        levels = self._attending_levels()
        for level in levels:
            heads = self.at_level("attention_head_dim", level)
            if heads > self.block_out_channels[level]:
                raise ValueError(
                    f"attention_head_dim, the number of heads, must not exceed block_out_channels"
                    f"[{level}] = {self.block_out_channels[level]}, got {heads}"
                )
        widths = {self.at_level("cross_attention_dim", level) for level in levels}
        if len(widths) > 1:
            raise ValueError(
                f"cross_attention_dim must be the same wherever something attends to the text, got "
                f"{sorted(widths)}"
            )

    def _attends(self, level: int, part: str) -> bool:
        if part == "mid":
            return self.mid_block_type == "UNetMidBlock2DCrossAttn"
        kinds = self.down_block_types if part == "down" else self.up_block_types[::-1]
        return kinds[level].startswith("CrossAttn")

    def _attending_levels(self) -> list[int]:
        """List the levels at which something attends to the text."""
        last = self.num_levels - 1
        return [
            level
            for level in range(self.num_levels)
            if self._attends(level, "down")
            or self._attends(level, "up")
            or (level == last and self._attends(level, "mid"))
        ]

    def _transformer_layers(self, level: int, part: str, count: int) -> tuple[int, ...]:
        """Return the number of transformer blocks after each of ``count`` residual blocks."""
        layers = self.at_level("transformer_layers_per_block", level)
        if part == "up" and self.reverse_transformer_layers_per_block is not None:
            layers = self.reverse_transformer_layers_per_block[self.num_levels - 1 - level]
        return tuple(layers)[:count] if isinstance(layers, list | tuple) else (layers,) * count

    def _block_parameters(self) -> float:
        total = 0
        for level, channels in enumerate(self.block_out_channels):
            per_level = 2 * self.at_level("layers_per_block", level) + 3
            # Two 3x3 convolutions, one of which reads twice the channels, and the time projection.
            total += per_level * (32 * channels + self.time_width) * channels
            for part in ("down", "mid", "up"):
                options = self.transformer(level, part)
                if options is not None:
                    # 4 C^2 of self-attention, 2 C^2 of cross-attention, 12 C^2 after it.
                    width = 18 * channels + 2 * options.context_dim
                    total += sum(options.layers) * width * channels
        return total
