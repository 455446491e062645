"""The configuration of :class:`septet.models.LDMBertModel`."""

from __future__ import annotations

from dataclasses import dataclass

from septet.models.config import (
    MAX_PARAMETERS,
    ModelConfig,
    check_bool,
    check_choice,
    check_int,
    check_number,
)
from septet.nn import ACTIVATIONS

# Far above every published network, far below what would exhaust a machine by building it.
_MAX_WIDTH = 1 << 16
_MAX_LAYERS = 1 << 10
_MAX_ENTRIES = 1 << 24


@dataclass(frozen=True)
class LDMBertConfig(ModelConfig):
    """All keys of diffusers' ``LDMBertConfig``, with its defaults.

    Attributes:
        vocab_size: Number of tokens.
        max_position_embeddings: The longest text, in tokens.
        encoder_layers: Number of layers.
        encoder_ffn_dim: Width between the two matrices of a feed-forward layer.
        encoder_attention_heads: Number of heads.
        head_dim: Width of a head.
        encoder_layerdrop: Kept for other readers of the file, as are all dropouts.
        activation_function: Activation of the feed-forward layers.
        d_model: Width of the embeddings.
        dropout: See ``encoder_layerdrop``.
        attention_dropout: The same.
        activation_dropout: The same.
        init_std: Standard deviation of the initial weights.
        classifier_dropout: See ``encoder_layerdrop``.
        scale_embedding: Kept for other readers; the published code never reads it.
        use_cache: The same.
        pad_token_id: The token with which texts are filled up; kept for tokenizers, since
            padding is attended to like any token.
    """

    vocab_size: int = 30522
    max_position_embeddings: int = 77
    encoder_layers: int = 32
    encoder_ffn_dim: int = 5120
    encoder_attention_heads: int = 8
    head_dim: int = 64
    encoder_layerdrop: float = 0.0
    activation_function: str = "gelu"
    d_model: int = 1280
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    init_std: float = 0.02
    classifier_dropout: float = 0.0
    scale_embedding: bool = False
    use_cache: bool = True
    pad_token_id: int = 0

    def check(self) -> None:
        """Raise ValueError, naming the key, if a value makes no sense."""
        for key in ("vocab_size", "max_position_embeddings"):
            check_int(key, getattr(self, key), 1, _MAX_ENTRIES)
        check_int("encoder_layers", self.encoder_layers, 1, _MAX_LAYERS)
        for key in ("encoder_ffn_dim", "encoder_attention_heads", "head_dim", "d_model"):
            check_int(key, getattr(self, key), 1, _MAX_WIDTH)
        for key in (
            *("encoder_layerdrop", "dropout", "attention_dropout"),
            *("activation_dropout", "classifier_dropout"),
        ):
            check_number(key, getattr(self, key), 0, 1)
        check_number("init_std", self.init_std, 0, 1e3)
        check_choice("activation_function", self.activation_function, tuple(ACTIVATIONS))
        check_bool("scale_embedding", self.scale_embedding)
        check_bool("use_cache", self.use_cache)
        check_int("pad_token_id", self.pad_token_id, 0, self.vocab_size - 1)
        self._check_total()

    def _check_total(self) -> None:
        heads = self.encoder_attention_heads * self.head_dim
        total = self.d_model * (
            2 * self.vocab_size
            + self.max_position_embeddings
            + self.encoder_layers * (4 * heads + 2 * self.encoder_ffn_dim)
        )
        if total > MAX_PARAMETERS:
            raise ValueError(
                f"vocab_size, max_position_embeddings, encoder_layers, encoder_ffn_dim, "
                f"encoder_attention_heads, head_dim and d_model ask for about {total:.1e} "
                f"parameters, more than {MAX_PARAMETERS:.0e}"
            )
