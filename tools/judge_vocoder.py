"""Judge the demo's vocoder on the held-out recordings, beside Griffin-Lim.

Prints STOI (short-time objective intelligibility, Taal et al. 2011: 1 is the recording itself) of
the speech made from the recordings' own mel spectrograms. Needs librosa and pystoi.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import librosa
import numpy as np
import torch
from pystoi import stoi
from torch import Tensor

from septet.audio import log_mel_spectrogram, write_wav
from septet.models import DiffWaveModel
from septet.pipelines import BDDMPipeline
from septet.schedulers import BDDMScheduler
from speech_data import MEL, OUTPUT, Clip, load_clips
from train_demo_vocoder import MODEL_CONFIG

ROOT = Path(__file__).parents[1]
GRIFFIN_LIM_ITERATIONS = 32


def griffin_lim(mel: Tensor) -> np.ndarray:
    """Invert a log-mel spectrogram with librosa: non-negative least squares, then Griffin-Lim."""
    magnitude = librosa.feature.inverse.mel_to_stft(
        mel.exp().numpy(), sr=MEL.sampling_rate, n_fft=MEL.n_fft, power=1.0, fmin=MEL.fmin,
        fmax=MEL.fmax,
    )  # fmt: skip
    waveform: np.ndarray = librosa.griffinlim(
        magnitude,
        n_iter=GRIFFIN_LIM_ITERATIONS,
        hop_length=MEL.hop_length,
        win_length=MEL.win_length,
        n_fft=MEL.n_fft,
        random_state=0,
    )
    return waveform


def load_vocoder(folder: Path) -> BDDMPipeline:
    """Load an exported vocoder, or the averaged weights of a training in progress."""
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        model = DiffWaveModel(**MODEL_CONFIG)
        model.load_state_dict(torch.load(checkpoint, weights_only=True)["averaged"])
        pipe = BDDMPipeline(model.eval().requires_grad_(False), BDDMScheduler())
    else:
        pipe = BDDMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def score(recording: np.ndarray, made: np.ndarray) -> float:
    """Return the STOI of a waveform, cut to the shorter of the two."""
    length = min(len(recording), len(made))
    return float(stoi(recording[:length], made[:length], MEL.sampling_rate))


def held_out(folder: Path) -> list[tuple[Clip, Tensor]]:
    """Return the held-out recordings with their waveforms."""
    return [(clip, clip.waveform(folder)) for clip in load_clips(folder) if clip.held_out]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=OUTPUT)
    parser.add_argument("--vocoder", type=Path, default=ROOT / "build/training/vocoder")
    parser.add_argument("--schedules", nargs="+", default=["lj-12"], help="names or .ns files")
    parser.add_argument("--no-griffin-lim", action="store_true", help="judge the vocoder alone")
    parser.add_argument("--clips", type=int, default=24, help="how many recordings")
    parser.add_argument("--output", type=Path, help="folder for WAV files")
    arguments = parser.parse_args()
    clips = held_out(arguments.data)[: arguments.clips]
    recordings = [waveform.numpy() for _, waveform in clips]
    mels = [log_mel_spectrogram(waveform, MEL) for _, waveform in clips]
    results: dict[str, list[np.ndarray]] = {}
    if not arguments.no_griffin_lim:
        results["Griffin-Lim"] = [griffin_lim(mel) for mel in mels]
    if arguments.vocoder.exists():
        pipe = load_vocoder(arguments.vocoder)
        for schedule in arguments.schedules:
            results[schedule] = [
                pipe(mel[None], schedule=schedule, generator=torch.Generator().manual_seed(0))
                .audios[0, 0]
                .numpy()
                for mel in mels
            ]
    for name, waveforms in results.items():
        scores = [score(*pair) for pair in zip(recordings, waveforms, strict=True)]
        print(f"{name}: STOI mean {np.mean(scores):.3f}, worst {np.min(scores):.3f}")
        if arguments.output:
            folder = arguments.output / name.replace("/", "_")
            folder.mkdir(parents=True, exist_ok=True)
            for (clip, _), waveform in zip(clips, waveforms, strict=True):
                write_wav(folder / f"{clip.name}.wav", torch.as_tensor(waveform), MEL.sampling_rate)


if __name__ == "__main__":
    main()
