"""Log-mel spectrograms as vocoders are trained on them.

The defaults are those of Tacotron 2, WaveGlow, DiffWave, BDDM, HiFi-GAN and Grad-TTS: magnitudes,
not powers, in 80 bands of Slaney's scale up to 8 kHz, natural logarithm with a floor.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from septet.config import check_int, check_number

# Slaney's scale ("Auditory Toolbox", 1998): linear below 1 kHz, then 27 mels per factor of 6.4.
_LINEAR_HZ_PER_MEL = 200 / 3
_KNEE_HZ = 1000.0
_KNEE_MEL = _KNEE_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = math.log(6.4) / 27


@dataclass(frozen=True)
class MelConfig:
    """How a waveform becomes a mel spectrogram.

    Args:
        sampling_rate: Samples per second.
        n_fft: Length of the Fourier transform, at least ``win_length``.
        hop_length: Samples from one frame to the next.
        win_length: Length of the Hann window, in the middle of the transform.
        num_mels: Number of bands.
        fmin: Lower edge of the lowest band in Hz.
        fmax: Upper edge of the highest band in Hz, at most half the sampling rate.
        log_floor: Magnitudes below this count as this before the logarithm.

    Raises:
        ValueError: If a value makes no sense.
    """

    sampling_rate: int = 22050
    n_fft: int = 1024
    hop_length: int = 256
    win_length: int = 1024
    num_mels: int = 80
    fmin: float = 0.0
    fmax: float = 8000.0
    log_floor: float = 1e-5

    def __post_init__(self) -> None:
        """Check the values."""
        check_int("sampling_rate", self.sampling_rate, 1, 2**31 - 1)
        check_int("n_fft", self.n_fft, 2, 2**20)
        check_int("hop_length", self.hop_length, 1, 2**20)
        check_int("win_length", self.win_length, 1, self.n_fft)
        check_int("num_mels", self.num_mels, 1, self.n_fft // 2 + 1)
        check_number("fmax", self.fmax, 0, self.sampling_rate / 2)
        check_number("fmin", self.fmin, 0, self.fmax)
        check_number("log_floor", self.log_floor, 1e-30, 1)


def log_mel_spectrogram(waveform: Tensor, config: MelConfig | None = None) -> Tensor:
    """Compute the log-mel spectrogram of a waveform.

    Frames are centred: the waveform is reflected at both ends by half a transform.

    Args:
        waveform: ``[..., samples]`` floats, usually in [-1, 1], more than ``n_fft // 2`` samples.
        config: The settings, those of the published vocoders if not given.

    Returns:
        ``[..., num_mels, samples // hop_length + 1]`` of the waveform's type (float32 for lower
        precisions).

    Raises:
        ValueError: If the waveform is no float tensor, or too short to be reflected.
    """
    config = config or MelConfig()
    if not isinstance(waveform, Tensor) or not waveform.is_floating_point() or not waveform.dim():
        raise ValueError("waveform must be a floating-point tensor of shape [..., samples]")
    padding = config.n_fft // 2
    if waveform.shape[-1] <= padding:
        raise ValueError(
            f"waveform must have more than n_fft // 2 = {padding} samples, got {waveform.shape[-1]}"
        )
    if waveform.dtype not in (torch.float32, torch.float64):
        waveform = waveform.float()
    padded = F.pad(waveform.reshape(1, -1, waveform.shape[-1]), (padding, padding), mode="reflect")
    window = torch.hann_window(
        config.win_length, periodic=True, dtype=waveform.dtype, device=waveform.device
    )
    spectrum = torch.stft(
        padded[0],
        config.n_fft,
        hop_length=config.hop_length,
        win_length=config.win_length,
        window=window,
        center=False,
        return_complex=True,
    )
    bank = mel_filter_bank(config).to(waveform.device, waveform.dtype)
    mel = (bank @ spectrum.abs()).clamp(min=config.log_floor).log()
    return mel.reshape(*waveform.shape[:-1], config.num_mels, -1)


@functools.lru_cache(maxsize=8)
def mel_filter_bank(config: MelConfig) -> Tensor:
    """Return the triangular filters of Slaney's scale, each of area one (librosa's default).

    Returns:
        ``[num_mels, n_fft // 2 + 1]`` float64 weights; shared, so not to be changed.
    """
    edges = torch.linspace(
        _to_mel(config.fmin), _to_mel(config.fmax), config.num_mels + 2, dtype=torch.float64
    )
    edges_hz = _to_hz(edges)
    bins = torch.linspace(0, config.sampling_rate / 2, config.n_fft // 2 + 1, dtype=torch.float64)
    widths = edges_hz.diff()
    distance = edges_hz[:, None] - bins[None, :]
    rising = -distance[:-2] / widths[:-1, None]
    falling = distance[2:] / widths[1:, None]
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return triangles * (2 / (edges_hz[2:] - edges_hz[:-2]))[:, None]


def _to_mel(hz: float) -> float:
    if hz < _KNEE_HZ:
        return hz / _LINEAR_HZ_PER_MEL
    return _KNEE_MEL + math.log(hz / _KNEE_HZ) / _LOG_STEP


def _to_hz(mels: Tensor) -> Tensor:
    logarithmic = _KNEE_HZ * torch.exp(_LOG_STEP * (mels - _KNEE_MEL))
    return torch.where(mels < _KNEE_MEL, mels * _LINEAR_HZ_PER_MEL, logarithmic)
