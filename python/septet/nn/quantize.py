"""Vector quantisation: latents restricted to the entries of a codebook."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Distances computed at a time, so that a large codebook does not ask for gigabytes.
_MAX_DISTANCES = 1 << 24


class Quantized(NamedTuple):
    """What quantising returns.

    Attributes:
        latents: ``[B, C, H, W]``, entries of the codebook; gradients pass to the input unchanged.
        loss: Scalar; how far input and codebook are apart, for training both.
        indices: ``[B, H, W]``, int64.
    """

    latents: Tensor
    loss: Tensor
    indices: Tensor


class VectorQuantizer(nn.Module):
    """Replaces the vector at every pixel by the nearest entry of a codebook.

    Source: van den Oord et al. 2017. The loss weighs its terms as the published code of Esser et
    al. 2021 does: the commitment of the encoder by 1, the codebook by ``beta``.

    Args:
        num_embeddings: Number of entries.
        embed_dim: Width of an entry.
        beta: See above.
    """

    def __init__(self, num_embeddings: int, embed_dim: int, beta: float = 0.25) -> None:
        super().__init__()
        self.beta = beta
        self.embedding = nn.Embedding(num_embeddings, embed_dim)
        nn.init.uniform_(self.embedding.weight, -1 / num_embeddings, 1 / num_embeddings)

    def forward(self, latents: Tensor) -> Quantized:
        """Quantise ``[B, C, H, W]``; of several nearest entries the first is taken."""
        vectors = latents.permute(0, 2, 3, 1)
        indices = self._nearest(vectors.flatten(0, 2).detach()).view(vectors.shape[:3])
        entries = self.embedding(indices)
        commitment = F.mse_loss(vectors, entries.detach())
        loss = commitment + self.beta * F.mse_loss(entries, vectors.detach())
        if torch.is_grad_enabled():
            entries = vectors + (entries - vectors).detach()
        entries = entries.permute(0, 3, 1, 2)  # channels_last in memory
        if latents.is_contiguous():
            entries = entries.contiguous()
        return Quantized(entries, loss, indices)

    def entries(self, indices: Tensor) -> Tensor:
        """Look entries up: ``[B, H, W]``, integers, to ``[B, C, H, W]``.

        Raises:
            ValueError: If they are no integers, or out of range.
        """
        count = self.embedding.num_embeddings
        if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
            raise ValueError(f"indices must be integers, got {indices.dtype}")
        if indices.numel() and not (0 <= int(indices.min()) and int(indices.max()) < count):
            raise ValueError(
                f"indices must be from 0 to {count - 1}, got {int(indices.min())} to "
                f"{int(indices.max())}"
            )
        looked_up: Tensor = self.embedding(indices.long())
        return looked_up.permute(0, 3, 1, 2).contiguous()

    def _nearest(self, vectors: Tensor) -> Tensor:
        """Find the entries nearest to vectors ``[N, C]``, as indices ``[N]``.

        ``|v - e|^2 / 2 = |v|^2 / 2 + (|e|^2 / 2 - v e)``, where the first term is the same for all.
        """
        # Half precision could not tell neighbours in a large codebook apart.
        dtype = torch.promote_types(vectors.dtype, torch.float32)
        weight = self.embedding.weight.detach().to(dtype)
        half_squares = weight.square().sum(dim=1) / 2
        rows = max(1, _MAX_DISTANCES // len(weight))
        return torch.cat(
            [
                torch.addmm(half_squares, part.to(dtype), weight.T, alpha=-1).argmin(dim=1)
                for part in torch.split(vectors, rows)
            ]
        )
