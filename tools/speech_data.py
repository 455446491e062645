"""Get the speech that the demo's vocoder and text-to-speech network learn from.

It is Debian's package ``asterisk-core-sounds-en-wav``: 25 minutes of telephone prompts at 8 kHz,
spoken by Allison Smith, with the transcripts in ``asterisk-core-sounds-en``; Creative Commons
Attribution-Share Alike 3.0, see NOTICE.txt in the folder that this writes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from septet.audio import MelConfig, read_wav

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "build/training/speech"
SPLIT_SEED = 0
NUM_HELD_OUT = 20
#: A held-out sentence has at least this many words, and at most this many seconds.
FEWEST_WORDS, MOST_SECONDS = 5, 7.0

#: The demo's mel spectrograms: windows of 50 ms every 12.5 ms, as in Tacotron.
MEL = MelConfig(
    sampling_rate=8000,
    n_fft=512,
    hop_length=100,
    win_length=400,
    num_mels=64,
    fmin=0.0,
    fmax=4000.0,
)

NOTICE = """\
The recordings are the Asterisk core sounds in English, version 1.6.1, as packaged by Debian:
recorded by Allison Smith (http://www.theivrvoice.com), copyright 2003-2010 Allison Smith,
financial contributions by Digium, Inc. Licence: Creative Commons Attribution-Share Alike 3.0
(https://creativecommons.org/licenses/by-sa/3.0/). Changed here: file names, nothing else.
"""


@dataclass(frozen=True)
class Clip:
    """One recording.

    Attributes:
        name: File name in ``wavs``, without suffix.
        text: What is said, without stage directions.
        seconds: Length.
        held_out: Whether it is for judging, not for training.
    """

    name: str
    text: str
    seconds: float
    held_out: bool = False

    def waveform(self, folder: Path = OUTPUT) -> Tensor:
        """Read ``[samples]`` float32 in [-1, 1)."""
        return read_wav(folder / "wavs" / f"{self.name}.wav")[0][0]


def load_clips(folder: Path = OUTPUT) -> list[Clip]:
    """Read the list of recordings that :func:`prepare` wrote."""
    entries = json.loads((folder / "clips.json").read_text())
    return [Clip(**entry) for entry in entries]


def parse_transcripts(content: str) -> dict[str, str]:
    """Read the package's list: ``name: text`` per line, comments after ``;``."""
    transcripts: dict[str, str] = {}
    for line in content.splitlines():
        name, colon, text = line.strip().partition(":")
        if colon and not name.startswith(";"):
            transcripts[name.strip()] = text.strip()
    return transcripts


def spoken_text(transcript: str) -> str:
    """Drop stage directions and trailing dots from a transcript; empty if nobody speaks."""
    text = re.sub(r"\[[^]]*\]|\([^)]*\)", " ", transcript)
    return " ".join(text.replace("...", " ").split())


def normalized(text: str) -> str:
    """Return what makes two sentences the same: their words."""
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


def split(clips: list[Clip], seed: int = SPLIT_SEED) -> list[Clip]:
    """Mark the sentences held out; recordings of the same words stay together."""
    eligible = sorted(
        {
            normalized(clip.text)
            for clip in clips
            if len(normalized(clip.text).split()) >= FEWEST_WORDS and clip.seconds <= MOST_SECONDS
        }
    )
    chosen = set(random.Random(seed).sample(eligible, NUM_HELD_OUT))
    return [Clip(c.name, c.text, c.seconds, normalized(c.text) in chosen) for c in clips]


def prepare(output: Path) -> list[Clip]:
    """Download the packages, take them apart and write recordings, list and notice."""
    with tempfile.TemporaryDirectory() as work:
        packages = ["asterisk-core-sounds-en-wav", "asterisk-core-sounds-en"]
        subprocess.run(["apt-get", "download", *packages], cwd=work, check=True)
        for package in Path(work).glob("*.deb"):
            subprocess.run(["dpkg", "-x", package.name, "."], cwd=work, check=True)
        share = Path(work) / "usr/share"
        listing = share / "doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
        transcripts = parse_transcripts(gzip.decompress(listing.read_bytes()).decode())
        sounds = share / "asterisk/sounds/en_US_f_Allison"
        (output / "wavs").mkdir(parents=True, exist_ok=True)
        clips: list[Clip] = []
        for name, transcript in sorted(transcripts.items()):
            source, text = sounds / f"{name}.wav", spoken_text(transcript)
            if not text or not source.exists():
                continue
            flat = name.replace("/", "_")
            shutil.copyfile(source, output / "wavs" / f"{flat}.wav")
            waveform, rate = read_wav(source)
            if rate != MEL.sampling_rate:
                raise ValueError(f"{source}: expected {MEL.sampling_rate} Hz, got {rate}")
            clips.append(Clip(flat, text, waveform.shape[1] / rate))
    clips = split(clips)
    (output / "NOTICE.txt").write_text(NOTICE)
    (output / "clips.json").write_text(json.dumps([asdict(c) for c in clips], indent=1) + "\n")
    return clips


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder to write")
    output: Path = parser.parse_args().output
    clips = prepare(output)
    for name, part in (
        ("to learn from", [c for c in clips if not c.held_out]),
        ("held out", [c for c in clips if c.held_out]),
    ):
        minutes = sum(clip.seconds for clip in part) / 60
        print(f"{output}: {len(part)} recordings {name}, {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
