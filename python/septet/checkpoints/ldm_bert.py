"""``LDMBertModel`` in the files of CompVis and of transformers, as tables."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from septet.checkpoints.keys import part, renamed
from septet.checkpoints.shapes import count, width
from septet.config import brief

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

# Where the text encoder lies in a checkpoint of a whole latent diffusion model.
_PREFIX = "cond_stage_model.transformer."

# CompVis' TransformerWrapper (x-transformers): outside of the layers, and within them.
_PLACES = {
    "token_emb.weight": "model.embed_tokens.weight",
    "pos_emb.emb.weight": "model.embed_positions.weight",
    "norm.weight": "model.layer_norm.weight",
    "norm.bias": "model.layer_norm.bias",
}
# Even sublayers attend, odd ones feed forward; number 0 is the norm in front, 1 the rest.
_SUBLAYER = re.compile(r"attn_layers\.layers\.(\d{1,4})\.([01])\.(.+)")
_ATTENTION = {
    "to_q.weight": "self_attn.q_proj.weight",
    "to_k.weight": "self_attn.k_proj.weight",
    "to_v.weight": "self_attn.v_proj.weight",
    "to_out.weight": "self_attn.out_proj.weight",
    "to_out.bias": "self_attn.out_proj.bias",
}
_FEED_FORWARD = {
    "net.0.0.weight": "fc1.weight",
    "net.0.0.bias": "fc1.bias",
    "net.2.weight": "fc2.weight",
    "net.2.bias": "fc2.bias",
}
_NORMS = ("self_attn_layer_norm", "final_layer_norm")

# What transformers writes into every configuration; none of it changes this network.
_GENERAL_KEYS = frozenset(
    (
        *("architectures", "model_type", "transformers_version", "torch_dtype", "dtype"),
        *("num_hidden_layers", "output_attentions", "output_hidden_states", "return_dict"),
        *("use_return_dict", "chunk_size_feed_forward", "is_encoder_decoder", "problem_type"),
        *("id2label", "label2id", "num_labels", "bos_token_id", "eos_token_id", "name_or_path"),
    )
)
# Names of transformers for keys that have their own here.
_SYNONYMS = {"hidden_size": "d_model", "num_attention_heads": "encoder_attention_heads"}
_MAX_LAYERS = 1 << 10


def bert_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the configuration that transformers wrote to the keys of the network.

    Args:
        config: The content of a ``config.json``.

    Raises:
        ValueError: If a key is there under two names with two values.
    """
    result: dict[str, Any] = {}
    for key, value in config.items():
        today = _SYNONYMS.get(key, key)
        if result.setdefault(today, value) != value:
            raise ValueError(f"{key} must equal {today}, got {brief(value)}")
    layers = result.get("num_hidden_layers")
    if layers is not None and layers != result.setdefault("encoder_layers", layers):
        raise ValueError(
            f"num_hidden_layers must equal encoder_layers, got {brief(layers)} and "
            f"{brief(result['encoder_layers'])}"
        )
    return {key: value for key, value in result.items() if key not in _GENERAL_KEYS}


def bert_keys(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Rename the weights of an ``LDMBertModel`` of the authors to the names of diffusers.

    Args:
        tensors: Weights by name, possibly those of a whole latent diffusion model of CompVis.
        path: Where they come from, for the error message.

    Raises:
        CheckpointError: If a weight is there under two names.
    """
    return renamed(part(tensors, _PREFIX), _todays_name, path)


def _todays_name(key: str) -> str:
    match = _SUBLAYER.fullmatch(key)
    if match is None:
        return _PLACES.get(key, key)
    layer, feeds_forward = divmod(int(match[1]), 2)
    if match[2] == "0":
        return f"model.layers.{layer}.{_NORMS[feeds_forward]}.{match[3]}"
    name = (_FEED_FORWARD if feeds_forward else _ATTENTION).get(match[3])
    return key if name is None else f"model.layers.{layer}.{name}"


def is_authors_bert(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether weights have the authors' names, or lie in a file of a whole model."""
    return any(f"{prefix}token_emb.weight" in tensors for prefix in ("", _PREFIX))


def infer_bert(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Infer from its weights how a text encoder of the authors is built.

    Shapes do not tell how many heads it has: the authors' code knows no others than 8 of width 64,
    which is the default here.

    Args:
        tensors: Weights under today's names.
        path: Where they come from, for the error message.

    Raises:
        CheckpointError: If the weights are not those of such a network.
    """

    def extent(key: str, axis: int) -> int:
        return width(tensors, f"model.{key}.weight", axis, path, axes=(2,))

    return {
        "vocab_size": extent("embed_tokens", 0),
        "max_position_embeddings": extent("embed_positions", 0),
        "encoder_layers": count(tensors, "model.layers.{}.fc1.weight", most=_MAX_LAYERS),
        "encoder_ffn_dim": extent("layers.0.fc1", 0),
        "d_model": extent("embed_tokens", 1),
    }
