"""Find a noise schedule of a few steps for the demo's vocoder by random search.

It starts from the published schedule, moves the noise levels at random, and keeps what brings the
mel spectrograms of the speech nearer to those it was made from. It listens to training recordings
only.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from judge_vocoder import load_vocoder
from septet.audio import log_mel_spectrogram
from septet.pipelines import BDDMPipeline
from septet.schedulers import NoiseSchedule
from speech_data import MEL, OUTPUT, load_clips

ROOT = Path(__file__).parents[1]
#: Recordings of this length are listened to, in seconds.
SHORTEST, LONGEST = 1.2, 2.5


def distance(pipe: BDDMPipeline, betas: list[float], mels: list[Tensor]) -> float:
    """Return the mean absolute difference of log-mel spectrograms, made and given."""
    differences = []
    for seed, mel in enumerate(mels):
        generator = torch.Generator().manual_seed(seed)
        made = pipe(mel, schedule=betas, generator=generator).audios[0, 0]
        difference = log_mel_spectrogram(made, MEL)[:, : mel.shape[1]] - mel
        differences.append(float(difference.abs().mean()))
    return float(np.mean(differences))


def moved(betas: list[float], spread: float, draw: random.Random) -> list[float] | None:
    """Shift the log signal-to-noise ratios at random; None if that gives no schedule."""
    levels = np.multiply.accumulate(1 - np.array(betas))
    ratios = np.log(levels / (1 - levels))
    shift, slope = draw.gauss(0, spread), 1 + 0.1 * draw.gauss(0, spread)
    ratios = slope * ratios + shift + [draw.gauss(0, spread) / 3 for _ in betas]
    levels = 1 / (1 + np.exp(-np.sort(ratios)[::-1]))
    # Some published betas differ by a few percent: without order hardly any try would be a schedule
    candidate = np.sort(1 - levels / np.concatenate([[1.0], levels[:-1]])).tolist()
    increases = all(a < b for a, b in itertools.pairwise(candidate))
    return candidate if increases and 0 < candidate[0] and candidate[-1] < 1 else None


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=OUTPUT)
    parser.add_argument("--vocoder", type=Path, default=ROOT / "build/training/vocoder")
    parser.add_argument("--start", default="lj-12", help="the published schedule to start from")
    parser.add_argument("--tries", type=int, default=60)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    clips = [
        clip
        for clip in load_clips(arguments.data)
        if not clip.held_out and SHORTEST <= clip.seconds <= LONGEST
    ]
    chosen = draw.sample(clips, arguments.clips)
    mels = [log_mel_spectrogram(clip.waveform(arguments.data), MEL) for clip in chosen]
    pipe = load_vocoder(arguments.vocoder)
    best, betas = math.inf, list(NoiseSchedule.published(arguments.start).betas)
    candidate: list[float] | None = betas
    for attempt in range(arguments.tries):
        if candidate is not None:
            found = distance(pipe, candidate, mels)
            if found < best:
                best, betas = found, candidate
                print(f"try {attempt}: distance {best:.4f}, betas {json.dumps(betas)}", flush=True)
        candidate = moved(betas, 0.5 * (1 - attempt / arguments.tries), draw)


if __name__ == "__main__":
    main()
