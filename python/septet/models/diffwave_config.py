"""The configuration of :class:`septet.models.DiffWaveModel`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from septet.audio import MelConfig
from septet.models.config import ModelConfig, check_int, each

# Far above every published network, far below what would exhaust a machine by building it.
MAX_CHANNELS = 1 << 14
MAX_LAYERS = 1 << 10
MAX_FACTOR = 1 << 12


@dataclass(frozen=True)
class DiffWaveConfig(ModelConfig):
    """The keys of diffusers 0.0.4, and those for what the authors' code has as constants.

    Attributes:
        in_channels: Channels of a waveform.
        res_channels: Width of the residual path.
        skip_channels: Width of the sum that all layers contribute to.
        out_channels: Channels of the output, as many as ``in_channels``.
        num_res_layers: Number of layers.
        dilation_cycle: Layer n has the dilation ``2 ** (n % dilation_cycle)``.
        diffusion_step_embed_dim_in: Columns of the sinusoidal embedding, even, at least 4.
        diffusion_step_embed_dim_mid: Width of the first linear layer after it.
        diffusion_step_embed_dim_out: Width of the second.
        num_mels: Bands of the mel spectrogram.
        upsample_factors: The mel spectrogram is stretched by each of them in turn; their product
            times ``group_size`` is the hop length.
        group_size: So many consecutive samples become channels of one position, at which the
            layers work (as in WaveGlow, Prenger et al. 2018); 1 in the published networks.
        sampling_rate: Samples per second, as for the next four only told to others.
        n_fft: See :class:`septet.audio.MelConfig`, as for the next three.
        win_length: The same.
        fmin: The same.
        fmax: The same.
    """

    in_channels: int = 1
    res_channels: int = 128
    skip_channels: int = 128
    out_channels: int = 1
    num_res_layers: int = 30
    dilation_cycle: int = 10
    diffusion_step_embed_dim_in: int = 128
    diffusion_step_embed_dim_mid: int = 512
    diffusion_step_embed_dim_out: int = 512
    num_mels: int = 80
    upsample_factors: tuple[int, ...] = (16, 16)
    group_size: int = 1
    sampling_rate: int = 22050
    n_fft: int = 1024
    win_length: int = 1024
    fmin: float = 0.0
    fmax: float = 8000.0

    @property
    def hop_length(self) -> int:
        """Samples per frame of the mel spectrogram."""
        return self.group_size * math.prod(self.upsample_factors)

    @property
    def mel(self) -> MelConfig:
        """How to make the mel spectrograms that the network expects."""
        return MelConfig(
            sampling_rate=self.sampling_rate,
            n_fft=self.n_fft,
            hop_length=self.hop_length,
            win_length=self.win_length,
            num_mels=self.num_mels,
            fmin=self.fmin,
            fmax=self.fmax,
        )

    def check(self) -> None:
        """Raise ValueError, naming the key, if a value makes no sense."""
        for key in ("in_channels", "out_channels", "res_channels", "skip_channels", "num_mels"):
            check_int(key, getattr(self, key), 1, MAX_CHANNELS)
        check_int("num_res_layers", self.num_res_layers, 1, MAX_LAYERS)
        check_int("dilation_cycle", self.dilation_cycle, 1, 20)
        check_int("diffusion_step_embed_dim_in", self.diffusion_step_embed_dim_in, 4, MAX_CHANNELS)
        if self.diffusion_step_embed_dim_in % 2:
            raise ValueError(
                f"diffusion_step_embed_dim_in must be even, got {self.diffusion_step_embed_dim_in}"
            )
        for key in ("diffusion_step_embed_dim_mid", "diffusion_step_embed_dim_out"):
            check_int(key, getattr(self, key), 1, MAX_CHANNELS)
        if self.in_channels != self.out_channels:
            raise ValueError(
                f"out_channels must equal in_channels = {self.in_channels}, got {self.out_channels}"
            )
        for key, factor in each("upsample_factors", self.upsample_factors, 1, 8):
            check_int(key, factor, 1, MAX_FACTOR)
        check_int("group_size", self.group_size, 1, MAX_FACTOR)
        check_int("hop_length", self.hop_length, 1, 1 << 20)
        _ = self.mel  # checks the rest
