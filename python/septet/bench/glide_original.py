"""The original GLIDE (openai/glide-text2im, Nichol et al. 2021), re-enacted in plain torch.

It computes in the original's order with the original's operations: the text transformer in every
call unless told otherwise, a batch of both halves of guidance, keys and values of text and image
concatenated, softmax in float32, and the sampler on the doubled batch with float64 tables that are
looked up in every step. It takes the weights, and nothing else, from one of septet's networks.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from septet.models.glide_unet import GlideUNet
from septet.nn.glide import GlideAttentionBlock, GlideResBlock


class OriginalGlide:
    """The network of the original.

    Args:
        unet: Where the weights are.
        cache_text: Whether to encode the text once, an option of the original's that its notebooks
            leave off.
    """

    def __init__(self, unet: GlideUNet, *, cache_text: bool = False) -> None:
        self.unet: Any = unet
        self.cache_text = cache_text
        self._cached: tuple[Tensor, Tensor] | None = None

    def __call__(
        self,
        x: Tensor,
        timesteps: Tensor,
        tokens: Tensor,
        mask: Tensor,
        low_res: Tensor | None = None,
    ) -> Tensor:
        """Run the network.

        Args:
            x: ``[N, C, H, W]``.
            timesteps: ``[N]``.
            tokens: ``[N, text_ctx]``.
            mask: ``[N, text_ctx]``.
            low_res: ``[N, C, h, w]``, for an upsampler.

        Returns:
            ``[N, 2 * C, H, W]``.
        """
        unet = self.unet
        if low_res is not None:
            enlarged = F.interpolate(low_res, x.shape[2:], mode="bilinear", align_corners=False)
            x = torch.cat([x, enlarged], dim=1)
        first, _, second = unet.time_embed
        sines = _sines(timesteps, unet.config.model_channels)
        embedding = F.linear(F.silu(F.linear(sines, first.weight, first.bias)), *_of(second))
        hidden, pooled = self._text(tokens, mask)
        embedding = embedding + pooled
        states = []
        for block in unet.input_blocks:
            x = self._block(block, x, embedding, hidden)
            states.append(x)
        x = self._block(unet.middle_block, x, embedding, hidden)
        for block in unet.output_blocks:
            x = self._block(block, torch.cat([x, states.pop()], dim=1), embedding, hidden)
        norm, _, convolve = unet.out
        return _conv(F.silu(_norm(x, norm)), convolve)

    def _text(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the encoded text ``[N, width, text_ctx]`` and what is added to the embedding."""
        if self._cached is not None:
            return self._cached
        unet = self.unet
        x = F.embedding(tokens, unet.token_embedding.weight) + unet.positional_embedding[None]
        x = torch.where(mask[..., None], x, unet.padding_embedding[None])
        for block in unet.transformer.resblocks:
            x = x + _text_attention(block.attn, _layer_norm(x, block.ln_1))
            inner = F.gelu(F.linear(_layer_norm(x, block.ln_2), *_of(block.mlp.c_fc)))
            x = x + F.linear(inner, *_of(block.mlp.c_proj))
        x = _layer_norm(x, unet.final_ln)
        result = x.permute(0, 2, 1), F.linear(x[:, -1], *_of(unet.transformer_proj))
        if self.cache_text:
            self._cached = result
        return result

    def _block(self, block: Any, x: Tensor, embedding: Tensor, text: Tensor) -> Tensor:
        for layer in block:
            if isinstance(layer, GlideResBlock):
                x = _resblock(layer, x, embedding)
            elif isinstance(layer, GlideAttentionBlock):
                x = _attention(layer, x, text)
            else:
                x = _conv(x, layer)
        return x


def _of(layer: Any) -> tuple[Tensor, Tensor]:
    return layer.weight, layer.bias


def _conv(x: Tensor, layer: Any) -> Tensor:
    return F.conv2d(x, layer.weight, layer.bias, padding=layer.padding)


def _norm(x: Tensor, layer: Any) -> Tensor:
    return F.group_norm(x.float(), layer.num_groups, *_of(layer), layer.eps).to(x.dtype)


def _layer_norm(x: Tensor, layer: Any) -> Tensor:
    return F.layer_norm(x.float(), layer.normalized_shape, *_of(layer), layer.eps).to(x.dtype)


def _sines(timesteps: Tensor, dim: int) -> Tensor:
    half = dim // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
    angles = timesteps[:, None].float() * frequencies.to(timesteps.device)[None]
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


def _resblock(block: Any, x: Tensor, embedding: Tensor) -> Tensor:
    norm, resample, convolve = block.in_layers
    hidden = _conv(resample(F.silu(_norm(x, norm))), convolve)
    x = resample(x)
    scale, shift = F.linear(F.silu(embedding), *_of(block.emb_layers[1]))[..., None, None].chunk(
        2, 1
    )
    hidden = _norm(hidden, block.out_layers[0]) * (1 + scale) + shift
    hidden = _conv(F.silu(hidden), block.out_layers[3])
    skip = block.skip_connection
    return (x if isinstance(skip, torch.nn.Identity) else _conv(x, skip)) + hidden


