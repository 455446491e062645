"""The decoder of Grad-TTS: a UNet over mel spectrograms as images.

Source: Popov et al. 2021, "Grad-TTS: A Diffusion Probabilistic Model for Text-to-Speech".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from septet.models.base import PretrainedModel
from septet.models.grad_tts_config import NUM_GROUPS, UNetGradTTSConfig
from septet.nn import Conv2d, GroupNormAct, at_row, sinusoidal_embedding, timesteps_of_call
from septet.nn.frame_mask import FrameMask
from septet.nn.linear_attention import LinearAttention, RezeroAttention

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, eq=False)
class PreparedUNetGradTTS:
    """The decoder together with everything that does not depend on the sample.

    Attributes:
        model: The network.
        times: ``[num_steps, B or 1, channels]``, the projected time embeddings of all residual
            blocks side by side, one row per step.
        condition: ``[B, 1 or 2, n_feats, T]``: the prior mean and, for several speakers, the
            speaker's channel; masked.
        masks: The mask at each level.
    """

    model: UNetGradTTSModel
    times: Tensor
    condition: Tensor
    masks: tuple[FrameMask, ...]

    def __len__(self) -> int:
        """Return the number of times prepared."""
        return self.times.shape[0]

    def __call__(self, sample: Tensor, row: int | Tensor) -> Tensor:
        """Estimate the score at one of the prepared times.

        Args:
            sample: ``[B, n_feats, T]``.
            row: Index of the step. A tensor with one integer, on the network's device, is read
                there without a host synchronisation.

        Returns:
            ``[B, n_feats, T]``.

        Raises:
            ValueError: If the shape of ``sample`` is not that of the prior mean.
        """
        times = at_row(self.times, row)
        return self.model.denoise(sample, times, self.condition, self.masks)


class UNetGradTTSModel(PretrainedModel):
    """Estimates the score of a noisy spectrogram, given its prior mean and the time.

    Args:
        **config: The keys of :class:`UNetGradTTSConfig`; missing ones get their default.

    Raises:
        ValueError: If a key is unknown or a value makes no sense; nothing has been allocated then.
    """

    config_class: ClassVar[type[UNetGradTTSConfig]] = UNetGradTTSConfig

    def __init__(self, **config: Any) -> None:
        settings = UNetGradTTSConfig.from_dict(config)
        super().__init__(settings)
        self._settings = settings
        dim, has_speakers = settings.dim, settings.num_speakers > 1
        if has_speakers:
            self.spk_emb = nn.Embedding(settings.num_speakers, settings.spk_emb_dim)
            self.spk_mlp = _mish_mlp(
                settings.spk_emb_dim, 4 * settings.spk_emb_dim, settings.n_feats
            )
        self.mlp = _mish_mlp(dim, 4 * dim, dim)
        widths = [dim * factor for factor in settings.dim_mults]
        self.downs = nn.ModuleList()
        for level, width in enumerate(widths):
            narrow = widths[level - 1] if level else 2 + has_speakers
            is_last = level == len(widths) - 1
            down = _Resample(Conv2d(width, width, 3, stride=2, padding=1))
            self.downs.append(_level(narrow, width, dim, nn.Identity() if is_last else down))
        self.mid_block1 = _ResnetBlock(widths[-1], widths[-1], dim)
        self.mid_attn = RezeroAttention(LinearAttention(widths[-1]))
        self.mid_block2 = _ResnetBlock(widths[-1], widths[-1], dim)
        self.ups = nn.ModuleList()
        for narrow, width in zip(widths[-2::-1], widths[:0:-1], strict=True):
            up = _Resample(nn.ConvTranspose2d(narrow, narrow, 4, stride=2, padding=1))
            self.ups.append(_level(2 * width, narrow, dim, up))
        self.final_block = _Block(dim, dim)
        self.final_conv = Conv2d(dim, 1, 1)
        self._time_channels = [block.time_channels for block in self._resnets()]

    @property
    def frame_multiple(self) -> int:
        """What the number of frames must be a multiple of."""
        return self._settings.multiple

    def forward(
        self,
        sample: Tensor,
        time: Tensor | float,
        mu: Tensor,
        mask: Tensor,
        speaker_ids: Tensor | None = None,
    ) -> Tensor:
        """Estimate the score once.

        Args:
            sample: ``[B, n_feats, T]``, T a multiple of 2 to the number of levels less one.
            time: In (0, 1): a number, or ``[1]`` or ``[B]``.
            mu: ``[B, n_feats, T]``, the prior mean.
            mask: ``[B, 1, T]``, 1 for frames and 0 for padding.
            speaker_ids: ``[B]`` integers for a network of several speakers, else None.

        Returns:
            ``[B, n_feats, T]``, zero in the padding.

        Raises:
            ValueError: If a shape is wrong, or speakers are missing or not expected.
        """
        times = timesteps_of_call(time, sample, self.device, "time")
        condition, masks = self._condition(mu, mask, speaker_ids)
        return self.denoise(sample, self._project(times), condition, masks)

    def prepare(
        self, times: Tensor, mu: Tensor, mask: Tensor, speaker_ids: Tensor | None = None
    ) -> PreparedUNetGradTTS:
        """Compute for a whole run whatever does not depend on the sample.

        That is the time network with its projection in every residual block, for all steps; the
        speaker's channel; and the mask at every level. Nothing is approximated.

        Args:
            times: ``[num_steps]``.
            mu: As in :meth:`forward`, as for the others.
            mask: The same.
            speaker_ids: The same.

        Returns:
            ``prepared(sample, row)``, which runs the network at ``times[row]``.

        Raises:
            ValueError: As in :meth:`forward`.
        """
        if times.ndim != 1:
            raise ValueError(f"times must have one axis, got shape {list(times.shape)}")
        projected = self._project(times.to(self.device))[:, None]
        return PreparedUNetGradTTS(self, projected, *self._condition(mu, mask, speaker_ids))

    def denoise(
        self, sample: Tensor, times: Tensor, condition: Tensor, masks: tuple[FrameMask, ...]
    ) -> Tensor:
        """Run the network on what :meth:`prepare` computes.

        Args:
            sample: As in :meth:`forward`.
            times: ``[B or 1, channels]``, one row of the projected times.
            condition: See :class:`PreparedUNetGradTTS`.
            masks: The same.

        Returns:
            As :meth:`forward`.

        Raises:
            ValueError: If the shape of ``sample`` is not that of the prior mean.
        """
        if sample.shape != condition[:, 0].shape:
            raise ValueError(
                f"sample must have the shape of mu, got {list(sample.shape)} and "
                f"{list(condition[:, 0].shape)}"
            )
        projections = iter(torch.split(times, self._time_channels, dim=1))
        mu, speaker = condition[:, :1], condition[:, 1:]
        hidden = torch.cat([mu, sample[:, None], speaker], dim=1)
        hidden = masks[0](self._enter(hidden))
        states = []
        for level, mask, following in zip(self.downs, masks, (*masks[1:], None), strict=True):
            hidden, state = _run_level(level, hidden, mask, following, projections)
            states.append(state)
        hidden = self.mid_block1(hidden, masks[-1], next(projections))
        hidden = masks[-1](self.mid_attn(hidden))
        hidden = self.mid_block2(hidden, masks[-1], next(projections))
        # the state of the first level is never used
        for index in range(len(states) - 1, 0, -1):
            hidden = torch.cat([hidden, states[index]], dim=1)
            level, mask, following = self.ups[-index], masks[index], masks[index - 1]
            hidden, _ = _run_level(level, hidden, mask, following, projections)
        hidden = self.final_block(hidden, masks[0])
        return masks[0](self.final_conv(hidden))[:, 0]

    def _condition(
        self, mu: Tensor, mask: Tensor, speaker_ids: Tensor | None
    ) -> tuple[Tensor, tuple[FrameMask, ...]]:
        """Return the constant input channels, masked, and the masks of all levels."""
        settings = self._settings
        self._check_mu(mu, mask)
        channels = [mu]
        if settings.num_speakers > 1:
            if speaker_ids is None or speaker_ids.shape != mu.shape[:1]:
                given = None if speaker_ids is None else list(speaker_ids.shape)
                raise ValueError(f"speaker_ids must have shape [{mu.shape[0]}], got {given}")
            speaker = self.spk_mlp(self.spk_emb(speaker_ids.to(self.device)))
            channels.append(speaker[:, :, None].expand_as(mu))
        elif speaker_ids is not None:
            raise ValueError("speaker_ids must be None: this network knows one speaker only")
        masks = [FrameMask.over_bins(mask, settings.n_feats)]
        for _ in settings.dim_mults[1:]:
            masks.append(masks[-1].halved())
        return torch.stack(channels, dim=1) * masks[0].values, tuple(masks)

    def _check_mu(self, mu: Tensor, mask: Tensor) -> None:
        settings = self._settings
        if mu.ndim != 3 or mu.shape[1] != settings.n_feats or mu.shape[2] % settings.multiple:
            raise ValueError(
                f"mu must have shape [B, {settings.n_feats}, T] with T a multiple of "
                f"{settings.multiple}, got {list(mu.shape)}"
            )
        if mask.shape != (mu.shape[0], 1, mu.shape[2]):
            raise ValueError(
                f"mask must have shape {[mu.shape[0], 1, mu.shape[2]]}, got {list(mask.shape)}"
            )

    def _project(self, times: Tensor) -> Tensor:
        """Embed ``[N]`` times and project them for all residual blocks: ``[N, sum]``."""
        settings = self._settings
        sinusoids = sinusoidal_embedding(settings.pe_scale * times, settings.dim, freq_shift=1)
        embedding = self.mlp(sinusoids.to(self.dtype))
        return torch.cat([block.mlp(embedding) for block in self._resnets()], dim=-1)

    def _resnets(self) -> list[_ResnetBlock]:
        """List all residual blocks in the order in which they run."""
        first = [block for level in self.downs for block in cast("nn.ModuleList", level)[:2]]
        last = [block for level in self.ups for block in cast("nn.ModuleList", level)[:2]]
        return cast("list[_ResnetBlock]", [*first, self.mid_block1, self.mid_block2, *last])


class _Block(nn.Module):
    """Convolve, normalise, activate, mask; the input must be masked already."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            Conv2d(in_channels, out_channels, 3, padding=1),
            GroupNormAct(NUM_GROUPS, out_channels, 1e-5, "mish"),
        )

    def forward(self, sample: Tensor, mask: FrameMask) -> Tensor:
        conv, norm = self.block
        hidden: Tensor = norm(conv(sample), mask=None if mask.is_whole else mask.values)
        return hidden


