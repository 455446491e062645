"""The configurations of the image autoencoders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from septet.models.config import (
    MAX_CHANNELS,
    MAX_LAYERS,
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

DOWN_BLOCK_TYPES = ("DownEncoderBlock2D", "AttnDownEncoderBlock2D")
UP_BLOCK_TYPES = ("UpDecoderBlock2D", "AttnUpDecoderBlock2D")

# As the limits of septet.models.config.
MAX_EMBEDDINGS = 1 << 24


@dataclass(frozen=True)
class AutoencoderConfig(ModelConfig):
    """What both autoencoders have in common.

    Attributes:
        in_channels: Channels of an image.
        out_channels: Channels of a decoded image.
        down_block_types: Per level ``"DownEncoderBlock2D"`` or ``"AttnDownEncoderBlock2D"``.
        up_block_types: Per level, lowest resolution first, ``"UpDecoderBlock2D"`` or
            ``"AttnUpDecoderBlock2D"``.
        block_out_channels: Channels per level, highest resolution first.
        layers_per_block: Residual blocks per level of the encoder; one more in the decoder.
        act_fn: Activation of the residual blocks.
        latent_channels: Channels of the latents.
        norm_num_groups: Groups of the normalisations.
        sample_size: Height and width of an image in pixels, or ``[height, width]``; the networks
            take other sizes too. It is the size of a tile where images are processed in tiles.
        scaling_factor: Pipelines multiply latents by it before the diffusion, and divide after.
        mid_block_add_attention: Whether the middle blocks attend.
        force_upcast: Kept for pipelines, which may run the network in float32 if it is true.
    """

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    act_fn: str = "silu"
    latent_channels: int = 4
    norm_num_groups: int = 32
    sample_size: int | tuple[int, int] = 32
    scaling_factor: float = 0.18215
    mid_block_add_attention: bool = True
    force_upcast: bool = True

    _flags: ClassVar[tuple[str, ...]] = ("mid_block_add_attention", "force_upcast")

    @property
    def downsampling(self) -> int:
        """Pixels of an image per pixel of its latents, in each direction."""
        return 1 << (len(self.block_out_channels) - 1)

    @property
    def tile_size(self) -> int:
        """Height and width of a tile in pixels."""
        return self.sample_size if isinstance(self.sample_size, int) else max(self.sample_size)

    def check(self) -> None:
        """Raise ValueError, naming the key, if a value makes no sense."""
        for key in ("in_channels", "out_channels", "latent_channels"):
            check_int(key, getattr(self, key), 1, MAX_CHANNELS)
        check_int("layers_per_block", self.layers_per_block, 1, MAX_LAYERS)
        if isinstance(self.sample_size, int):
            check_int("sample_size", self.sample_size, 1, 1 << 20)
        else:
            for key, size in each("sample_size", self.sample_size, 2, 2):
                check_int(key, size, 1, 1 << 20)
        check_number("scaling_factor", self.scaling_factor, 1e-6, 1e6)
        for key in self._flags:
            check_bool(key, getattr(self, key))
        act_fn = self.act_fn.lower() if isinstance(self.act_fn, str) else self.act_fn
        check_choice("act_fn", act_fn, tuple(ACTIVATIONS))
        self._check_blocks()
        self._check_total()

    def _check_blocks(self) -> None:
        for key, channels in each("block_out_channels", self.block_out_channels, 1, MAX_LEVELS):
            check_int(key, channels, 1, MAX_CHANNELS)
        levels = len(self.block_out_channels)
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
        groups = self.norm_num_groups
        check_int("norm_num_groups", groups, 1, MAX_CHANNELS)
        for level, channels in enumerate(self.block_out_channels):
            if channels % groups:
                raise ValueError(
                    f"norm_num_groups must divide block_out_channels, but {groups} does not "
                    f"divide block_out_channels[{level}] = {channels}"
                )

    def _check_total(self) -> None:
        # Two 3x3 convolutions and attention per layer, in the encoder and in the decoder.
        layers = 2 * self.layers_per_block + 3
        total = sum(22 * layers * channels**2 for channels in self.block_out_channels)
        if total > MAX_PARAMETERS:
            raise ValueError(
                f"block_out_channels and layers_per_block ask for about {total:.1e} parameters, "
                f"more than {MAX_PARAMETERS:.0e}"
            )


@dataclass(frozen=True)
class AutoencoderKLConfig(AutoencoderConfig):
    """All keys of diffusers' ``AutoencoderKL`` configuration, with its defaults.

    Attributes:
        shift_factor: Pipelines subtract it from latents before they scale them; None for 0.
        latents_mean: Kept for pipelines that normalise latents per channel.
        latents_std: The same.
        use_quant_conv: Whether a 1x1 convolution follows the encoder.
        use_post_quant_conv: Whether a 1x1 convolution precedes the decoder.
    """

    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True

    _flags: ClassVar[tuple[str, ...]] = (
        *AutoencoderConfig._flags,
        "use_quant_conv",
        "use_post_quant_conv",
    )

    def check(self) -> None:
        """Raise ValueError, naming the key, if a value makes no sense."""
        super().check()
        if self.shift_factor is not None:
            check_number("shift_factor", self.shift_factor, -1e6, 1e6)
        count = self.latent_channels
        for name, low in (("latents_mean", -1e6), ("latents_std", 1e-6)):
            value = getattr(self, name)
            if value is not None:
                for key, number in each(name, value, count, count):
                    check_number(key, number, low, 1e6)


@dataclass(frozen=True)
class VQConfig(AutoencoderConfig):
    """All keys of diffusers' ``VQModel`` configuration, with its defaults.

    Attributes:
        num_vq_embeddings: Entries of the codebook.
        vq_embed_dim: Width of an entry, None for ``latent_channels``.
        norm_type: ``"group"``; ``"spatial"``, for which latents modulate the decoder's
            normalisations (MoVQ), is not supported.
        lookup_from_codebook: Whether ``decode(..., force_not_quantize=True)`` takes indices.
    """

    latent_channels: int = 3
    force_upcast: bool = False
    num_vq_embeddings: int = 256
    vq_embed_dim: int | None = None
    norm_type: str = "group"
    lookup_from_codebook: bool = False

    _flags: ClassVar[tuple[str, ...]] = (*AutoencoderConfig._flags, "lookup_from_codebook")

    @property
    def embed_dim(self) -> int:
        """The width of a codebook entry."""
        return self.latent_channels if self.vq_embed_dim is None else self.vq_embed_dim

    def check(self) -> None:
        """Raise ValueError, naming the key, if a value makes no sense."""
        super().check()
        check_int("num_vq_embeddings", self.num_vq_embeddings, 1, MAX_EMBEDDINGS)
        if self.vq_embed_dim is not None:
            check_int("vq_embed_dim", self.vq_embed_dim, 1, MAX_CHANNELS)
        if self.norm_type == "spatial":
            raise ValueError("norm_type 'spatial' is not supported, expected 'group'")
        check_choice("norm_type", self.norm_type, ("group",))
        total = self.num_vq_embeddings * self.embed_dim
        if total > MAX_PARAMETERS:
            raise ValueError(
                f"num_vq_embeddings and vq_embed_dim ask for {total:.1e} parameters, more than "
                f"{MAX_PARAMETERS:.0e}"
            )
