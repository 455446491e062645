"""The text encoder of Grad-TTS: from symbols to a coarse spectrogram and durations.

Tensors are channel-first, ``[B, C, L]`` with L symbols, and ``mask`` is ``[B, 1, L]`` with 1 for
symbols and 0 for padding. Source: Popov et al. 2021, "Grad-TTS", whose encoder is that of Glow-TTS
(Kim et al. 2020).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from septet.models.base import PretrainedModel
from septet.models.grad_tts_config import GradTTSTextEncoderConfig
from septet.nn.conv1d import Conv1d

if TYPE_CHECKING:
    from torch import Tensor

# Fixed in the authors' code.
_PRENET_LAYERS, _PRENET_KERNEL, _PRENET_DROPOUT = 3, 5, 0.5
#: What the authors fill masked logits with; exp(-1e4) is zero in every floating type.
_MASKED_LOGIT = -1e4


@dataclass(frozen=True, eq=False)
class GradTTSTextEncoderOutput:
    """What the encoder knows about a text.

    Attributes:
        mu: ``[B, n_feats, L]``, the mean spectrum of each symbol, natural log of amplitude.
        log_durations: ``[B, 1, L]``, natural log of each symbol's number of frames.
        mask: ``[B, 1, L]``, 1 for symbols and 0 for padding.
    """

    mu: Tensor
    log_durations: Tensor
    mask: Tensor


class GradTTSTextEncoder(PretrainedModel):
    """Predicts for each symbol of a text how it sounds on average, and for how long.

    Args:
        **config: The keys of :class:`GradTTSTextEncoderConfig`; missing ones get their default.

    Raises:
        ValueError: If a key is unknown or a value makes no sense; nothing has been allocated then.
    """

    config_class: ClassVar[type[GradTTSTextEncoderConfig]] = GradTTSTextEncoderConfig

    def __init__(self, **config: Any) -> None:
        settings = GradTTSTextEncoderConfig.from_dict(config)
        super().__init__(settings)
        self._settings = settings
        width = settings.n_channels
        self.emb = nn.Embedding(settings.n_vocab, width)
        nn.init.normal_(self.emb.weight, 0.0, width**-0.5)
        self.prenet = _Prenet(width)
        self.encoder = _Encoder(settings)
        self.proj_m = Conv1d(width, settings.n_feats, 1)
        self.proj_w = _DurationPredictor(settings)

    def forward(self, input_ids: Tensor, lengths: Tensor) -> GradTTSTextEncoderOutput:
        """Encode texts.

        Args:
            input_ids: ``[B, L]`` integers below ``n_vocab``; padding may be any of them.
            lengths: ``[B]`` integers, the number of symbols of each text.

        Returns:
            Mean spectra and durations. No gradient flows from the durations into the layers
            before their predictor.

        Raises:
            ValueError: If a shape is wrong.
        """
        if input_ids.ndim != 2 or lengths.shape != input_ids.shape[:1]:
            raise ValueError(
                "input_ids must have shape [B, L] and lengths [B], got "
                f"{list(input_ids.shape)} and {list(lengths.shape)}"
            )
        hidden = self.emb(input_ids).transpose(1, 2) * math.sqrt(self._settings.n_channels)
        positions = torch.arange(input_ids.shape[1], device=lengths.device)
        mask = (positions < lengths[:, None])[:, None].to(hidden.dtype)
        hidden = self.encoder(self.prenet(hidden, mask), mask)
        mu = self.proj_m(hidden) * mask
        return GradTTSTextEncoderOutput(mu, self.proj_w(hidden.detach(), mask), mask)


class _ChannelNorm(nn.Module):
    """Normalise each position over its channels; ``gamma`` and ``beta`` are the authors' names."""

    eps: ClassVar[float] = 1e-4

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, hidden: Tensor) -> Tensor:
        positions = hidden.transpose(1, 2)
        normed = F.layer_norm(positions, self.gamma.shape, self.gamma, self.beta, self.eps)
        channel_first: Tensor = normed.transpose(1, 2)
        return channel_first


