"""WAV files: what is written is read again, whatever the width, and damage is told."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from septet.audio import read_wav, write_wav
from septet.errors import CheckpointError


def write_raw(path: Path, data: bytes, width: int, channels: int = 1) -> None:
    with wave.open(str(path), "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(width)
        writer.setframerate(8000)
        writer.writeframes(data)


@pytest.mark.parametrize("channels", [1, 2])
def test_round_trip(tmp_path: Path, channels: int) -> None:
    levels = torch.randint(-32768, 32768, (channels, 100))
    write_wav(tmp_path / "a.wav", levels / 32768, 22050)
    waveform, rate = read_wav(tmp_path / "a.wav")
    assert rate == 22050
    assert torch.equal(waveform, (levels / 32768).float())


def test_loud_values_are_clamped(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", torch.tensor([1.0, 1.5, -1.0, -2.0, 0.99999]), 8000)
    waveform, _ = read_wav(tmp_path / "a.wav")
    assert (waveform[0] * 32768).tolist() == [32767, 32767, -32768, -32768, 32767]


@pytest.mark.parametrize(
    ("width", "data", "expected"),
    [
        (1, bytes([0, 128, 255]), [-1.0, 0.0, 127 / 128]),
        (3, bytes([0, 0, 128, 255, 255, 127, 1, 0, 0]), [-1.0, 1 - 2**-23, 2**-23]),
        (4, np.array([-(2**31), 2**30], "<i4").tobytes(), [-1.0, 0.5]),
    ],
)
def test_widths(tmp_path: Path, width: int, data: bytes, expected: list[float]) -> None:
    write_raw(tmp_path / "a.wav", data, width)
    assert read_wav(tmp_path / "a.wav")[0][0].tolist() == expected


@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.wav"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"any\.wav"):
        read_wav(path)


@given(position=st.integers(0, 60), value=st.integers(0, 255))
def test_a_damaged_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.wav"
    write_raw(path, bytes(range(32)), 2)
    content = bytearray(path.read_bytes())
    content[position] = value
    path.write_bytes(bytes(content))
    try:
        waveform, rate = read_wav(path)
    except CheckpointError:
        return
    assert waveform.ndim == 2
    assert rate > 0


@pytest.mark.parametrize(
    ("waveform", "rate", "message"),
    [
        (torch.zeros(1, 1, 3), 8000, "waveform must be"),
        (torch.zeros(0), 8000, "waveform must be"),
        (torch.tensor([float("nan")]), 8000, "finite"),
        (torch.zeros(3), 0, "sampling_rate"),
    ],
)
def test_bad_arguments(tmp_path: Path, waveform: torch.Tensor, rate: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_wav(tmp_path / "a.wav", waveform, rate)
    assert not list(tmp_path.iterdir())