def _attention(block: Any, x: Tensor, text: Tensor) -> Tensor:
    batch, channels, *size = x.shape
    width = channels // block.heads
    rows = batch * block.heads
    qkv = F.conv1d(_norm(x, block.norm).reshape(batch, channels, -1), *_of(block.qkv))
    query, key, value = qkv.reshape(rows, 3 * width, -1).split(width, dim=1)  # type: ignore[no-untyped-call]
    text_key, text_value = (
        F.conv1d(text, *_of(block.encoder_kv)).reshape(rows, 2 * width, -1).chunk(2, dim=1)
    )
    key, value = torch.cat([text_key, key], dim=-1), torch.cat([text_value, value], dim=-1)
    scale = 1 / math.sqrt(math.sqrt(width))
    weight = torch.einsum("bct,bcs->bts", query * scale, key * scale)
    weight = torch.softmax(weight.float(), dim=-1).to(weight.dtype)
    hidden = torch.einsum("bts,bcs->bct", weight, value).reshape(batch, channels, -1)
    return x + F.conv1d(hidden, *_of(block.proj_out)).reshape(batch, channels, *size)


def _text_attention(layer: Any, x: Tensor) -> Tensor:
    batch, length, _ = x.shape
    qkv = F.linear(x, *_of(layer.c_qkv)).view(batch, length, layer.heads, -1)
    query, key, value = qkv.chunk(3, dim=-1)
    scale = 1 / math.sqrt(math.sqrt(query.shape[-1]))
    weight = torch.einsum("bthc,bshc->bhts", query * scale, key * scale)
    weight = torch.softmax(weight.float(), dim=-1).to(weight.dtype)
    hidden = torch.einsum("bhts,bshc->bthc", weight, value).reshape(batch, length, -1)
    return F.linear(hidden, *_of(layer.c_proj))


class OriginalSampler:
    """A step of the original's samplers, over the timesteps that are kept.

    Args:
        alphas_cumprod: ``[T]`` of the training process, in float64.
        timesteps: Those kept, ascending.
    """

    def __init__(self, alphas_cumprod: Any, timesteps: list[int]) -> None:
        kept = np.asarray(alphas_cumprod, dtype=np.float64)[timesteps]
        betas = 1 - kept / np.append(1.0, kept[:-1])
        self.timesteps = timesteps
        self.bar = np.cumprod(1 - betas)
        self.previous = np.append(1.0, self.bar[:-1])
        variance = betas * (1 - self.previous) / (1 - self.bar)
        self.low = np.log(np.append(variance[1], variance[1:]))
        self.high = np.log(betas)
        self.of_x0 = betas * np.sqrt(self.previous) / (1 - self.bar)
        self.of_x = (1 - self.previous) * np.sqrt(1 - betas) / (1 - self.bar)
        self.root, self.spread = np.sqrt(1 / self.bar), np.sqrt(1 / self.bar - 1)

    def ddpm(self, output: Tensor, x: Tensor, index: int, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next sample and the estimate of the clean one."""
        epsilon, value = output.chunk(2, dim=1)
        low, high = self._at(self.low, index, x), self._at(self.high, index, x)
        fraction = (value + 1) / 2
        log_variance = fraction * high + (1 - fraction) * low
        x0 = self._estimate(epsilon, x, index)
        mean = self._at(self.of_x0, index, x) * x0 + self._at(self.of_x, index, x) * x
        return mean + (index != 0) * torch.exp(0.5 * log_variance) * noise, x0

    def ddim(self, output: Tensor, x: Tensor, index: int, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same for DDIM with eta 0."""
        x0 = self._estimate(output.chunk(2, dim=1)[0], x, index)
        epsilon = self._at(self.root, index, x) * x - x0
        epsilon = epsilon / self._at(self.spread, index, x)
        previous = self._at(self.previous, index, x)
        return x0 * torch.sqrt(previous) + torch.sqrt(1 - previous) * epsilon + 0 * noise, x0

    def _estimate(self, epsilon: Tensor, x: Tensor, index: int) -> Tensor:
        root, spread = self._at(self.root, index, x), self._at(self.spread, index, x)
        return (root * x - spread * epsilon).clamp(-1, 1)

    def _at(self, table: Any, index: int, x: Tensor) -> Tensor:
        """Look a value up as the original does: for every sample, and as large as the samples."""
        indices = torch.full((x.shape[0],), index, device=x.device)
        found = torch.from_numpy(table).to(x.device)[indices].float()
        return found[:, None, None, None] + torch.zeros(x.shape, device=x.device)


def guided(
    model: OriginalGlide, x: Tensor, timesteps: Tensor, tokens: Tensor, mask: Tensor, scale: float
) -> Tensor:
    """Run both halves of a batch at the first half of ``x``, and guide the noise of both."""
    half = x[: len(x) // 2]
    output = model(torch.cat([half, half]), timesteps, tokens, mask)
    channels = x.shape[1]
    epsilon, rest = output[:, :channels], output[:, channels:]
    conditional, unconditional = epsilon.chunk(2)
    epsilon = unconditional + scale * (conditional - unconditional)
    return torch.cat([torch.cat([epsilon, epsilon]), rest], dim=1)
