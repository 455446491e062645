"""The schedule network of BDDM: it looks at a noisy waveform and says how far to go next."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from septet.models.base import PretrainedModel
from septet.models.config import ModelConfig, check_int
from septet.ops import attention

# Constants of the authors' code.
_LOW_DIM = 8
_NUM_HEADS = 8
_MAX_SEGMENTS = 5000


@dataclass(frozen=True)
class GALRConfig(ModelConfig):
    """The keys of the authors' configuration, with the defaults of their code.

    Attributes:
        blocks: Number of blocks.
        input_dim: Width of a frame, a multiple of 8.
        hidden_dim: Width of the recurrent layers in each direction.
        window_length: Samples per frame, even; frames overlap by half.
        segment_size: Frames per segment, even; segments overlap by half.
    """

    blocks: int = 2
    input_dim: int = 128
    hidden_dim: int = 128
    window_length: int = 8
    segment_size: int = 64

    def check(self) -> None:
        """Raise ValueError, naming the key, if a value makes no sense."""
        check_int("blocks", self.blocks, 1, 64)
        check_int("input_dim", self.input_dim, _NUM_HEADS, 1 << 13)
        check_int("hidden_dim", self.hidden_dim, 1, 1 << 13)
        for key, divisor in (("input_dim", _NUM_HEADS), ("window_length", 2), ("segment_size", 2)):
            value = getattr(self, key)
            check_int(key, value, divisor, 1 << 16)
            if value % divisor:
                raise ValueError(f"{key} must be a multiple of {divisor}, got {value}")


class GALRModel(PretrainedModel):
    """Predicts the next noise variance of a schedule from the waveform it has led to.

    Source: BDDM (Lam et al. 2022, section 3.4); the network is GALR (Lam et al. 2021). Keys of
    weights as in the authors' code, where they follow ``schedule_net.``.

    Args:
        **config: The keys of :class:`GALRConfig`; missing ones get their default.

    Raises:
        ValueError: If a key is unknown or a value makes no sense; nothing has been allocated then.
    """

    config_class: ClassVar[type[GALRConfig]] = GALRConfig

    def __init__(self, **config: Any) -> None:
        settings = GALRConfig.from_dict(config)
        super().__init__(settings)
        self.ratio_nn = _RatioNetwork(settings)

    def forward(self, sample: Tensor, beta: Tensor, variance: Tensor) -> Tensor:
        """Predict the beta before this one.

        Args:
            sample: ``[B, samples]``, the waveform at the noise level before this one.
            beta: ``[B]``, this beta.
            variance: ``[B]``, ``1 - alphas_cumprod`` at the noise level before this one.

        Returns:
            ``[B]``, between 0 and the smaller of ``beta`` and ``variance``.

        Raises:
            ValueError: If the shape of ``sample`` is wrong, or it is too long.
        """
        if sample.ndim != 2 or not sample.shape[1]:
            raise ValueError(f"sample must have shape [B, samples], got {list(sample.shape)}")
        ratio: Tensor = self.ratio_nn(sample)
        return torch.minimum(beta, variance) * ratio


class _RatioNetwork(nn.Module):
    """Maps waveforms ``[B, samples]`` to ratios ``[B]`` in (0, 1)."""

    def __init__(self, settings: GALRConfig) -> None:
        super().__init__()
        self.window_length = settings.window_length
        self.segment_size = settings.segment_size
        width = settings.input_dim
        self.encoder = nn.ModuleDict(
            {
                "enc_conv": nn.Conv1d(
                    1, width, self.window_length, stride=self.window_length // 2, bias=False
                )
            }
        )
        self.bottleneck = nn.Conv1d(width, width, 1, bias=False)
        self.blocks = nn.ModuleList(_Block(settings) for _ in range(settings.blocks))
        self.block_gate = nn.Sequential(nn.PReLU(), nn.Conv2d(width, 1, 1))

    def forward(self, sample: Tensor) -> Tensor:
        padded = pad_for_halves(sample[:, None], self.window_length)
        frames = self.bottleneck(F.relu(self.encoder["enc_conv"](padded)))
        padded = pad_for_halves(frames, self.segment_size)
        # [B, D, S, K]: S segments of K frames
        segments = padded.unfold(2, self.segment_size, self.segment_size // 2)
        if segments.shape[2] > _MAX_SEGMENTS:
            raise ValueError(
                f"sample must be shorter: it makes {segments.shape[2]} segments, the network has "
                f"positions for {_MAX_SEGMENTS}"
            )
        for block in self.blocks:
            segments = block(segments)
        ratios: Tensor = torch.sigmoid(self.block_gate(segments).mean((1, 2, 3)))
        return ratios


class _Block(nn.Module):
    """Recurrent within segments, attentive across them (GALR, section 2.2)."""

    def __init__(self, settings: GALRConfig) -> None:
        super().__init__()
        width, length = settings.input_dim, settings.segment_size
        self.local_rnn = _LocalRecurrence(width, settings.hidden_dim)
        self.local_norm = nn.GroupNorm(1, width)
        self.global_rnn = _GlobalAttention(width)
        self.global_norm = nn.GroupNorm(1, width)
        self.ld_map = nn.Linear(length, _LOW_DIM)
        self.ld_inv_map = nn.Linear(_LOW_DIM, length)

    def forward(self, segments: Tensor) -> Tensor:
        """Map ``[B, D, S, K]`` to the same shape."""
        batch, width, count, length = segments.shape
        rows = segments.permute(0, 2, 3, 1).reshape(batch * count, length, width)
        local = self.local_rnn(rows).reshape(batch, count, length, width)
        segments = segments + self.local_norm(local.permute(0, 3, 1, 2))
        reduced = self.ld_map(segments)  # [B, D, S, L]
        rows = reduced.permute(0, 3, 2, 1).reshape(-1, count, width)
        mixed = self.global_rnn(rows).reshape(batch, _LOW_DIM, count, width)
        restored = self.ld_inv_map(mixed.permute(0, 3, 2, 1))
        result: Tensor = segments + self.global_norm(restored)
        return result


class _LocalRecurrence(nn.Module):
    """A bidirectional LSTM whose first state is learned, shared by the two directions."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(width, hidden, batch_first=True, bidirectional=True)
        self.cell_init = nn.Parameter(torch.rand(1, 1, hidden))
        self.hidden_init = nn.Parameter(torch.rand(1, 1, hidden))
        self.proj = nn.Linear(2 * hidden, width)

    def forward(self, rows: Tensor) -> Tensor:
        """Map ``[N, K, D]`` to the same shape."""
        start = self.hidden_init.expand(2, len(rows), -1).contiguous()
        cells = self.cell_init.expand(2, len(rows), -1).contiguous()
        hidden, _ = self.rnn(rows, (start, cells))
        output: Tensor = self.proj(hidden)
        return output


