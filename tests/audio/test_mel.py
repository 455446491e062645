"""Mel spectrograms against librosa's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from septet.audio import MelConfig, log_mel_spectrogram, mel_filter_bank

CONFIGS = [
    {},
    {"sampling_rate": 8000, "n_fft": 512, "hop_length": 100, "win_length": 400, "num_mels": 64,
     "fmax": 4000.0},
    {"sampling_rate": 16000, "n_fft": 256, "hop_length": 77, "win_length": 201, "num_mels": 33,
     "fmin": 125.0, "fmax": 7600.0, "log_floor": 1e-3},
]  # fmt: skip


@pytest.mark.parametrize("values", CONFIGS)
def test_filters_and_spectrograms_equal_those_of_librosa(values: dict[str, Any]) -> None:
    librosa = pytest.importorskip("librosa")
    config = MelConfig(**values)
    bands = {"sr": config.sampling_rate, "n_fft": config.n_fft, "n_mels": config.num_mels,
             "fmin": config.fmin, "fmax": config.fmax}  # fmt: skip
    expected = librosa.filters.mel(**bands)
    assert abs(mel_filter_bank(config).numpy() - expected).max() <= 1e-6 * expected.max()
    torch.manual_seed(0)
    waveform = torch.randn(2, 3, 6001) * torch.linspace(0, 0.5, 6001)
    theirs = librosa.feature.melspectrogram(
        y=waveform.numpy(), hop_length=config.hop_length, win_length=config.win_length, power=1.0,
        pad_mode="reflect", **bands,
    )  # fmt: skip
    expected = torch.from_numpy(theirs).clamp(min=config.log_floor).log()
    ours = log_mel_spectrogram(waveform, config)
    assert ours.shape == (2, 3, config.num_mels, 6001 // config.hop_length + 1)
    assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_half_precision_becomes_single() -> None:
    waveform = torch.randn(600)
    assert log_mel_spectrogram(waveform.half()).dtype == torch.float32
    assert log_mel_spectrogram(waveform.double()).dtype == torch.float64


@pytest.mark.parametrize("waveform", [torch.zeros(512), torch.zeros(600).int(), torch.tensor(0.0)])
def test_bad_waveforms(waveform: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="waveform must"):
        log_mel_spectrogram(waveform)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"win_length": 2000}, "win_length"),
        ({"fmax": 12_000.0}, "fmax"),
        ({"fmin": 9000.0}, "fmin"),
        ({"hop_length": 0}, "hop_length"),
        ({"num_mels": 1000}, "num_mels"),
        ({"log_floor": 0.0}, "log_floor"),
    ],
)
def test_bad_settings(values: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        MelConfig(**values)