class _ResnetBlock(nn.Module):
    """Two blocks beside a shortcut, the time added in between."""

    def __init__(self, in_channels: int, out_channels: int, time_dim: int) -> None:
        super().__init__()
        self.time_channels = out_channels
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(time_dim, out_channels))
        self.block1 = _Block(in_channels, out_channels)
        self.block2 = _Block(out_channels, out_channels)
        self.res_conv: Conv2d | None = None
        if in_channels != out_channels:
            self.res_conv = Conv2d(in_channels, out_channels, 1)

    def forward(self, sample: Tensor, mask: FrameMask, time: Tensor) -> Tensor:
        """Run the block on a masked sample.

        Args:
            sample: ``[B, in_channels, H, W]``.
            mask: At this resolution.
            time: ``[B or 1, out_channels]``, the output of ``mlp``.

        Returns:
            ``[B, out_channels, H, W]``, masked.
        """
        hidden = mask.shift(self.block1(sample, mask), time)
        hidden = self.block2(hidden, mask)
        output: Tensor
        if self.res_conv is not None:
            output = mask(self.res_conv(sample, residual=hidden))
        elif hidden.requires_grad:
            output = hidden + sample
        else:
            output = hidden.add_(sample)  # fresh memory would take longer than the sum
        return output


class _Resample(nn.Module):
    """A convolution under the name of the published checkpoints."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, sample: Tensor) -> Tensor:
        output: Tensor = self.conv(sample)
        return output


def _level(in_channels: int, channels: int, time_dim: int, resample: nn.Module) -> nn.ModuleList:
    return nn.ModuleList(
        [
            _ResnetBlock(in_channels, channels, time_dim),
            _ResnetBlock(channels, channels, time_dim),
            RezeroAttention(LinearAttention(channels)),
            resample,
        ]
    )


def _run_level(
    level: nn.Module,
    hidden: Tensor,
    mask: FrameMask,
    following: FrameMask | None,
    projections: Iterator[Tensor],
) -> tuple[Tensor, Tensor]:
    """Run a level; all that goes in and out is masked.

    Args:
        level: Two residual blocks, attention, and what changes the resolution.
        hidden: ``[B, C, H, W]``.
        mask: The mask at this resolution.
        following: The mask at the next one, None if the resolution stays.
        projections: Of the time, for this residual block and all that follow.

    Returns:
        What goes on from here, and the state before resampling.
    """
    resnet1, resnet2, attention, resample = cast("nn.ModuleList", level)
    hidden = resnet1(hidden, mask, next(projections))
    state = mask(attention(resnet2(hidden, mask, next(projections))))
    hidden = resample(state)
    return hidden if following is None else following(hidden), state


def _mish_mlp(in_features: int, hidden_features: int, out_features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(in_features, hidden_features),
        nn.Mish(),
        nn.Linear(hidden_features, out_features),
    )
