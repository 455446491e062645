"""WAV files: PCM in, 16-bit PCM out, with the standard library alone."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from septet.checkpoints.files import write_atomically
from septet.config import check_int
from septet.errors import CheckpointError

if TYPE_CHECKING:
    import os

_FULL_SCALE = 32768


def read_wav(file: str | os.PathLike[str]) -> tuple[Tensor, int]:
    """Read a WAV file of 8, 16, 24 or 32 bits per sample.

    Args:
        file: The file.

    Returns:
        ``[channels, samples]`` float32 in [-1, 1), and the sampling rate.

    Raises:
        CheckpointError: If the file cannot be read or is no PCM WAV file.
    """
    path = Path(file)
    try:
        with path.open("rb") as opened, wave.open(opened) as reader:
            width, channels = reader.getsampwidth(), reader.getnchannels()
            rate = reader.getframerate()
            data = reader.readframes(reader.getnframes())
    # The library's own reader of chunks raises the last two where lengths make no sense.
    except (OSError, EOFError, wave.Error, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path}: no readable PCM WAV file: {error}") from error
    if width not in (1, 2, 3, 4) or not channels or not rate:
        raise CheckpointError(f"{path}: expected 8 to 32 bits per sample, got {8 * width}")
    data = data[: len(data) // (width * channels) * width * channels]
    samples = _integers(data, width).reshape(-1, channels).T / 2.0 ** (8 * width - 1)
    return torch.from_numpy(samples.astype(np.float32)), rate


def write_wav(file: str | os.PathLike[str], waveform: Tensor, sampling_rate: int) -> None:
    """Write a WAV file with 16 bits per sample; values beyond full scale are clamped.

    Args:
        file: The file, replaced if it exists; it appears complete or not at all.
        waveform: ``[samples]`` or ``[channels, samples]`` finite floats, full scale being 1.
        sampling_rate: Samples per second.

    Raises:
        ValueError: If the shape does not suit, a value is not finite, or the rate makes no sense.
    """
    check_int("sampling_rate", sampling_rate, 1, 2**31 - 1)
    if waveform.dim() not in (1, 2) or not waveform.numel():
        raise ValueError(
            "waveform must be [samples] or [channels, samples] and not empty, got "
            f"{list(waveform.shape)}"
        )
    values = waveform.detach().to("cpu", torch.float64)
    if not values.isfinite().all():
        raise ValueError("waveform must be finite")
    scaled = (values * _FULL_SCALE).round().clamp(-_FULL_SCALE, _FULL_SCALE - 1)
    frames = scaled.reshape(-1, values.shape[-1]).T.numpy().astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as writer:
        writer.setnchannels(frames.shape[1])
        writer.setsampwidth(2)
        writer.setframerate(sampling_rate)
        writer.writeframes(np.ascontiguousarray(frames).tobytes())
    write_atomically(Path(file), lambda path: path.write_bytes(buffer.getvalue()))


def _integers(data: bytes, width: int) -> np.ndarray:
    """Return the samples as signed integers; those of 8 bits are stored unsigned."""
    if width == 1:
        return np.frombuffer(data, np.uint8).astype(np.int64) - 128
    if width == 3:
        # three bytes become the upper three of four
        parts = np.frombuffer(data, np.uint8).reshape(-1, 3)
        widened = np.zeros((len(parts), 4), np.uint8)
        widened[:, 1:] = parts
        return widened.reshape(-1).view("<i4") >> 8
    return np.frombuffer(data, f"<i{width}")
