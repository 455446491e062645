"""Speech of the commands: the voice that comes with septet, sound files, and a check of both."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from septet.audio import log_mel_spectrogram, write_wav
from septet.cli.speech_picture import speech_picture
from septet.pipelines import DiffusionPipeline
from septet.text.symbols import BLANK_ID, SYMBOLS

#: How the demo's voice speaks best.
VOICE_OPTIONS: dict[str, Any] = {
    "num_inference_steps": 10,
    "temperature": 1.5,
    "length_scale": 1.0,
}
_PHONEME_MARK = "@"
_STRESS = "012"


def voice_folder(part: str) -> Path:
    """Return the folder of a checkpoint of the demo's voice: "grad_tts" or "vocoder"."""
    return Path(str(resources.files("septet") / "assets" / "speech" / part))


def load_voice(dtype: torch.dtype = torch.float32) -> Any:
    """Load the demo's Grad-TTS with its vocoder, silent.

    Raises:
        CheckpointError: If a checkpoint cannot be read.
    """
    vocoder = DiffusionPipeline.from_pretrained(voice_folder("vocoder"), dtype=dtype)
    pipe = DiffusionPipeline.from_pretrained(voice_folder("grad_tts"), dtype=dtype, vocoder=vocoder)
    for part in (pipe, vocoder):
        part.set_progress_bar_config(disable=True)
    return pipe


def mel_distance(pipe: Any, waveform: Tensor, mel: Tensor) -> float:
    """Return how far a sound is from the spectrogram that it was made from.

    Args:
        pipe: A ``GradTTSPipeline`` whose vocoder is a ``BDDMPipeline``.
        waveform: ``[samples]``.
        mel: ``[num_mels, T]``, natural log of amplitude.

    Returns:
        The mean absolute difference in nepers.
    """
    heard = log_mel_spectrogram(waveform.float(), pipe.vocoder.diffwave.settings.mel)
    frames = min(heard.shape[1], mel.shape[1])
    return float((heard[:, :frames] - mel[:, :frames]).abs().mean())


def save_speech(pipe: Any, texts: list[str], output: Any, path: Path) -> list[Path]:
    """Write sounds, and a picture beside each of the spectrogram and of who speaks when.

    Args:
        pipe: The ``GradTTSPipeline`` that spoke.
        texts: What it was given.
        output: What it returned, of type "pt".
        path: A .wav file for a single text; else a folder for ``0000.wav`` and so on.

    Returns:
        The files, sounds and pictures in turn.

    Raises:
        OSError: If a file cannot be written.
    """
    from septet.cli.files import save_png

    is_file = path.suffix.lower() == ".wav" and len(texts) == 1
    written = []
    for index, (text, audio, length) in enumerate(
        zip(texts, output.audios, output.lengths, strict=True)
    ):
        sound = path if is_file else path / f"{index:04}.wav"
        sound.parent.mkdir(parents=True, exist_ok=True)
        write_wav(sound, audio, output.sampling_rate)
        symbols = symbol_names(pipe.tokenizer(text))
        picture = speech_picture(
            output.mel_spectrograms[index, :, :length].float().cpu().numpy(),
            output.alignments[index, : len(symbols), :length].float().cpu().numpy(),
            symbols,
            text,
        )
        save_png(picture, sound.with_suffix(".png"))
        written += [sound, sound.with_suffix(".png")]
    return written


def symbol_names(ids: list[int]) -> list[str]:
    """Name the symbols of a text as one reads them: no stress, nothing for blanks and spaces."""
    names = ["" if index == BLANK_ID else SYMBOLS[index].strip() for index in ids]
    return [name[1:].rstrip(_STRESS) if name.startswith(_PHONEME_MARK) else name for name in names]
