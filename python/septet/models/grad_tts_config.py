"""The configurations of the two networks of Grad-TTS, with the keys of its 2022 release."""

from __future__ import annotations

from dataclasses import dataclass

from septet.models.config import ModelConfig, check_int, check_number, each

# Far above every published network, far below what would exhaust a machine by building it.
MAX_CHANNELS = 1 << 13
MAX_LAYERS = 64
MAX_LEVELS = 8
MAX_VOCAB = 1 << 20
MAX_SPEAKERS = 1 << 20

#: Fixed in the authors' code.
NUM_GROUPS = 8


@dataclass(frozen=True)
class GradTTSTextEncoderConfig(ModelConfig):
    """All keys of the text encoder's configuration, with the values of the published models.

    Attributes:
        n_vocab: Number of symbols, the blank included.
        n_feats: Bins of the mel spectrogram.
        n_channels: Width of the encoder.
        filter_channels: Inner width of the feed-forward layers.
        filter_channels_dp: Width of the duration predictor.
        n_heads: Attention heads; divides ``n_channels``.
        n_layers: Number of attention and feed-forward layers.
        kernel_size: Kernel of the feed-forward layers and the duration predictor; odd.
        p_dropout: Dropout of the layers in training.
        window_size: Up to this distance, attention knows how far apart two symbols are.
        spk_emb_dim: Kept for other readers of the file.
        n_spks: 1: the encoder never sees the speaker, in the published multi-speaker models too.
    """

    n_vocab: int = 149
    n_feats: int = 80
    n_channels: int = 192
    filter_channels: int = 768
    filter_channels_dp: int = 256
    n_heads: int = 2
    n_layers: int = 6
    kernel_size: int = 3
    p_dropout: float = 0.1
    window_size: int = 4
    spk_emb_dim: int = 64
    n_spks: int | None = 1

    def check(self) -> None:
        """Raise ValueError, naming the key, if a value makes no sense."""
        check_int("n_vocab", self.n_vocab, 1, MAX_VOCAB)
        for key in ("n_feats", "n_channels", "filter_channels", "filter_channels_dp", "n_heads"):
            check_int(key, getattr(self, key), 1, MAX_CHANNELS)
        check_int("n_layers", self.n_layers, 1, MAX_LAYERS)
        check_int("kernel_size", self.kernel_size, 1, 255)
        check_int("window_size", self.window_size, 0, 1 << 10)
        check_int("spk_emb_dim", self.spk_emb_dim, 1, MAX_CHANNELS)
        check_number("p_dropout", self.p_dropout, 0, 1)
        if self.n_channels % self.n_heads:
            raise ValueError(
                f"n_heads must divide n_channels, got {self.n_heads} for {self.n_channels}"
            )
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {self.kernel_size}")
        if self.n_spks not in (None, 1) or isinstance(self.n_spks, bool):
            raise ValueError(
                f"n_spks must be 1, got {self.n_spks!r}: text encoders that depend on the speaker "
                "are not supported, and none was ever published"
            )


@dataclass(frozen=True)
class UNetGradTTSConfig(ModelConfig):
    """All keys of the decoder's configuration, with the values of the published models.

    Attributes:
        dim: Channels of the first level, and width of the time embedding; a multiple of 8.
        dim_mults: Channels of the levels as multiples of ``dim``.
        groups: Kept for other readers of the file; the network always has 8, as its authors'.
        n_spks: Number of speakers; None is 1.
        spk_emb_dim: Width of the speaker embedding.
        n_feats: Bins of the mel spectrogram; can be halved once per level but the last.
        pe_scale: Times in (0, 1) are multiplied by it before they are embedded; 1 in the authors'
            ``grad-tts-old.pt``.
    """

    dim: int = 64
    dim_mults: tuple[int, ...] = (1, 2, 4)
    groups: int = NUM_GROUPS
    n_spks: int | None = 1
    spk_emb_dim: int = 64
    n_feats: int = 80
    pe_scale: float = 1000

    @property
    def num_speakers(self) -> int:
        """The number of speakers, at least 1."""
        return self.n_spks or 1

    @property
    def multiple(self) -> int:
        """What the number of frames must be a multiple of."""
        return 1 << (len(self.dim_mults) - 1)

    def check(self) -> None:
        """Raise ValueError, naming the key, if a value makes no sense."""
        check_int("dim", self.dim, NUM_GROUPS, MAX_CHANNELS)
        for key, factor in each("dim_mults", self.dim_mults, 1, MAX_LEVELS):
            check_int(key, factor, 1, MAX_CHANNELS // self.dim)
        check_int("groups", self.groups, 1, MAX_CHANNELS)
        if self.n_spks is not None:
            check_int("n_spks", self.n_spks, 1, MAX_SPEAKERS)
        check_int("spk_emb_dim", self.spk_emb_dim, 1, MAX_CHANNELS)
        check_int("n_feats", self.n_feats, 1, MAX_CHANNELS)
        check_number("pe_scale", self.pe_scale, 0, 1e9)
        if self.dim % NUM_GROUPS:
            raise ValueError(f"dim must be a multiple of {NUM_GROUPS}, got {self.dim}")
        if self.dim_mults[0] != 1:
            raise ValueError(f"dim_mults must begin with 1, got {self.dim_mults}")
        if self.n_feats % self.multiple:
            raise ValueError(
                f"n_feats must be a multiple of {self.multiple} for {len(self.dim_mults)} entries "
                f"of dim_mults, got {self.n_feats}"
            )
