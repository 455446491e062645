"""The voice that comes with septet, heard by others: STOI, and a speech recogniser."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from judge_grad_tts import Recogniser, shuffled
from judge_vocoder import griffin_lim, score
from septet.audio import log_mel_spectrogram, read_wav
from septet.cli.speech import VOICE_OPTIONS, load_voice, mel_distance, voice_folder
from septet.cli.speech_demo import PASS_MARK

DATA = Path(__file__).parents[1] / "data" / "speech"
RECORDINGS = {path.stem: read_wav(path)[0][0] for path in sorted(DATA.glob("*.wav"))}
SENTENCES = json.loads((DATA / "sentences.json").read_text())
#: Of the vocoder on four recordings; Griffin-Lim with 32 iterations has 0.97.
LEAST_STOI = 0.90
#: Of the 20 held-out sentences; all 20 were recognised.
LEAST_RECOGNISED = 17


@pytest.fixture(scope="module")
def voice():
    return load_voice()


@pytest.fixture(scope="module")
def recogniser():
    return Recogniser(list(SENTENCES.values()))


def speak(voice, texts):
    """Speak each text by itself."""
    for seed, text in enumerate(texts):
        generator = torch.Generator().manual_seed(seed)
        yield voice(text, generator=generator, **VOICE_OPTIONS)


def recognised(recogniser, names, waveforms):
    """Count for how many sounds the sentence of this name is heard."""
    order = list(SENTENCES)
    pairs = zip(names, waveforms, strict=True)
    return sum(recogniser(waveform) == order.index(name) for name, waveform in pairs)


def test_the_vocoder_is_intelligible_on_recordings_it_never_heard(voice):
    config = voice.vocoder.diffwave.settings.mel
    mels = [log_mel_spectrogram(recording, config) for recording in RECORDINGS.values()]
    output = voice.vocoder(mels, generator=torch.Generator().manual_seed(0))
    assert len(voice.vocoder.scheduler.timesteps) <= 12
    made = [audio[0, :length] for audio, length in zip(output.audios, output.lengths, strict=True)]
    stoi = np.mean([score(*pair) for pair in zip_arrays(made)])
    beside = np.mean([score(*pair) for pair in zip_arrays(map(griffin_lim, mels))])
    generator = torch.Generator().manual_seed(0)
    lost = np.mean([score(*pair) for pair in zip_arrays(shuffled(m, generator) for m in made)])
    print(f"STOI: vocoder {stoi:.3f}, Griffin-Lim {beside:.3f}, vocoder shuffled {lost:.3f}")
    assert stoi >= LEAST_STOI
    assert lost < 0.5


def zip_arrays(made):
    """Pair the recordings with what was made of them, as arrays."""
    for recording, sound in zip(RECORDINGS.values(), made, strict=True):
        yield recording.numpy(), np.asarray(sound)


def test_the_recogniser_knows_recordings_and_no_others(recogniser):
    generator = torch.Generator().manual_seed(0)
    waveforms = list(RECORDINGS.values())
    assert recognised(recogniser, RECORDINGS, waveforms) == len(waveforms)
    mixed = [shuffled(waveform, generator) for waveform in waveforms]
    assert recognised(recogniser, RECORDINGS, mixed) == 0


def test_two_sentences_are_recognised_and_shuffled_ones_are_not(voice, recogniser):
    names = ["confbridge-invalid", "vm-advopts"]
    waveforms = [o.audios[0] for o in speak(voice, [SENTENCES[name] for name in names])]
    assert recognised(recogniser, names, waveforms) == 2
    generator = torch.Generator().manual_seed(0)
    mixed = [shuffled(waveform, generator) for waveform in waveforms]
    assert recognised(recogniser, names, mixed) == 0
    assert recognised(recogniser, names, waveforms[::-1]) == 0


@pytest.mark.slow
def test_all_sentences_are_recognised(voice, recogniser):
    spoken = [output.audios[0] for output in speak(voice, SENTENCES.values())]
    right = recognised(recogniser, SENTENCES, spoken)
    generator = torch.Generator().manual_seed(0)
    mixed = recognised(recogniser, SENTENCES, [shuffled(sound, generator) for sound in spoken])
    print(f"recognised: {right} of {len(SENTENCES)}, with their pieces shuffled {mixed}")
    assert right >= LEAST_RECOGNISED
    assert mixed <= 3


def test_the_demos_measure_tells_speech_from_its_pieces(voice):
    (output,) = speak(voice, ["press 3 for advanced options"])
    waveform, mel = output.audios[0], output.mel_spectrograms[0]
    assert mel_distance(voice, waveform, mel) < PASS_MARK
    generator = torch.Generator().manual_seed(0)
    for bad in (
        shuffled(waveform, generator),
        torch.zeros_like(waveform),
        0.1 * torch.randn(waveform.shape, generator=generator),
    ):
        assert mel_distance(voice, bad, mel) > 1.2 * PASS_MARK


def test_the_checkpoints_are_small_and_say_where_their_data_comes_from(voice):
    folder = voice_folder("")
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 12_000_000
    notice = (folder / "NOTICE.txt").read_text()
    assert "Allison Smith" in notice
    assert "https://creativecommons.org/licenses/by-sa/3.0/" in notice
