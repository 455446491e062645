"""The text encoder of the first latent diffusion model: a transformer with BERT's vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from septet.models.base import PretrainedModel
from septet.models.ldm_bert_config import LDMBertConfig
from septet.nn import activation
from septet.ops import attention

if TYPE_CHECKING:
    from collections.abc import Sequence

# What half precision cannot hold is clamped a little below its largest number, as in diffusers.
_HALF_LIMIT = torch.finfo(torch.float16).max - 1000


@dataclass(frozen=True, eq=False)
class LDMBertOutput:
    """What the network returns; entries that are not None can also be had by index.

    Attributes:
        last_hidden_state: ``[B, L, d_model]``, the embeddings of the tokens in their context.
        hidden_states: If asked for, the state before each layer and the last one, else None.
    """

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None = None

    def __getitem__(self, index: int) -> Tensor | tuple[Tensor, ...]:
        """Return an entry by its position among those that are not None."""
        return self.to_tuple()[index]

    def to_tuple(self) -> tuple[Tensor | tuple[Tensor, ...], ...]:
        """Return the entries that are not None."""
        entries = (self.last_hidden_state, self.hidden_states)
        return tuple(entry for entry in entries if entry is not None)


class LDMBertModel(PretrainedModel):
    """Maps tokens to embeddings, each of which has seen all tokens of its text, padding too.

    Source: Rombach et al. 2022; keys and configuration as in diffusers' ``LDMBertModel``. There is
    no dropout, whatever the configuration says.

    Args:
        **config: The keys of :class:`LDMBertConfig`; missing ones get their default.

    Raises:
        ValueError: If a key is unknown or a value makes no sense; nothing has been allocated then.
    """

    config_class: ClassVar[type[LDMBertConfig]] = LDMBertConfig
    file_styles: ClassVar[Sequence[str]] = ("transformers", "diffusers")

    def __init__(self, **config: Any) -> None:
        settings = LDMBertConfig.from_dict(config)
        super().__init__(settings)
        self.model = _Encoder(settings)
        # Trained along, and in all published files; no reader of embeddings needs it.
        self.to_logits = nn.Linear(settings.d_model, settings.vocab_size)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=settings.init_std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool = False,
        return_dict: bool = True,
    ) -> LDMBertOutput | tuple[Tensor | tuple[Tensor, ...], ...]:
        """Encode texts.

        Args:
            input_ids: ``[B, L]``, integers: the tokens. L is at most ``max_position_embeddings``.
            attention_mask: ``[B, L]``, 1 where a token may be attended to and 0 where not; None
                lets all be. Published models were trained, and are sampled from, with None.
            position_ids: ``[1 or B, L]``, integers: where the tokens are in the text; None
                counts from 0.
            inputs_embeds: ``[B, L, d_model]``, in place of ``input_ids``.
            output_hidden_states: Whether to return the states between the layers.
            return_dict: Whether to return an object instead of a tuple.

        Returns:
            The output, or a tuple of its entries that are not None.

        Raises:
            ValueError: If a shape or dtype is wrong, a token or position is out of range, or not
                exactly one of ``input_ids`` and ``inputs_embeds`` is given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds must be given")
        if input_ids is not None:
            _check_indices("input_ids", input_ids, self.config.vocab_size)
            inputs_embeds = self.model.embed_tokens(input_ids)
        assert inputs_embeds is not None
        batch, length = self._check_embeddings(inputs_embeds)
        if position_ids is None:
            position_ids = torch.arange(length, device=inputs_embeds.device)[None]
        else:
            most = self.config.max_position_embeddings
            _check_indices("position_ids", position_ids, most)
            if position_ids.shape not in ((1, length), (batch, length)):
                raise ValueError(
                    f"position_ids must have shape [1 or {batch}, {length}], got "
                    f"{list(position_ids.shape)}"
                )
        if attention_mask is not None and attention_mask.shape != (batch, length):
            raise ValueError(
                f"attention_mask must have shape [{batch}, {length}], got "
                f"{list(attention_mask.shape)}"
            )
        hidden = inputs_embeds + self.model.embed_positions(position_ids)
        bias = _as_bias(attention_mask, hidden.dtype)
        states = self.model(hidden, bias, output_hidden_states)
        output = LDMBertOutput(states[-1], tuple(states) if output_hidden_states else None)
        return output if return_dict else output.to_tuple()

    def _check_embeddings(self, embeddings: Tensor) -> tuple[int, int]:
        """Check the shape of embeddings, and return their batch size and length."""
        width, most = self.config.d_model, self.config.max_position_embeddings
        if embeddings.ndim != 3 or embeddings.shape[2] != width:
            raise ValueError(
                f"inputs_embeds must have shape [B, L, {width}], got {list(embeddings.shape)}"
            )
        batch, length, _ = embeddings.shape
        if not 1 <= length <= most:
            raise ValueError(
                f"input_ids must have 1 to {most} tokens (max_position_embeddings), got {length}"
            )
        return batch, length


