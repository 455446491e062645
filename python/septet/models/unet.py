"""What the image UNets have in common: the time, the class, and both ends of the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from septet.models.base import PretrainedModel
from septet.nn import (
    Conv2d,
    DownBlock2D,
    GroupNormAct,
    MidBlock2D,
    ResnetOptions,
    TextContext,
    TimestepEmbedding,
    activation,
    sinusoidal_embedding,
    timesteps_of_call,
)

if TYPE_CHECKING:
    from septet.models.unet_config import UNetConfig

SettingsT = TypeVar("SettingsT", bound="UNetConfig")


class UNet(PretrainedModel, Generic[SettingsT]):
    """A UNet whose residual blocks see an embedding of the timestep and perhaps of a class.

    A subclass makes the blocks.

    Args:
        settings: The checked configuration.
        conv_in_kernel: Kernel size of the first convolution.
        conv_out_kernel: Kernel size of the last convolution.
        time_act_fn: Activation of the time network.
        out_act_fn: Activation before the last convolution.
    """

    #: Whether sizes that cannot be halved often enough are rounded, or refused.
    takes_odd_sizes: ClassVar[bool] = False

    def __init__(
        self,
        settings: SettingsT,
        *,
        conv_in_kernel: int = 3,
        conv_out_kernel: int = 3,
        time_act_fn: str = "silu",
        out_act_fn: str = "silu",
    ) -> None:
        super().__init__(settings)
        self._settings = settings
        first, width = settings.block_out_channels[0], settings.time_width
        options = ResnetOptions(
            temb_channels=width,
            groups=settings.norm_num_groups,
            eps=settings.norm_eps,
            act_fn=settings.act_fn,
            scale_shift=settings.resnet_time_scale_shift == "scale_shift",
        )
        self.conv_in = Conv2d(
            settings.in_channels, first, conv_in_kernel, padding=conv_in_kernel // 2
        )
        self.time_embedding = TimestepEmbedding(first, width, time_act_fn)
        self.class_embedding = _class_embedding(settings, time_act_fn)
        self.down_blocks = self._down_blocks(options)
        self.up_blocks = self._up_blocks(options)
        self.mid_block = self._mid_block(options)
        self.conv_norm_out = GroupNormAct(
            settings.norm_num_groups, first, settings.norm_eps, out_act_fn
        )
        self.conv_out = Conv2d(
            first, settings.out_channels, conv_out_kernel, padding=conv_out_kernel // 2
        )
        self._time_channels = [
            resnet.time_channels for block in self._blocks() for resnet in block.resnet_blocks()
        ]

    def _down_blocks(self, options: ResnetOptions) -> nn.ModuleList:
        """Make the blocks of the way down, highest resolution first."""
        raise NotImplementedError

    def _mid_block(self, options: ResnetOptions) -> MidBlock2D | None:
        """Make the middle block, if the network has one."""
        raise NotImplementedError

    def _up_blocks(self, options: ResnetOptions) -> nn.ModuleList:
        """Make the blocks of the way up, lowest resolution first."""
        raise NotImplementedError

    def _blocks(self) -> list[DownBlock2D]:
        """List all blocks in the order in which they run."""
        middle = [] if self.mid_block is None else [self.mid_block]
        # All three kinds can list their layers, which is what this is for.
        return cast("list[DownBlock2D]", [*self.down_blocks, *middle, *self.up_blocks])

    def _time_of_call(
        self, sample: Tensor, timestep: Tensor | float, class_labels: Tensor | None
    ) -> Tensor:
        """Project the embedding of the timestep of one call, ``[B or 1, channels]``."""
        timesteps = timesteps_of_call(timestep, sample, self.device)
        return self._project_times(self._embed(timesteps)[None], class_labels)[0]

    def _times_of_steps(self, timesteps: Tensor, class_labels: Tensor | None) -> Tensor:
        """Project the embeddings of all steps, ``[num_steps, B or 1, channels]``."""
        if timesteps.ndim != 1:
            raise ValueError(f"timesteps must have one axis, got shape {list(timesteps.shape)}")
        embedding = self._embed(timesteps.to(self.device))[:, None]
        return self._project_times(embedding, class_labels)

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
        kind, width = self._settings.class_embed_type, self._settings.time_width
        if kind == "timestep":
            class_labels = self._sinusoids(class_labels)
        elif kind == "identity" and class_labels.shape[1:] != (width,):
            raise ValueError(
                f"class_labels must have shape [B, {width}], got {list(class_labels.shape)}"
            )
        assert self.class_embedding is not None
        embedding: Tensor = self.class_embedding(class_labels).to(self.dtype)
        return embedding

    def _project_times(self, embedding: Tensor, class_labels: Tensor | None) -> Tensor:
        """Add the class embedding and project: ``[N, B or 1, width]`` to ``[N, B or 1, sum]``."""
        if self.class_embedding is not None:
            if class_labels is None:
                raise ValueError("class_labels must be given: this network is class-conditional")
            embedding = embedding + self._embed_classes(class_labels)[None]
        elif class_labels is not None:
            raise ValueError("class_labels must be None: this network is not class-conditional")
        activated = activation(self._settings.act_fn)(embedding)
        return torch.cat(
            [
                resnet.time_emb_proj(activated)
                for block in self._blocks()
                for resnet in block.resnet_blocks()
            ],
            dim=-1,
        )

    def _run(self, sample: Tensor, times: Tensor, context: TextContext | None = None) -> Tensor:
        """Run the network with the projected time embeddings, and perhaps a text, given."""
        projections = iter(torch.split(times, self._time_channels, dim=1))
        was_contiguous = sample.is_contiguous()
        sample = self._enter(sample)
        if self._settings.center_input_sample:
            sample = 2 * sample - 1
        sample = self.conv_in(sample)
        states = [sample]
        for down_block in self.down_blocks:
            states += down_block(states[-1], projections, context)
        sample = states[-1]
        if self.mid_block is not None:
            sample = self.mid_block(sample, projections, context)
        for up_block in self.up_blocks:
            sample = up_block(sample, states, projections, context)
        output: Tensor = self.conv_out(self.conv_norm_out(sample))
        return output.contiguous() if was_contiguous else output

    def _check_sample(self, sample: Tensor, times: Tensor) -> None:
        settings = self._settings
        if sample.ndim != 4 or sample.shape[1] != settings.in_channels:
            raise ValueError(
                f"sample must have shape [B, {settings.in_channels}, H, W], got "
                f"{list(sample.shape)}"
            )
        multiple = 1 << (settings.num_levels - 1)
        height, width = sample.shape[2:]
        if not self.takes_odd_sizes and (height % multiple or width % multiple):
            raise ValueError(
                f"sample must have height and width divisible by {multiple}, got "
                f"{list(sample.shape)}"
            )
        # Padded all round, a single pixel is halved to a single pixel.
        least = 1 if settings.downsample_padding else multiple
        if self.takes_odd_sizes and min(height, width) < least:
            raise ValueError(
                f"sample must have height and width of at least {least}, got {list(sample.shape)}"
            )
        if times.shape[0] not in (1, sample.shape[0]):
            raise ValueError(
                f"sample must have the batch size of class_labels, got {sample.shape[0]} samples "
                f"for {times.shape[0]} labels"
            )


def _class_embedding(settings: UNetConfig, act_fn: str) -> nn.Module | None:
    if settings.class_embed_type == "timestep":
        return TimestepEmbedding(settings.block_out_channels[0], settings.time_width, act_fn)
    if settings.class_embed_type == "identity":
        return nn.Identity()
    if settings.num_class_embeds is not None:
        return nn.Embedding(settings.num_class_embeds, settings.time_width)
    return None
