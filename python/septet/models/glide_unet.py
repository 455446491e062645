"""What GLIDE's two networks share: the UNet, the text transformer in it, and their preparation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from septet.models.base import PretrainedModel
from septet.models.glide_config import GlideTextToImageConfig
from septet.models.glide_prepared import PreparedGlideUNet
from septet.nn import (
    Conv2d,
    GroupNormAct,
    sinusoidal_embedding,
    timesteps_of_call,
)
from septet.nn.glide import (
    GlideAttentionBlock,
    GlideBlockOptions,
    GlideResBlock,
    TextKeysValues,
    zero_module,
)
from septet.nn.text_transformer import TextTransformer

# Of the authors' training only the published weights are known; this is GPT's.
_EMBEDDING_STD = 0.02
#: Most numbers of projected embeddings that are kept: 256 MiB in float32. A run of a thousand steps
#: for many texts would need gigabytes.
MAX_KEPT = 1 << 26


class GlideUNet(PretrainedModel):
    """The base of both networks; see :class:`septet.models.GlideTextToImageUNet`.

    Args:
        **config: The keys of the configuration class; missing ones get their default.

    Raises:
        ValueError: If a key is unknown or a value makes no sense; nothing has been allocated then.
    """

    config_class: ClassVar[type[GlideTextToImageConfig]] = GlideTextToImageConfig

    def __init__(self, **config: Any) -> None:
        settings = self.config_class.from_dict(config)
        super().__init__(settings)
        self._settings = settings
        width = settings.embedding_channels
        self.time_embed = nn.Sequential(
            nn.Linear(settings.model_channels, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.input_blocks, self.middle_block, self.output_blocks = _blocks(settings)
        first = settings.widths[0]
        self.out = nn.Sequential(
            GroupNormAct(settings.norm_num_groups, first, 1e-5, "silu"),
            nn.Identity(),
            zero_module(Conv2d(first, settings.out_channels, kernel_size=3, padding=1)),
        )
        if settings.xf_width is not None:
            self._add_text(settings, settings.xf_width)
        self._resblocks = [m for m in self.modules() if isinstance(m, GlideResBlock)]
        self._attentions = [m for m in self.modules() if isinstance(m, GlideAttentionBlock)]
        self._time_channels = [block.time_channels for block in self._resblocks]

    def _add_text(self, settings: GlideTextToImageConfig, width: int) -> None:
        self.transformer = TextTransformer(
            width, settings.xf_layers, settings.xf_heads, settings.hidden_act
        )
        self.final_ln = nn.LayerNorm(width)
        self.token_embedding = nn.Embedding.from_pretrained(  # type: ignore[no-untyped-call]
            torch.empty(settings.n_vocab, width), freeze=False
        )
        self.positional_embedding = nn.Parameter(torch.empty(settings.text_ctx, width))
        self.padding_embedding = nn.Parameter(torch.empty(settings.text_ctx, width))
        self.transformer_proj = nn.Linear(width, settings.embedding_channels)
        for weight in (
            self.token_embedding.weight,
            self.positional_embedding,
            self.padding_embedding,
        ):
            if not weight.is_meta:  # there, torch would load a compiler to do nothing
                nn.init.normal_(weight, std=_EMBEDDING_STD)

    # -- what does not depend on the sample -----------------------------------------------------

    def encode_text(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Run the text transformer.

        Args:
            tokens: ``[R, text_ctx]`` integers.
            mask: ``[R, text_ctx]`` booleans; where it is False a learned vector of the position
                stands for the token. That is all it does: attention is not masked.

        Returns:
            ``[R, text_ctx, xf_width]``, what attention blocks read, and ``[R, 4 *
            model_channels]``, made of the last position, which is added to the timestep's
            embedding.

        Raises:
            ValueError: If a shape is wrong or a token is not in the vocabulary.
        """
        settings = self._settings
        expected = [tokens.shape[0] if tokens.ndim else 0, settings.text_ctx]
        for name, given in (("tokens", tokens), ("mask", mask)):
            if list(given.shape) != expected:
                raise ValueError(
                    f"{name} must have shape [texts, {settings.text_ctx}], got {list(given.shape)}"
                )
        # elsewhere the check would wait for the device
        if tokens.device.type == "cpu" and tokens.numel():
            low, high = (int(value) for value in tokens.aminmax())
            if low < 0 or high >= settings.n_vocab:
                raise ValueError(
                    f"tokens must be from 0 to {settings.n_vocab - 1}, got {low} to {high}"
                )
        tokens, mask = tokens.to(self.device), mask.to(self.device, torch.bool)
        hidden = self.token_embedding(tokens) + self.positional_embedding
        hidden = torch.where(mask[..., None], hidden, self.padding_embedding)
        hidden = self.final_ln(self.transformer(hidden))
        return hidden, self.transformer_proj(hidden[:, -1])

    def _embed(self, timesteps: Tensor) -> Tensor:
        """Embed timesteps ``[S]`` as ``[S, 4 * model_channels]``."""
        sines = sinusoidal_embedding(timesteps, self._settings.model_channels, flip_sin_to_cos=True)
        embedding: Tensor = self.time_embed(sines.to(self.dtype))
        return embedding

    def project(self, embedding: Tensor) -> Tensor:
        """Project embeddings of timestep and text for all residual blocks.

        Args:
            embedding: ``[..., 4 * model_channels]``.

        Returns:
            ``[..., channels]``, the scales and shifts of all blocks side by side.
        """
        activated = F.silu(embedding)
        return torch.cat([block.emb_layers[1](activated) for block in self._resblocks], dim=-1)

    def _texts(
        self, tokens: Tensor | None, mask: Tensor | None
    ) -> tuple[list[TextKeysValues] | None, Tensor | None]:
        """Return keys and values of texts per attention block, and their pooled embedding."""
        if self._settings.xf_width is None:
            if tokens is not None or mask is not None:
                raise ValueError("tokens and mask must be None: this network reads no text")
            return None, None
        if tokens is None or mask is None:
            raise ValueError("tokens and mask must be given: this network reads a text")
        hidden, pooled = self.encode_text(tokens, mask)
        return [block.project_text(hidden) for block in self._attentions], pooled

    def _run(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        tokens: Tensor | None,
        mask: Tensor | None,
        conditions: tuple[Tensor, ...],
    ) -> Tensor:
        """Run the network once; arguments as in the subclasses' ``forward``."""
        timesteps = timesteps_of_call(timestep, sample, self.device)
        text, pooled = self._texts(tokens, mask)
        embedding = self._embed(timesteps)
        if pooled is not None:
            embedding = embedding + pooled
        return self.denoise(self.join(sample, conditions), self.project(embedding), text)

    def _prepare(
        self,
        timesteps: Tensor,
        tokens: Tensor | None,
        mask: Tensor | None,
        text_rows: Tensor | None,
        guided: bool,
        conditions: tuple[Tensor, ...],
    ) -> PreparedGlideUNet:
        """See the subclasses' ``prepare``."""
        if timesteps.ndim != 1:
            raise ValueError(f"timesteps must have one axis, got shape {list(timesteps.shape)}")
        text, pooled = self._texts(tokens, mask)
        embedding = self._embed(timesteps.to(self.device))[:, None]
        if pooled is not None:
            embedding = embedding + pooled
        if text is None or pooled is None or pooled.shape[0] == 1:
            text_rows = None
        elif text_rows is not None:
            rows = text_rows = text_rows.to(self.device)
            text = [(key.index_select(0, rows), value.index_select(0, rows)) for key, value in text]
        fits = embedding[..., 0].numel() * sum(self._time_channels) <= MAX_KEPT
        return PreparedGlideUNet(
            self,
            self.project(embedding) if fits else embedding,
            fits,
            text,
            text_rows,
            conditions,
            guided,
        )

    def _inpainting(
        self, image: Tensor | None, mask: Tensor | None, sample: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Return what an inpainting network reads beside the sample, nothing for another one."""
        settings = self._settings
        channels = settings.sample_channels
        if not settings.inpaints:
            if image is not None or mask is not None:
                raise ValueError(
                    "inpaint_image and inpaint_mask must be None: this network does not inpaint"
                )
            return ()
        if image is None or mask is None:
            if image is not None or mask is not None or sample is None:
                raise ValueError("inpaint_image and inpaint_mask must be given, and together")
            batch, _, height, width = sample.shape
            return (sample.new_zeros(batch, channels + 1, height, width),)
        if image.ndim != 4 or image.shape[1] != channels:
            raise ValueError(
                f"inpaint_image must have shape [B, {channels}, H, W], got {list(image.shape)}"
            )
        if mask.shape != (image.shape[0], 1, *image.shape[2:]):
            raise ValueError(
                f"inpaint_mask must have shape {[image.shape[0], 1, *image.shape[2:]]}, got "
                f"{list(mask.shape)}"
            )
        image, mask = (part.to(self.device, self.dtype) for part in (image, mask))
        return image * mask, mask

    # -- what does ------------------------------------------------------------------------------

    def join(self, sample: Tensor, conditions: tuple[Tensor, ...]) -> Tensor:
        """Put the sample and the images beside it together.

        Args:
            sample: ``[B, C, H, W]``.
            conditions: Images of the same batch and size.

        Returns:
            ``[B, in_channels, H, W]``.

        Raises:
            ValueError: If a shape does not suit the network or the others.
        """
        settings = self._settings
        if sample.ndim != 4 or sample.shape[1] != settings.sample_channels:
            raise ValueError(
                f"sample must have shape [B, {settings.sample_channels}, H, W], got "
                f"{list(sample.shape)}"
            )
        multiple = 1 << (len(settings.widths) - 1)
        if sample.shape[2] % multiple or sample.shape[3] % multiple:
            raise ValueError(
                f"sample must have height and width divisible by {multiple}, got "
                f"{list(sample.shape)}"
            )
        for image in conditions:
            if image.shape[0] != sample.shape[0] or image.shape[2:] != sample.shape[2:]:
                raise ValueError(
                    "sample must have the batch and size of the images given (low_res times "
                    f"upscale_factor, inpaint_image), got {list(sample.shape)} and "
                    f"{list(image.shape)}"
                )
        return torch.cat([sample, *conditions], dim=1) if conditions else sample

    def denoise(self, sample: Tensor, times: Tensor, text: list[TextKeysValues] | None) -> Tensor:
        """Run the network with all that does not depend on the sample given.

        Args:
            sample: ``[N, in_channels, H, W]``, see :meth:`join`.
            times: ``[N or 1, channels]``, projected embeddings of timestep and text.
            text: Keys and values per attention block, of N texts or of one.

        Returns:
            ``[N, out_channels, H, W]``.

        Raises:
            ValueError: If the batch of ``sample`` is not that of the texts.
        """
        for rows in (times.shape[0], *(text[0][0].shape[:1] if text else ())):
            if rows not in (1, sample.shape[0]):
                raise ValueError(
                    f"sample must have the batch size of tokens, got {sample.shape[0]} samples "
                    f"for {rows} texts"
                )
        was_contiguous = sample.is_contiguous()
        sample = self._enter(sample)
        projections = iter(torch.split(times, self._time_channels, dim=1))
        texts: Iterator[Any] = itertools.repeat(None) if text is None else iter(text)
        states = []
        for block in self.input_blocks:
            sample = _run_block(block, sample, projections, texts)
            states.append(sample)
        sample = _run_block(self.middle_block, sample, projections, texts)
        for block in self.output_blocks:
            sample = _run_block(block, sample, projections, texts, states.pop())
        output: Tensor = self.out(sample)
        return output.contiguous() if was_contiguous else output


def _run_block(
    block: nn.Module,
    sample: Tensor,
    times: Iterator[Tensor],
    texts: Iterator[Any],
    state: Tensor | None = None,
) -> Tensor:
    """Run the layers of a block, each with what it needs beside the sample.

    A state of the way down is for the first layer, which is a residual block then.
    """
    for layer in cast("nn.ModuleList", block):
        if isinstance(layer, GlideResBlock):
            sample = layer(sample, next(times), state)
            state = None
        elif isinstance(layer, GlideAttentionBlock):
            sample = layer(sample, next(texts))
        else:
            sample = layer(sample)
    return sample


def _blocks(
    settings: GlideTextToImageConfig,
) -> tuple[nn.ModuleList, nn.ModuleList, nn.ModuleList]:
    """Make the blocks of the way down, of the middle and of the way up."""
    options = GlideBlockOptions(
        embedding_channels=settings.embedding_channels,
        text_channels=settings.xf_width,
        groups=settings.norm_num_groups,
        head_channels=settings.num_head_channels,
        num_heads=settings.num_heads,
        dropout=settings.dropout,
    )
    channels = settings.widths[0]
    last = len(settings.widths) - 1
    down = [nn.ModuleList([Conv2d(settings.in_channels, channels, kernel_size=3, padding=1)])]
    kept = [channels]
    for level, width in enumerate(settings.widths):
        for _ in range(settings.num_res_blocks):
            layers: list[nn.Module] = [GlideResBlock(channels, width, options)]
            if settings.attends(level):
                layers.append(GlideAttentionBlock(width, options))
            down.append(nn.ModuleList(layers))
            channels = width
            kept.append(channels)
        if level != last:
            halve = GlideResBlock(channels, channels, options, resample="down")
            down.append(nn.ModuleList([halve]))
            kept.append(channels)
    middle = nn.ModuleList(
        [
            GlideResBlock(channels, channels, options),
            GlideAttentionBlock(channels, options),
            GlideResBlock(channels, channels, options),
        ]
    )
    up = []
    for level in range(last, -1, -1):
        width = settings.widths[level]
        for layer in range(settings.num_res_blocks + 1):
            layers = [GlideResBlock(channels + kept.pop(), width, options)]
            if settings.attends(level):
                layers.append(GlideAttentionBlock(width, options))
            if level and layer == settings.num_res_blocks:
                layers.append(GlideResBlock(width, width, options, resample="up"))
            up.append(nn.ModuleList(layers))
            channels = width
    return nn.ModuleList(down), middle, nn.ModuleList(up)
