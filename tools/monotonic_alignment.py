"""Monotonic alignment search (Kim et al. 2020, "Glow-TTS", algorithm 1), for training Grad-TTS."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def log_prior(mu: Tensor, mel: Tensor) -> Tensor:
    """Return how likely each frame is under each symbol's mean, with unit variance.

    Args:
        mu: ``[B, C, L]``, the mean spectrum of each symbol.
        mel: ``[B, C, T]``.

    Returns:
        ``[B, L, T]``, log probabilities up to a constant.
    """
    cross = mu.transpose(1, 2) @ mel
    return cross - 0.5 * mu.square().sum(1)[:, :, None] - 0.5 * mel.square().sum(1)[:, None]


def most_likely_durations(scores: Tensor, num_symbols: Tensor, num_frames: Tensor) -> Tensor:
    """Find the monotonic alignment without gaps whose scores sum to the most.

    The first frame belongs to the first symbol, the last frame to the last, and from one frame to
    the next the symbol stays or moves on by one.

    Args:
        scores: ``[B, L, T]``, see :func:`log_prior`.
        num_symbols: ``[B]``, at most L, and not more than ``num_frames``.
        num_frames: ``[B]``, at most T.

    Returns:
        ``[B, L]`` int64, the number of frames of each symbol; zero in the padding.

    Raises:
        ValueError: If a sample has fewer frames than symbols.
    """
    if bool((num_frames < num_symbols).any()):
        raise ValueError("every symbol needs a frame: num_frames must be at least num_symbols")
    values = scores.detach().float().cpu().numpy().transpose(2, 0, 1)  # [T, B, L]
    stays = _forward(np.ascontiguousarray(values))
    durations = np.zeros(values.shape[1:], dtype=np.int64)
    batch = np.arange(values.shape[1])
    symbol = num_symbols.numpy() - 1
    ends = num_frames.numpy()
    for frame in range(values.shape[0] - 1, -1, -1):
        inside = frame < ends
        durations[batch, symbol] += inside
        symbol = symbol - (inside & ~stays[frame, batch, symbol])
    return torch.from_numpy(durations)


def _forward(values: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Return ``[T, B, L]``: whether the best path to a symbol stayed there, and did not move on."""
    stays = np.ones(values.shape, dtype=np.bool_)
    best = np.full(values.shape[1:], -np.inf, dtype=np.float32)
    best[:, 0] = values[0, :, 0]
    for frame in range(1, len(values)):
        moved = best[:, :-1]
        stay = best[:, 1:] >= moved
        # symbols that no path can reach yet must not count as a place to stay
        stays[frame, :, 1:] = stay & (best[:, 1:] > -np.inf)
        best[:, 1:] = np.where(stay, best[:, 1:], moved)
        best += values[frame]
    return stays


def alignment_path(durations: Tensor, num_frames: int) -> Tensor:
    """Return ``[B, L, num_frames]``, 1 where a symbol owns a frame, from ``[B, L]`` durations."""
    ends = durations.cumsum(1)[:, :, None]
    frames = torch.arange(num_frames)
    return ((frames < ends) & (frames >= ends - durations[:, :, None])).float()
