"""The text-conditional image network of latent diffusion and Stable Diffusion."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from septet.models.unet import UNet
from septet.models.unet_2d_condition_config import UNet2DConditionConfig
from septet.nn import (
    DownBlock2D,
    MidBlock2D,
    ResnetOptions,
    TextContext,
    UpBlock2D,
    at_row,
    repeat_rows,
)

KeysValues = list[tuple[Tensor, Tensor]]

# What this logit does to a masked token, as in diffusers: its weight is zero in every dtype.
_MASKED = -10000.0


@dataclass(frozen=True, eq=False)
class UNet2DConditionOutput:
    """What the network returns.

    Attributes:
        sample: ``[B, out_channels, H, W]``, usually the predicted noise.
    """

    sample: Tensor


@dataclass(frozen=True, eq=False)
class PreparedUNet2DCondition:
    """A network together with everything about timesteps and text that does not need the sample.

    Attributes:
        model: The network.
        times: ``[num_steps, B or 1, channels]``, the projected time embeddings of all residual
            blocks side by side, one row per timestep.
        keys_values: Key and value of the text for every cross-attention layer; with guidance the
            conditional texts come first, the negative ones after them.
        has_negative: Whether there are negative texts.
    """

    model: UNet2DConditionModel
    times: Tensor
    keys_values: KeysValues
    has_negative: bool

    def __len__(self) -> int:
        """Return the number of timesteps prepared."""
        return self.times.shape[0]

    def __call__(self, sample: Tensor, row: int | Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Run the network at one of the prepared timesteps.

        Args:
            sample: ``[B, in_channels, H, W]``.
            row: Index of the timestep. A tensor with one integer, on the network's device, is
                read there without a host synchronisation.

        Returns:
            ``[B, out_channels, H, W]``; with negative texts the pair (conditional, unconditional
            output) of two of these.

        Raises:
            ValueError: If the shape of ``sample`` does not suit the network, the class labels or
                the texts.
        """
        times = at_row(self.times, row)
        if not self.has_negative:
            return self.model.denoise(sample, times, self.keys_values)
        rows = 2 * sample.shape[0]
        if times.shape[0] > 1:
            # Then residual blocks want as many rows as there are labels: nothing can be shared.
            times, sample = repeat_rows(times, 2 * times.shape[0]), repeat_rows(sample, rows)
        output = self.model.denoise(sample, times, self.keys_values, rows=rows)
        conditional, unconditional = output.chunk(2)
        return conditional, unconditional


