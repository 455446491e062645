"""The unconditional image network of DDPM, DDIM and PNDM."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from septet.models.base import PretrainedModel
from septet.models.unet_2d_config import UNet2DConfig
from septet.nn import (
    Conv2d,
    DownBlock2D,
    GroupNormAct,
    MidBlock2D,
    ResnetBlock2D,
    ResnetOptions,
    TimestepEmbedding,
    UpBlock2D,
    activation,
    sinusoidal_embedding,
)

if TYPE_CHECKING:
    from septet.nn.blocks import Resampling


@dataclass(frozen=True, eq=False)
class UNet2DOutput:
    """What the network returns.

    Attributes:
        sample: ``[B, out_channels, H, W]``, for DDPM the predicted noise.
    """

    sample: Tensor


@dataclass(frozen=True, eq=False)
class PreparedUNet2D:
    """A network together with everything about its timesteps that does not need the sample.

    Attributes:
        model: The network.
        times: ``[num_steps, B or 1, channels]``, the projected time embeddings of all residual
            blocks side by side, one row per timestep.
    """

    model: UNet2DModel
    times: Tensor

    def __len__(self) -> int:
        """Return the number of timesteps prepared."""
        return self.times.shape[0]

    def __call__(self, sample: Tensor, row: int | Tensor) -> Tensor:
        """Run the network at one of the prepared timesteps.

        Args:
            sample: ``[B, in_channels, H, W]``.
            row: Index of the timestep. A tensor with one integer, on the network's device, is
                read there without a host synchronisation.

        Returns:
            ``[B, out_channels, H, W]``.

        Raises:
            ValueError: If the shape of ``sample`` does not suit the network or the class labels.
        """
        if isinstance(row, Tensor):
            times = self.times.index_select(0, row.reshape(1)).squeeze(0)
        else:
            times = self.times[row]
        return self.model.denoise(sample, times)


class UNet2DModel(PretrainedModel):
    """A UNet that maps a noisy image and its timestep to, usually, the noise in it.

    Source: DDPM (Ho et al. 2020); keys and configuration as in diffusers' ``UNet2DModel``.

    Args:
        **config: The keys of :class:`UNet2DConfig`; missing ones get their default.

    Raises:
        ValueError: If a key is unknown or a value makes no sense; nothing has been allocated then.
    """

    config_class: ClassVar[type[UNet2DConfig]] = UNet2DConfig

    def __init__(self, **config: Any) -> None:
        settings = UNet2DConfig.from_dict(config)
        super().__init__(settings)
        self._settings = settings
        options = ResnetOptions(
            temb_channels=settings.time_width,
            groups=settings.norm_num_groups,
            eps=settings.norm_eps,
            act_fn=settings.act_fn,
            scale_shift=settings.resnet_time_scale_shift == "scale_shift",
        )
        first = settings.block_out_channels[0]
        self.conv_in = Conv2d(settings.in_channels, first, kernel_size=3, padding=1)
        self.time_embedding = TimestepEmbedding(first, settings.time_width)
        self.class_embedding = _class_embedding(settings)
        self.down_blocks = _down_blocks(settings, options)
        self.up_blocks = _up_blocks(settings, options)
        self.mid_block = _mid_block(settings, options)
        self.conv_norm_out = GroupNormAct(
            settings.norm_num_groups, first, settings.norm_eps, "silu"
        )
        self.conv_out = Conv2d(first, settings.out_channels, kernel_size=3, padding=1)
        self._time_channels = [block.time_channels for block in self._resnet_blocks()]

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """Run the network once.

        Args:
            sample: ``[B, in_channels, H, W]``; H and W are multiples of two to the power of the
                number of levels less one.
            timestep: A number, a 0-d tensor, or ``[1]`` or ``[B]``: one per sample.
            class_labels: ``[B]`` for a class-conditional network (``[B, width]`` with class
                embedding type "identity"), else None.
            return_dict: Whether to return an object instead of a tuple.

        Returns:
            The output, or a tuple with the sample alone.

        Raises:
            ValueError: If a shape is wrong, or class labels are missing or not expected.
        """
        timesteps = torch.as_tensor(timestep, device=self.device).reshape(-1)
        if timesteps.shape[0] not in (1, sample.shape[0]):
            raise ValueError(
                f"timestep must be a number or one number per sample, got {timesteps.shape[0]} "
                f"for {sample.shape[0]} samples"
            )
        embedding = self._embed(timesteps)[None]
        output = self.denoise(sample, self._project(embedding, class_labels)[0])
        return UNet2DOutput(output) if return_dict else (output,)

    def prepare(self, timesteps: Tensor, class_labels: Tensor | None = None) -> PreparedUNet2D:
        """Compute for many timesteps at once whatever does not depend on the sample.

        That is the sinusoidal embedding, the time (and class) network, and its projection in
        every residual block. Nothing is approximated.

        Args:
            timesteps: ``[num_steps]``.
            class_labels: As in :meth:`forward`, the same for all steps.

        Returns:
            ``prepared(sample, row)``, which runs the network at ``timesteps[row]``.

        Raises:
            ValueError: If a shape is wrong, or class labels are missing or not expected.
        """
        if timesteps.ndim != 1:
            raise ValueError(f"timesteps must have one axis, got shape {list(timesteps.shape)}")
        embedding = self._embed(timesteps.to(self.device))[:, None]
        return PreparedUNet2D(self, self._project(embedding, class_labels))

    def denoise(self, sample: Tensor, times: Tensor) -> Tensor:
        """Run the network with the projected time embeddings given.

        Args:
            sample: As in :meth:`forward`.
            times: ``[B or 1, channels]``, one row of what :meth:`prepare` computes.

        Returns:
            ``[B, out_channels, H, W]``.

        Raises:
            ValueError: If the shape of ``sample`` does not suit the network or ``times``.
        """
        self._check_sample(sample, times)
        projections = iter(torch.split(times, self._time_channels, dim=1))
        was_contiguous = sample.is_contiguous()
        if sample.device.type == "cpu":
            # oneDNN and our kernels work pixel by pixel: no convolution has to reorder its input
            sample = sample.contiguous(memory_format=torch.channels_last)
        if self._settings.center_input_sample:
            sample = 2 * sample - 1
        sample = self.conv_in(sample)
        states = [sample]
        for down_block in self.down_blocks:
            states += down_block(states[-1], projections)
        sample = states[-1]
        if self.mid_block is not None:
            sample = self.mid_block(sample, projections)
        for up_block in self.up_blocks:
            sample = up_block(sample, states, projections)
        output: Tensor = self.conv_out(self.conv_norm_out(sample))
        return output.contiguous() if was_contiguous else output

    def _embed(self, timesteps: Tensor) -> Tensor:
        """Embed timesteps ``[N]`` as ``[N, time_width]``."""
        embedding: Tensor = self.time_embedding(self._sinusoids(timesteps))
        return embedding

    def _sinusoids(self, values: Tensor) -> Tensor:
        settings = self._settings
        sinusoids = sinusoidal_embedding(
            values,
            settings.block_out_channels[0],
            flip_sin_to_cos=settings.flip_sin_to_cos,
            freq_shift=settings.freq_shift,
        )
        return sinusoids.to(self.dtype)

    def _embed_classes(self, class_labels: Tensor) -> Tensor:
        """Embed class labels ``[B]`` as ``[B, time_width]``."""
        class_labels = class_labels.to(self.device)
        kind = self._settings.class_embed_type
        if kind == "timestep":
            class_labels = self._sinusoids(class_labels)
        elif kind == "identity" and class_labels.shape[1:] != (self._settings.time_width,):
            raise ValueError(
                f"class_labels must have shape [B, {self._settings.time_width}], got "
                f"{list(class_labels.shape)}"
            )
        assert self.class_embedding is not None
        embedding: Tensor = self.class_embedding(class_labels).to(self.dtype)
        return embedding

    def _project(self, embedding: Tensor, class_labels: Tensor | None) -> Tensor:
        """Add the class embedding and project: ``[N, B or 1, width]`` to ``[N, B or 1, sum]``."""
        if self.class_embedding is not None:
            if class_labels is None:
                raise ValueError("class_labels must be given: this network is class-conditional")
            embedding = embedding + self._embed_classes(class_labels)[None]
        elif class_labels is not None:
            raise ValueError("class_labels must be None: this network is not class-conditional")
        activated = activation(self._settings.act_fn)(embedding)
        return torch.cat(
            [block.time_emb_proj(activated) for block in self._resnet_blocks()], dim=-1
        )

    def _resnet_blocks(self) -> list[ResnetBlock2D]:
        """List all residual blocks in the order in which they run."""
        middle = [] if self.mid_block is None else [self.mid_block]
        return [
            resnet
            for block in (*self.down_blocks, *middle, *self.up_blocks)
            for resnet in cast("DownBlock2D", block).resnet_blocks()
        ]

    def _check_sample(self, sample: Tensor, times: Tensor) -> None:
        settings = self._settings
        if sample.ndim != 4 or sample.shape[1] != settings.in_channels:
            raise ValueError(
                f"sample must have shape [B, {settings.in_channels}, H, W], got "
                f"{list(sample.shape)}"
            )
        multiple = 1 << (settings.num_levels - 1)
        if sample.shape[2] % multiple or sample.shape[3] % multiple:
            raise ValueError(
                f"sample must have height and width divisible by {multiple}, got "
                f"{list(sample.shape)}"
            )
        if times.shape[0] not in (1, sample.shape[0]):
            raise ValueError(
                f"sample must have the batch size of class_labels, got {sample.shape[0]} samples "
                f"for {times.shape[0]} labels"
            )


def _class_embedding(settings: UNet2DConfig) -> nn.Module | None:
    if settings.class_embed_type == "timestep":
        return TimestepEmbedding(settings.block_out_channels[0], settings.time_width)
    if settings.class_embed_type == "identity":
        return nn.Identity()
    if settings.num_class_embeds is not None:
        return nn.Embedding(settings.num_class_embeds, settings.time_width)
    return None


def _down_blocks(settings: UNet2DConfig, options: ResnetOptions) -> nn.ModuleList:
    blocks = nn.ModuleList()
    widths = settings.block_out_channels
    for level, block_type in enumerate(settings.down_block_types):
        attends = block_type == "AttnDownBlock2D"
        is_last = level == settings.num_levels - 1
        # Only blocks with attention read the configuration here, as in diffusers.
        kind = cast("Resampling", (attends and settings.downsample_type) or "conv")
        block = DownBlock2D(
            widths[max(level - 1, 0)],
            widths[level],
            options,
            num_layers=settings.layers_per_block,
            head_dim=settings.head_dim(level) if attends else None,
            downsample=None if is_last else kind,
            downsample_padding=settings.downsample_padding,
        )
        blocks.append(block)
    return blocks


def _mid_block(settings: UNet2DConfig, options: ResnetOptions) -> MidBlock2D | None:
    if settings.mid_block_type is None:
        return None
    return MidBlock2D(
        settings.block_out_channels[-1],
        replace(options, output_scale_factor=settings.mid_block_scale_factor),
        head_dim=settings.head_dim(settings.num_levels - 1) if settings.add_attention else None,
        attention_groups=settings.mid_attention_groups,
    )


def _up_blocks(settings: UNet2DConfig, options: ResnetOptions) -> nn.ModuleList:
    blocks = nn.ModuleList()
    widths = settings.block_out_channels
    levels = range(settings.num_levels - 1, -1, -1)
    for level, block_type in zip(levels, settings.up_block_types, strict=True):
        attends = block_type == "AttnUpBlock2D"
        kind = cast("Resampling", (attends and settings.upsample_type) or "conv")
        block = UpBlock2D(
            widths[max(level - 1, 0)],
            widths[min(level + 1, settings.num_levels - 1)],
            widths[level],
            options,
            num_layers=settings.layers_per_block + 1,
            head_dim=settings.head_dim(level) if attends else None,
            upsample=None if level == 0 else kind,
        )
        blocks.append(block)
    return blocks
