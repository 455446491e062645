"""Prompts: what may be given, and how a text encoder turns them into conditions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from septet.config import brief

_logger = logging.getLogger(__name__)

#: Tokens per prompt where neither the tokenizer nor the encoder sets a limit (LDM, CLIP).
_DEFAULT_LENGTH = 77
#: Tokenizers without a limit report a length beyond any memory.
_NO_LIMIT = 10**6


def check_prompts(prompt: object, name: str = "prompt") -> list[str]:
    """Return one or several prompts as a list.

    Raises:
        ValueError: If it is no string and no non-empty list of strings.
    """
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, list | tuple) and prompt and all(isinstance(p, str) for p in prompt):
        return list(prompt)
    raise ValueError(f"{name} must be a string or a list of strings, got {brief(prompt)}")


def spread_prompts(prompt: object, count: int, name: str) -> list[str]:
    """Return ``count`` prompts: one each, or one for all.

    Raises:
        ValueError: If there are more than one but not ``count``.
    """
    given = check_prompts(prompt, name)
    if len(given) not in (1, count):
        raise ValueError(f"{name} must be one string or {count}, like prompt, got {len(given)}")
    return given if len(given) == count else given * count


def token_limit(tokenizer: Any, text_encoder: Any) -> int:
    """Return how many tokens a prompt becomes: what tokenizer and text encoder can both hold."""
    positions = getattr(text_encoder.config, "max_position_embeddings", _DEFAULT_LENGTH)
    longest = getattr(tokenizer, "model_max_length", _NO_LIMIT)
    return min(positions, longest if longest < _NO_LIMIT else _DEFAULT_LENGTH)


def encode_prompts(prompts: Sequence[str], tokenizer: Any, text_encoder: Any) -> Tensor:
    """Encode prompts, padded or cut to the length that the text encoder was trained with.

    The encoder sees no mask: these systems were trained to attend to the padding.

    Args:
        prompts: B texts. What is cut off from one of them is said in a warning.
        tokenizer: A tokenizer of transformers, or one called like those.
        text_encoder: Maps ``[B, L]`` ids to a tuple or an output whose first entry is
            ``[B, L, D]``.

    Returns:
        ``[B, L, D]``.
    """
    length = token_limit(tokenizer, text_encoder)
    prompts = list(prompts)
    options = {"padding": "max_length", "max_length": length, "truncation": True}
    ids = tokenizer(prompts, return_tensors="pt", **options).input_ids
    _warn_of_truncation(prompts, tokenizer, length)
    encoded: Tensor = text_encoder(ids.to(next(text_encoder.parameters()).device))[0]
    return encoded


def check_embeddings(embeds: object, width: int, name: str, owner: str) -> Tensor:
    """Return encoded prompts if a network can take them.

    Args:
        embeds: Should be ``[B, L, width]``.
        width: Width of the network's cross-attention.
        name: Of the argument, for the message.
        owner: What wants that width, for the message.

    Raises:
        ValueError: If it is no such tensor; the message names both sides.
    """
    if not isinstance(embeds, Tensor):
        raise ValueError(f"{name} must be a tensor [B, L, {width}], got {brief(embeds)}")
    if embeds.dim() != 3 or 0 in embeds.shape:
        raise ValueError(f"{name} must be [B, L, {width}], got {list(embeds.shape)}")
    if embeds.shape[-1] != width:
        raise ValueError(
            f"{name} must have width {width} to fit {owner}, got width {embeds.shape[-1]}"
        )
    return embeds


def repeat_rows(rows: Tensor, count: int) -> Tensor:
    """Repeat each sample of a batch so many times, copies next to each other."""
    return rows if count == 1 else torch.repeat_interleave(rows, count, dim=0)


def _warn_of_truncation(prompts: list[str], tokenizer: Any, length: int) -> None:
    # transformers would warn about the length a second time, in its own words
    whole = tokenizer(prompts, padding=False, truncation=False, verbose=False).input_ids
    for prompt, ids in zip(prompts, whole, strict=True):
        if len(ids) > length:
            lost = tokenizer.decode(ids[length - 1 :], skip_special_tokens=True)
            _logger.warning(
                "a prompt has %d tokens, of which only %d are used; lost of %r: %r",
                len(ids),
                length,
                prompt,
                lost,
            )
