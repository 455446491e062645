"""Timestep embeddings: a fixed table of sines and cosines, and the small network after it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from septet.nn.activation import activation

if TYPE_CHECKING:
    from torch import Tensor


def sinusoidal_embedding(
    timesteps: Tensor,
    dim: int,
    *,
    flip_sin_to_cos: bool = False,
    freq_shift: float = 0.0,
    max_period: float = 10000.0,
) -> Tensor:
    """Embed timesteps as sines and cosines of geometrically spaced frequencies.

    With ``h = dim // 2`` and ``w_i = exp(-ln(max_period) * i / (h - freq_shift))`` a row is
    ``[sin(t w_0), .., sin(t w_h-1), cos(t w_0), .., cos(t w_h-1)]`` (DDPM, Ho et al. 2020,
    after Vaswani et al. 2017).

    Args:
        timesteps: ``[N]``, any real dtype, fractions allowed.
        dim: Columns of the result; an odd one ends in a column of zeros.
        flip_sin_to_cos: Put the cosines first.
        freq_shift: 1 makes the last frequency exactly ``1 / max_period`` (the original code), 0
            stops one step before it (the later default).
        max_period: The longest wavelength, divided by 2 pi.

    Returns:
        ``[N, dim]`` in float32.
    """
    half = dim // 2
    index = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    frequencies = torch.exp(-math.log(max_period) * index / (half - freq_shift))
    angles = timesteps[:, None].float() * frequencies[None, :]
    waves = [torch.sin(angles), torch.cos(angles)]
    embedding = torch.cat(waves[::-1] if flip_sin_to_cos else waves, dim=-1)
    return F.pad(embedding, (0, dim % 2))


def timesteps_of_call(
    timestep: Tensor | float, sample: Tensor, device: torch.device, name: str = "timestep"
) -> Tensor:
    """Return the timesteps of one call of a network as ``[1]`` or ``[B]``.

    Args:
        timestep: A number, or a tensor of one or B numbers.
        sample: ``[B, ...]``.
        device: Of the result.
        name: Of the argument, for the message.

    Raises:
        ValueError: If there is another number of them.
    """
    timesteps = torch.as_tensor(timestep, device=device).reshape(-1)
    if timesteps.shape[0] not in (1, sample.shape[0]):
        raise ValueError(
            f"{name} must be a number or one number per sample, got {timesteps.shape[0]} for "
            f"{sample.shape[0]} samples"
        )
    return timesteps


def at_row(table: Tensor, row: int | Tensor) -> Tensor:
    """Return one row of what was computed ahead for all steps.

    Args:
        table: ``[num_steps, ...]``.
        row: Its index. A tensor with one integer, on the table's device, is read there without a
            host synchronisation.
    """
    if isinstance(row, torch.Tensor):
        return table.index_select(0, row.reshape(1)).squeeze(0)
    return table[row]


class TimestepEmbedding(nn.Module):
    """Linear, activation, linear: turns a sinusoidal embedding into the vector that blocks see.

    Args:
        in_channels: Columns of the sinusoidal embedding.
        time_embed_dim: Width of both linear layers.
        act_fn: Name of the activation.
    """

    def __init__(self, in_channels: int, time_embed_dim: int, act_fn: str = "silu") -> None:
        super().__init__()
        self._act = activation(act_fn)
        self.linear_1 = nn.Linear(in_channels, time_embed_dim)
        self.linear_2 = nn.Linear(time_embed_dim, time_embed_dim)

    def forward(self, embedding: Tensor) -> Tensor:
        """Map ``[..., in_channels]`` to ``[..., time_embed_dim]``."""
        hidden: Tensor = self.linear_2(self._act(self.linear_1(embedding)))
        return hidden