class _Prenet(nn.Module):
    """Convolutions beside a shortcut; they start as zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_layers = nn.ModuleList(
            _same_conv(channels, channels, _PRENET_KERNEL) for _ in range(_PRENET_LAYERS)
        )
        self.norm_layers = nn.ModuleList(_ChannelNorm(channels) for _ in range(_PRENET_LAYERS))
        self.proj = Conv1d(channels, channels, 1)
        nn.init.zeros_(self.proj.weight)
        assert self.proj.bias is not None
        nn.init.zeros_(self.proj.bias)

    def forward(self, sample: Tensor, mask: Tensor) -> Tensor:
        hidden = sample
        for conv, norm in zip(self.conv_layers, self.norm_layers, strict=True):
            hidden = F.dropout(F.relu(norm(conv(hidden * mask))), _PRENET_DROPOUT, self.training)
        output: Tensor = (sample + self.proj(hidden)) * mask
        return output


class _RelativeAttention(nn.Module):
    """Self-attention that adds learned keys and values for nearby distances (Shaw et al. 2018).

    The probabilities are needed themselves, for the values by distance, so this is no case for
    ``ops.attention``; it runs once per utterance, over at most a few hundred symbols.
    """

    def __init__(self, channels: int, num_heads: int, window: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.window, self.dropout = num_heads, window, dropout
        head_dim = channels // num_heads
        self.conv_q = Conv1d(channels, channels, 1)
        self.conv_k = Conv1d(channels, channels, 1)
        self.conv_v = Conv1d(channels, channels, 1)
        self.conv_o = Conv1d(channels, channels, 1)
        # shared by all heads
        shape = (1, 2 * window + 1, head_dim)
        self.emb_rel_k = nn.Parameter(torch.randn(shape) * head_dim**-0.5)
        self.emb_rel_v = nn.Parameter(torch.randn(shape) * head_dim**-0.5)
        for layer in (self.conv_q, self.conv_k, self.conv_v):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Attend; ``mask`` is ``[B, 1, L]``."""
        query, key, value = (
            layer(hidden).unflatten(1, (self.num_heads, -1)).transpose(2, 3)  # [B, H, L, D]
            for layer in (self.conv_q, self.conv_k, self.conv_v)
        )
        positions = torch.arange(hidden.shape[2], device=hidden.device)
        distance = positions[None, :] - positions[:, None] + self.window  # [L, L], 0..2w if near
        near = (distance >= 0) & (distance <= 2 * self.window)
        index = distance.clamp(0, 2 * self.window).expand(*query.shape[:2], -1, -1)
        # q_i (k_j + E_{j-i}); the second term only where the distance has a key of its own
        by_distance = (query @ self.emb_rel_k.transpose(1, 2)).gather(3, index) * near
        logits = (query @ key.transpose(2, 3) + by_distance) / math.sqrt(query.shape[3])
        both = mask[:, None] * mask[..., None]  # [B, 1, L, L]
        weights = logits.masked_fill(both == 0, _MASKED_LOGIT).softmax(dim=-1)
        weights = F.dropout(weights, self.dropout, self.training)
        sums = torch.zeros(
            (*weights.shape[:3], 2 * self.window + 1), dtype=weights.dtype, device=weights.device
        ).scatter_add(3, index, weights * near)
        attended = weights @ value + sums @ self.emb_rel_v
        output: Tensor = self.conv_o(attended.transpose(2, 3).flatten(1, 2))
        return output


class _FeedForward(nn.Module):
    """Two convolutions with a ReLU in between."""

    def __init__(self, settings: GradTTSTextEncoderConfig) -> None:
        super().__init__()
        width, inner, kernel = (
            settings.n_channels,
            settings.filter_channels,
            settings.kernel_size,
        )
        self.dropout = settings.p_dropout
        self.conv_1 = _same_conv(width, inner, kernel)
        self.conv_2 = _same_conv(inner, width, kernel)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        hidden = F.relu(self.conv_1(hidden * mask))
        hidden = F.dropout(hidden, self.dropout, self.training)
        output: Tensor = self.conv_2(hidden * mask) * mask
        return output


class _Encoder(nn.Module):
    """Attention and feed-forward layers, each normalised after its shortcut."""

    def __init__(self, settings: GradTTSTextEncoderConfig) -> None:
        super().__init__()
        width, dropout = settings.n_channels, settings.p_dropout
        layers = range(settings.n_layers)
        self.dropout = dropout
        self.attn_layers = nn.ModuleList(
            _RelativeAttention(width, settings.n_heads, settings.window_size, dropout)
            for _ in layers
        )
        self.norm_layers_1 = nn.ModuleList(_ChannelNorm(width) for _ in layers)
        self.ffn_layers = nn.ModuleList(_FeedForward(settings) for _ in layers)
        self.norm_layers_2 = nn.ModuleList(_ChannelNorm(width) for _ in layers)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        layers = zip(
            self.attn_layers, self.norm_layers_1, self.ffn_layers, self.norm_layers_2, strict=True
        )
        for attend, norm_1, feed_forward, norm_2 in layers:
            hidden = hidden * mask
            change = F.dropout(attend(hidden, mask), self.dropout, self.training)
            hidden = norm_1(hidden + change)
            change = F.dropout(feed_forward(hidden, mask), self.dropout, self.training)
            hidden = norm_2(hidden + change)
        return hidden * mask


class _DurationPredictor(nn.Module):
    """Predicts the log of each symbol's duration."""

    def __init__(self, settings: GradTTSTextEncoderConfig) -> None:
        super().__init__()
        width, kernel = settings.filter_channels_dp, settings.kernel_size
        self.dropout = settings.p_dropout
        self.conv_1 = _same_conv(settings.n_channels, width, kernel)
        self.norm_1 = _ChannelNorm(width)
        self.conv_2 = _same_conv(width, width, kernel)
        self.norm_2 = _ChannelNorm(width)
        self.proj = Conv1d(width, 1, 1)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        for conv, norm in ((self.conv_1, self.norm_1), (self.conv_2, self.norm_2)):
            hidden = norm(F.relu(conv(hidden * mask)))
            hidden = F.dropout(hidden, self.dropout, self.training)
        output: Tensor = self.proj(hidden * mask) * mask
        return output


def _same_conv(in_channels: int, out_channels: int, kernel_size: int) -> Conv1d:
    """Make a convolution that keeps the length."""
    return Conv1d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