class _GlobalAttention(nn.Module):
    """Attention across segments, which know their place by sines and cosines."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn_in_norm = nn.LayerNorm(width)
        self.pos_enc = _Positions(width)
        self.attn_layer = nn.ModuleList([_AttentionLayer(width)])

    def forward(self, rows: Tensor) -> Tensor:
        """Map ``[N, S, D]`` to the same shape."""
        rows = self.attn_in_norm(rows) + self.pos_enc.pe[: rows.shape[1], 0]
        for layer in self.attn_layer:
            rows = layer(rows)
        return rows


class _AttentionLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, _NUM_HEADS)
        self.norm = nn.LayerNorm(width)

    def forward(self, rows: Tensor) -> Tensor:
        batch, count, width = rows.shape
        projected = F.linear(rows, self.attn.in_proj_weight, self.attn.in_proj_bias)
        heads = projected.reshape(batch, count, 3, _NUM_HEADS, width // _NUM_HEADS).unbind(2)
        mixed = self.attn.out_proj(attention(*heads).reshape(batch, count, width))
        # The authors' residual is from the attention's output to itself, not from its input.
        output: Tensor = self.norm(mixed + mixed)
        return output


class _Positions(nn.Module):
    pe: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        positions = torch.arange(_MAX_SEGMENTS, dtype=torch.float32)[:, None]
        rates = torch.exp(torch.arange(0, width, 2).float() * (-math.log(10000.0) / width))
        waves = torch.stack([torch.sin(positions * rates), torch.cos(positions * rates)], dim=-1)
        self.register_buffer("pe", waves.reshape(_MAX_SEGMENTS, 1, width))


def pad_for_halves(values: Tensor, length: int) -> Tensor:
    """Pad with zeros so that windows overlapping by half cover everything twice.

    Args:
        values: ``[..., N]``.
        length: Length of a window, even.
    """
    half = length // 2
    rest = length - (half + values.shape[-1]) % length
    return F.pad(values, (half, rest + half))
