"""The UNet of the DDPM and DDIM authors, written from its description, with their names.

Independent of the package: what it computes and what its weights are called checks how the
package reads the authors' files.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Res(nn.Module):
    def __init__(self, inner: int, outer: int, time: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(32, inner, eps=1e-6)
        self.conv1 = nn.Conv2d(inner, outer, 3, padding=1)
        self.temb_proj = nn.Linear(time, outer)
        self.norm2 = nn.GroupNorm(32, outer, eps=1e-6)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1)
        if inner != outer:
            self.nin_shortcut = nn.Conv2d(inner, outer, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.temb_proj(F.silu(time))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attn(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        for name in ("q", "k", "v", "proj_out"):
            setattr(self, name, nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2) for layer in (self.q, self.k, self.v))
        weights = torch.einsum("bci,bcj->bij", q, k).mul(x.shape[1] ** -0.5).softmax(-1)
        return x + self.proj_out(torch.einsum("bij,bcj->bci", weights, v).view_as(x))


def level(widths: list[tuple[int, int]], time: int, attends: bool) -> nn.Module:
    """Make the blocks of one resolution."""
    made = nn.Module()
    made.block = nn.ModuleList(Res(inner, outer, time) for inner, outer in widths)
    made.attn = nn.ModuleList(Attn(outer) for _, outer in widths if attends)
    return made


def resample(width: int, **options: int) -> nn.Module:
    made = nn.Module()
    made.conv = nn.Conv2d(width, width, 3, **options)
    return made


class AuthorsUNet(nn.Module):
    def __init__(
        self,
        ch: int,
        ch_mult: list[int],
        num_res_blocks: int,
        attn_resolutions: list[int],
        resolution: int,
        **_: Any,
    ) -> None:
        super().__init__()
        time, widths = 4 * ch, [ch * factor for factor in ch_mult]
        self.ch, self.depth = ch, num_res_blocks
        attends = [resolution >> i in attn_resolutions for i in range(len(widths))]
        self.temb = nn.Module()
        self.temb.dense = nn.ModuleList([nn.Linear(ch, time), nn.Linear(time, time)])
        self.conv_in = nn.Conv2d(3, ch, 3, padding=1)
        self.down, self.up, self.mid = nn.ModuleList(), nn.ModuleList(), nn.Module()
        skips, now = [ch], ch
        for i, width in enumerate(widths):
            pairs = [(now, width), *[(width, width)] * (num_res_blocks - 1)]
            self.down.append(level(pairs, time, attends[i]))
            skips += [width] * num_res_blocks
            now = width
            if i < len(widths) - 1:
                self.down[i].downsample = resample(width, stride=2)
                skips.append(width)
        self.mid.block_1, self.mid.attn_1 = Res(now, now, time), Attn(now)
        self.mid.block_2 = Res(now, now, time)
        for i, width in reversed(list(enumerate(widths))):
            pairs = []
            for _ in range(num_res_blocks + 1):
                pairs.append((now + skips.pop(), width))
                now = width
            self.up.insert(0, level(pairs, time, attends[i]))
            if i:
                self.up[0].upsample = resample(width, padding=1)
        self.norm_out = nn.GroupNorm(32, now, eps=1e-6)
        self.conv_out = nn.Conv2d(now, 3, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        half = self.ch // 2
        rates = torch.exp(torch.arange(half) * (-math.log(10000) / (half - 1)))
        angles = t.float()[:, None] * rates
        time = torch.cat([angles.sin(), angles.cos()], dim=1)
        time = self.temb.dense[1](F.silu(self.temb.dense[0](time)))
        states = [self.conv_in(x)]
        for part in self.down:
            for j, block in enumerate(part.block):
                h = block(states[-1], time)
                states.append(part.attn[j](h) if part.attn else h)
            if hasattr(part, "downsample"):
                states.append(part.downsample.conv(F.pad(states[-1], (0, 1, 0, 1))))
        h = self.mid.attn_1(self.mid.block_1(states[-1], time))
        h = self.mid.block_2(h, time)
        for part in reversed(self.up):
            for j, block in enumerate(part.block):
                h = block(torch.cat([h, states.pop()], dim=1), time)
                h = part.attn[j](h) if part.attn else h
            if hasattr(part, "upsample"):
                h = part.upsample.conv(F.interpolate(h, scale_factor=2))
        return self.conv_out(F.silu(self.norm_out(h)))
