"""Philox4x32-10 and the two normal layouts in plain torch: int64 words, float64 normals."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def _multiply(a: Tensor, constant: int) -> tuple[Tensor, Tensor]:
    """Return the high and low 32 bits of ``a * constant``; int64 cannot hold the product."""
    low = a * (constant & 0xFFFF)
    high = a * (constant >> 16) + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def philox4x32(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Ten rounds of Philox4x32 (Salmon et al. 2011); words are int64 tensors below 2^32."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def _normals(bits: tuple[Tensor, ...]) -> Tensor:
    """Box-Muller as curand does it, sine first: ``[n, 4]`` from four words, in float64."""
    pairs = []
    for radius_bits, angle_bits in ((bits[0], bits[1]), (bits[2], bits[3])):
        # curand forms u in float32, where the largest words round up to exactly 1
        u = (radius_bits.float() * 2.0**-32 + 2.0**-33).double()
        angle = (angle_bits.double() * 2.0**-32 + 2.0**-33) * 2 * math.pi
        radius = (-2 * u.log()).sqrt()
        pairs += [radius * angle.sin(), radius * angle.cos()]
    return torch.stack(pairs, dim=-1)


def _stream(seed: int, offset: int, numel: int, threads: int, device: torch.device) -> Tensor:
    element = torch.arange(numel, dtype=torch.int64, device=device)
    if threads:
        wave = 4 * threads
        iteration, place = element // wave, element % wave
        component, thread = place // threads, place % threads
    else:
        iteration, component = element // 4, element % 4
        thread = torch.zeros_like(element)
    index = offset // 4 + iteration
    counter = (index & _MASK, (index >> 32) & _MASK, thread & _MASK, thread >> 32)
    key = tuple(torch.full_like(element, (seed >> shift) & _MASK) for shift in (0, 32))
    values = _normals(philox4x32(counter, key))  # type: ignore[arg-type]
    return values.gather(1, component[:, None])[:, 0]


def philox_normal(
    philox: Tensor, shape: tuple[int, ...], dtype: torch.dtype, threads: int = 0
) -> Tensor:
    """Return standard normals; arguments as :func:`septet.ops.philox_normal`."""
    numel = math.prod(shape)
    streams = philox.tolist()
    per_stream = numel // max(len(streams), 1)
    rows = [_stream(seed, offset, per_stream, threads, philox.device) for seed, offset in streams]
    return torch.cat(rows).reshape(shape).to(torch.float32).to(dtype)