class _Attention(nn.Module):
    """Self-attention whose heads together may be narrower or wider than the embeddings."""

    def __init__(self, settings: LDMBertConfig) -> None:
        super().__init__()
        self.heads = settings.encoder_attention_heads
        inner = self.heads * settings.head_dim
        self.k_proj = nn.Linear(settings.d_model, inner, bias=False)
        self.v_proj = nn.Linear(settings.d_model, inner, bias=False)
        self.q_proj = nn.Linear(settings.d_model, inner, bias=False)
        self.out_proj = nn.Linear(inner, settings.d_model)

    def forward(self, hidden: Tensor, bias: Tensor | None) -> Tensor:
        """Map ``[B, L, d_model]`` to the same shape."""
        query, key, value = (
            layer(hidden).unflatten(-1, (self.heads, -1))
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended: Tensor = self.out_proj(attention(query, key, value, bias=bias).flatten(2))
        return attended


class _Layer(nn.Module):
    """Attention, then a feed-forward layer, each on normalised input and added to it."""

    def __init__(self, settings: LDMBertConfig) -> None:
        super().__init__()
        self.self_attn = _Attention(settings)
        self.self_attn_layer_norm = nn.LayerNorm(settings.d_model)
        self.fc1 = nn.Linear(settings.d_model, settings.encoder_ffn_dim)
        self.fc2 = nn.Linear(settings.encoder_ffn_dim, settings.d_model)
        self.final_layer_norm = nn.LayerNorm(settings.d_model)
        self.activation = activation(settings.activation_function)

    def forward(self, hidden: Tensor, bias: Tensor | None) -> Tensor:
        """Map ``[B, L, d_model]`` to the same shape."""
        hidden = hidden + self.self_attn(self.self_attn_layer_norm(hidden), bias)
        inner = self.activation(self.fc1(self.final_layer_norm(hidden)))
        hidden = hidden + self.fc2(inner)
        if hidden.dtype == torch.float16:
            hidden = hidden.clamp(-_HALF_LIMIT, _HALF_LIMIT)
        return hidden


class _Encoder(nn.Module):
    """The embeddings and the layers."""

    def __init__(self, settings: LDMBertConfig) -> None:
        super().__init__()
        width = settings.d_model
        self.embed_tokens = nn.Embedding(settings.vocab_size, width)
        self.embed_positions = nn.Embedding(settings.max_position_embeddings, width)
        self.layers = nn.ModuleList(_Layer(settings) for _ in range(settings.encoder_layers))
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, hidden: Tensor, bias: Tensor | None, keep_all: bool) -> list[Tensor]:
        """Return the normalised state after the last layer; before it, the one before each."""
        states = []
        for layer in self.layers:
            if keep_all:
                states.append(hidden)
            hidden = layer(hidden, bias)
        return [*states, self.layer_norm(hidden)]


def _check_indices(name: str, indices: Tensor, count: int) -> None:
    """Raise ValueError unless these are ``[B, L]`` integers from 0 to ``count - 1``.

    An index out of range would end a process on CUDA; the check waits for the device once a text.
    """
    if indices.ndim != 2:
        raise ValueError(f"{name} must have shape [B, L], got {list(indices.shape)}")
    if indices.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{name} must be int64 or int32, got {indices.dtype}")
    if indices.numel() == 0 or torch.compiler.is_compiling():
        return
    low, high = (int(value) for value in torch.aminmax(indices))
    if low < 0 or high >= count:
        raise ValueError(f"{name} must be from 0 to {count - 1}, got {low} to {high}")


def _as_bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Turn a mask ``[B, L]`` of ones and zeros into what is added to the logits."""
    if mask is None:
        return None
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill(mask == 0, torch.finfo(dtype).min)[:, None, None, :]
