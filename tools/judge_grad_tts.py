"""Judge the demo's Grad-TTS: does a speech recogniser pick the sentence that was spoken?

pocketsphinx hears each of the held-out sentences and must choose among all of them. Beside it
stand the figures for the recordings themselves and for recordings whose pieces are shuffled, which
sound alike but say nothing. Needs pocketsphinx and scipy.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pocketsphinx import Decoder, get_model_path
from scipy.signal import resample_poly
from torch import Tensor

import septet
from septet.audio import write_wav
from septet.text.cleaners import clean_english
from septet.text.pronunciation import cmudict
from speech_data import MEL, OUTPUT, Clip, load_clips, normalized

ROOT = Path(__file__).parents[1]
#: What the recogniser's model was trained on.
RECOGNISER_RATE = 16000
SHUFFLED_SECONDS = 0.1
#: Of held-out words that are in no dictionary.
PRONUNCIATIONS = {"PREPEND": "P R IY P EH N D", "PREPENDING": "P R IY P EH N D IH NG"}


class Recogniser:
    """Chooses one of some sentences.

    Args:
        sentences: The sentences, each of at least one word.
    """

    def __init__(self, sentences: list[str]) -> None:
        self.decoder = Decoder(
            hmm=get_model_path("en-us/en-us"),
            dict=get_model_path("en-us/cmudict-en-us.dict"),
            lm=None,
            samprate=RECOGNISER_RATE,
            logfn="/dev/null",
        )
        self.words = [re.findall(r"[a-z']+", clean_english(text)) for text in sentences]
        for word in sorted({word for words in self.words for word in words}):
            if self.decoder.lookup_word(word) is None:
                phonemes = PRONUNCIATIONS.get(word.upper()) or cmudict()[word.upper()]
                self.decoder.add_word(word, re.sub(r"\d", "", phonemes), False)
        choices = " | ".join(" ".join(words) for words in self.words)
        self.decoder.add_jsgf_string(
            "sentences", f"#JSGF V1.0; grammar s; public <sentence> = {choices};"
        )
        self.decoder.activate_search("sentences")

    def __call__(self, waveform: Tensor) -> int | None:
        """Return the number of the sentence it hears, None if it hears none of them.

        Args:
            waveform: ``[samples]`` in [-1, 1] at the demo's rate.
        """
        samples = resample_poly(waveform.numpy(), RECOGNISER_RATE, MEL.sampling_rate)
        peak = max(float(np.abs(samples).max()), 1e-6)
        self.decoder.start_utt()
        self.decoder.process_raw((samples / peak * 20000).astype(np.int16).tobytes(), full_utt=True)
        self.decoder.end_utt()
        hypothesis = self.decoder.hyp()
        heard = hypothesis.hypstr.split() if hypothesis else []
        return self.words.index(heard) if heard in self.words else None


def shuffled(waveform: Tensor, generator: torch.Generator) -> Tensor:
    """Return the same pieces of sound in another order."""
    pieces = waveform.split(int(SHUFFLED_SECONDS * MEL.sampling_rate))
    order = torch.randperm(len(pieces), generator=generator)
    return torch.cat([pieces[index] for index in order])


def griffin_lim(mel: npt.NDArray[np.float32]) -> Tensor:
    """Invert a log-mel spectrogram without a trained vocoder."""
    from judge_vocoder import griffin_lim as invert

    return torch.from_numpy(invert(torch.from_numpy(mel))).float()


def held_out_sentences(folder: Path) -> list[Clip]:
    """Return one recording of each held-out sentence."""
    clips = {normalized(clip.text): clip for clip in load_clips(folder) if clip.held_out}
    return list(clips.values())


def report(name: str, clips: list[Clip], hear: Recogniser, speak: Callable[[Clip], Tensor]) -> None:
    """Print in how many cases the right sentence is heard."""
    heard = [hear(speak(clip)) for clip in clips]
    right = sum(index == choice for index, choice in enumerate(heard))
    print(f"{name}: {right} of {len(clips)} sentences, {right / len(clips):.0%}", flush=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=OUTPUT)
    parser.add_argument("--model", type=Path, default=ROOT / "build/training/grad_tts/export")
    parser.add_argument("--vocoder", type=Path, help="a BDDM checkpoint; else Griffin-Lim")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--temperature", type=float, default=1.5)
    parser.add_argument("--length-scale", type=float, default=1.0)
    parser.add_argument("--output", type=Path, help="folder for WAV files")
    arguments = parser.parse_args()
    clips = held_out_sentences(arguments.data)
    hear = Recogniser([clip.text for clip in clips])
    seed = torch.Generator().manual_seed(0)
    report("recordings", clips, hear, lambda clip: clip.waveform(arguments.data))
    report("shuffled recordings", clips, hear, lambda c: shuffled(c.waveform(arguments.data), seed))
    if not arguments.model.exists():
        return
    vocoder = None
    if arguments.vocoder:
        vocoder = septet.DiffusionPipeline.from_pretrained(arguments.vocoder)
        vocoder.set_progress_bar_config(disable=True)
    pipe = septet.GradTTSPipeline.from_pretrained(arguments.model, vocoder=vocoder)
    pipe.set_progress_bar_config(disable=True)

    def speak(clip: Clip) -> Tensor:
        output = pipe(
            clip.text,
            arguments.steps,
            arguments.temperature,
            arguments.length_scale,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        )
        if vocoder is None:
            waveform = griffin_lim(output.mel_spectrograms[0])
        else:
            waveform = torch.from_numpy(output.audios[0])
        if arguments.output:
            arguments.output.mkdir(parents=True, exist_ok=True)
            write_wav(arguments.output / f"{clip.name}.wav", waveform, MEL.sampling_rate)
        return waveform

    report("Grad-TTS", clips, hear, speak)


if __name__ == "__main__":
    main()
