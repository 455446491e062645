"""The text-to-speech part of ``septet demo``: a sentence, its sound and its spectrogram."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from septet.cli.speech import VOICE_OPTIONS, load_voice, mel_distance, save_speech

#: No training has heard it.
SENTENCE = (
    "Your call is now first in line and will be answered by the next available representative."
)
#: Speech may be this far from its spectrogram, in nepers. It is at about 0.7; the same speech with
#: its pieces in another order, or noise, at 2 and more.
PASS_MARK = 1.2


def run_speech_demo(output: Path, *, seed: int = 0, text: str = SENTENCE) -> int:
    """Speak a sentence, write sound and picture, print how long it took.

    Args:
        output: Folder for ``speech.wav`` and ``speech.png``.
        seed: Of the noise.
        text: What to say.

    Returns:
        0 if the sound has the spectrogram that it was to have, else 1.

    Raises:
        CheckpointError: If a checkpoint cannot be read.
        OSError: If a file cannot be written.
    """
    pipe = load_voice()
    started = time.perf_counter()
    spoken = pipe(text, generator=torch.Generator().manual_seed(seed), **VOICE_OPTIONS)
    seconds = time.perf_counter() - started
    waveform = spoken.audios[0]
    length = len(waveform) / spoken.sampling_rate
    distance = mel_distance(pipe, waveform, spoken.mel_spectrograms[0])
    vocoder_steps = len(pipe.vocoder.scheduler.timesteps)
    steps = f"{VOICE_OPTIONS['num_inference_steps']}+{vocoder_steps}"
    print(f"{'':18}{'steps':>6}{'seconds':>9}{'of speech':>11}{'mel distance':>14}")
    print(f"{'Grad-TTS + BDDM':18}{steps:>6}{seconds:>9.1f}{length:>11.1f}{distance:>14.2f}")
    files = save_speech(pipe, [text], spoken, output / "speech.wav")
    print("speech:", *files)
    if distance > PASS_MARK:
        print(
            f"septet: Grad-TTS: the sound is {distance:.2f} from its spectrogram, more than "
            f"{PASS_MARK}",
            file=sys.stderr,
        )
        return 1
    return 0