class UNet2DConditionModel(UNet[UNet2DConditionConfig]):
    """A UNet that maps a noisy latent, its timestep and a text to, usually, the noise in it.

    Source: latent diffusion (Rombach et al. 2022); keys and configuration as in diffusers'
    ``UNet2DConditionModel``.

    Args:
        **config: The keys of :class:`UNet2DConditionConfig`; missing ones get their default.

    Raises:
        ValueError: If a key is unknown, or a value makes no sense or is not supported; nothing has
            been allocated then.
    """

    config_class: ClassVar[type[UNet2DConditionConfig]] = UNet2DConditionConfig
    takes_odd_sizes: ClassVar[bool] = True

    def __init__(self, **config: Any) -> None:
        settings = UNet2DConditionConfig.from_dict(config)
        super().__init__(
            settings,
            conv_in_kernel=settings.conv_in_kernel,
            conv_out_kernel=settings.conv_out_kernel,
            time_act_fn=settings.act_fn,
            out_act_fn=settings.act_fn,
        )

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        class_labels: Tensor | None = None,
        *,
        encoder_attention_mask: Tensor | None = None,
        return_dict: bool = True,
        **others: None,
    ) -> UNet2DConditionOutput | tuple[Tensor]:
        """Run the network once.

        Args:
            sample: ``[B, in_channels, H, W]``. Where H or W is odd at some level, the level below
                has half of it rounded up (or down, with downsample_padding 0).
            timestep: A number, a 0-d tensor, or ``[1]`` or ``[B]``: one per sample.
            encoder_hidden_states: ``[B or 1, S, cross_attention_dim]``, the embedded text.
            class_labels: See :meth:`septet.models.UNet2DModel.forward`.
            encoder_attention_mask: ``[B or 1, S]``, 1 for a token of the text to attend to, 0 for
                one to leave out; None for all.
            return_dict: Whether to return an object instead of a tuple.
            **others: Further arguments of diffusers' network, such as cross_attention_kwargs, which
                must be None.

        Returns:
            The output, or a tuple with the sample alone.

        Raises:
            ValueError: If a shape is wrong, class labels are missing or not expected, or another
                argument is given.
        """
        for name, value in others.items():
            if value is not None:
                raise ValueError(f"{name} is not supported, it must be None")
        times = self._time_of_call(sample, timestep, class_labels)
        bias = self._bias(encoder_attention_mask, encoder_hidden_states)
        output = self.denoise(sample, times, self.project_text(encoder_hidden_states), bias=bias)
        return UNet2DConditionOutput(output) if return_dict else (output,)

    def prepare(
        self,
        timesteps: Tensor,
        encoder_hidden_states: Tensor,
        negative_hidden_states: Tensor | None = None,
        class_labels: Tensor | None = None,
    ) -> PreparedUNet2DCondition:
        """Compute for many timesteps at once whatever does not depend on the sample.

        That is the time (and class) network and its projection in every residual block, and keys
        and values of every cross-attention. With negative texts, what comes before the first
        cross-attention also runs once for both. Nothing is approximated.

        Args:
            timesteps: ``[num_steps]``.
            encoder_hidden_states: As in :meth:`forward`, the same for all steps.
            negative_hidden_states: The texts to be guided away from (Ho & Salimans 2022), like
                ``encoder_hidden_states``.
            class_labels: As in :meth:`forward`, the same for all steps.

        Returns:
            ``prepared(sample, row)``, which runs the network at ``timesteps[row]``.

        Raises:
            ValueError: If a shape is wrong, or class labels are missing or not expected.
        """
        times = self._times_of_steps(timesteps, class_labels)
        texts = encoder_hidden_states
        self._check_text("encoder_hidden_states", texts)
        if negative_hidden_states is not None:
            self._check_text("negative_hidden_states", negative_hidden_states)
            texts = _joined(texts, negative_hidden_states)
        keys_values = self.project_text(texts)
        return PreparedUNet2DCondition(
            self, times, keys_values, has_negative=negative_hidden_states is not None
        )

    def project_text(self, encoder_hidden_states: Tensor) -> KeysValues:
        """Compute key and value of a text for every cross-attention layer.

        Args:
            encoder_hidden_states: ``[R, S, cross_attention_dim]``.

        Returns:
            A pair of ``[R, S, heads, head width]`` per layer, in the order in which they run.

        Raises:
            ValueError: If the shape is wrong.
        """
        self._check_text("encoder_hidden_states", encoder_hidden_states)
        return [
            layer.project(encoder_hidden_states)
            for block in self._blocks()
            for layer in block.cross_attentions()
        ]

    def denoise(
        self,
        sample: Tensor,
        times: Tensor,
        keys_values: KeysValues,
        *,
        bias: Tensor | None = None,
        rows: int | None = None,
    ) -> Tensor:
        """Run the network with the projected time embeddings and texts given.

        Args:
            sample: As in :meth:`forward`.
            times: ``[B or 1, channels]``, one row of what :meth:`prepare` computes.
            keys_values: What :meth:`project_text` returns for R texts.
            bias: ``[R, 1, 1, S]``, added to the logits of the text's tokens.
            rows: The batch size of the output, B or a multiple of it: then the texts come in so
                many groups, and what does not depend on them is computed once. R must divide it.

        Returns:
            ``[rows, out_channels, H, W]``.

        Raises:
            ValueError: If the shape of ``sample`` does not suit the network, ``times`` or the
                texts.
        """
        self._check_sample(sample, times)
        rows = rows or sample.shape[0]
        _check_rows(sample, rows, keys_values)
        context = TextContext(rows, iter(keys_values), bias)
        return repeat_rows(self._run(sample, times, context), rows)

    def _bias(self, mask: Tensor | None, text: Tensor) -> Tensor | None:
        """Turn the mask of a text into what is added to its logits, ``[R, 1, 1, S]``."""
        if mask is None:
            return None
        if mask.shape != text.shape[:2]:
            raise ValueError(
                f"encoder_attention_mask must have shape {list(text.shape[:2])} to suit "
                f"encoder_hidden_states, got {list(mask.shape)}"
            )
        return ((1 - mask.to(text.device, text.dtype)) * _MASKED)[:, None, None]

    def _check_text(self, name: str, text: Tensor) -> None:
        width = self._settings.text_width
        if text.ndim != 3:
            raise ValueError(f"{name} must have shape [B, S, {width}], got {list(text.shape)}")
        if width is not None and text.shape[2] != width:
            raise ValueError(
                f"{name} must have width {width} (cross_attention_dim), got {text.shape[2]}"
            )

    def _down_blocks(self, options: ResnetOptions) -> nn.ModuleList:
        settings = self._settings
        widths, last = settings.block_out_channels, settings.num_levels - 1
        return nn.ModuleList(
            DownBlock2D(
                widths[max(level - 1, 0)],
                widths[level],
                options,
                num_layers=settings.at_level("layers_per_block", level),
                transformer=settings.transformer(level, "down"),
                downsample=None if level == last else "conv",
                downsample_padding=settings.downsample_padding,
            )
            for level in range(settings.num_levels)
        )

    def _mid_block(self, options: ResnetOptions) -> MidBlock2D | None:
        settings = self._settings
        if settings.mid_block_type is None:
            return None
        return MidBlock2D(
            settings.block_out_channels[-1],
            replace(options, output_scale_factor=settings.mid_block_scale_factor),
            transformer=settings.transformer(settings.num_levels - 1, "mid"),
            num_layers=1 if settings.mid_block_type == "UNetMidBlock2DCrossAttn" else 0,
        )

    def _up_blocks(self, options: ResnetOptions) -> nn.ModuleList:
        settings = self._settings
        widths, last = settings.block_out_channels, settings.num_levels - 1
        return nn.ModuleList(
            UpBlock2D(
                widths[max(level - 1, 0)],
                widths[min(level + 1, last)],
                widths[level],
                options,
                num_layers=settings.at_level("layers_per_block", level) + 1,
                transformer=settings.transformer(level, "up"),
                upsample=None if level == 0 else "conv",
            )
            for level in range(last, -1, -1)
        )


def _joined(texts: Tensor, negative: Tensor) -> Tensor:
    """Put conditional texts and negative ones into one batch, each as often as the others."""
    rows = max(texts.shape[0], negative.shape[0])
    if texts.shape[1] != negative.shape[1] or not {texts.shape[0], negative.shape[0]} <= {1, rows}:
        raise ValueError(
            f"negative_hidden_states must have the shape of encoder_hidden_states, "
            f"{list(texts.shape)}, got {list(negative.shape)}"
        )
    return torch.cat([repeat_rows(texts, rows), repeat_rows(negative, rows)])


def _check_rows(sample: Tensor, rows: int, keys_values: KeysValues) -> None:
    if not sample.shape[0]:
        raise ValueError("sample must not be empty")
    groups = rows // sample.shape[0]
    texts = keys_values[0][0].shape[0] if keys_values else groups
    if texts not in (groups, rows):
        raise ValueError(
            f"sample must have the batch size of encoder_hidden_states, got {sample.shape[0]} "
            f"samples for {texts // groups} texts"
        )
