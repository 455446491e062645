"""Make the captioned pictures of the text-to-image demos from the npm package of Google's emoji.

The package comes from ``npm pack emoji-datasource-google``; tools/emoji_captions.txt says which of
its pictures are taken and what they are called.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

TOOLS = Path(__file__).parent
CAPTIONS = TOOLS / "emoji_captions.txt"
OUTPUT = TOOLS.parent / "python/septet/assets/emoji_data.npz"
HELD_OUT = "[held out]"
#: What is taken for the caption at random in training, so that a prompt may be phrased so.
PHRASES = ("{}", "{}", "{}", "a {}", "the {}", "{} emoji", "an emoji of a {}", "a picture of a {}")


@dataclass(frozen=True)
class Entry:
    """One line of the list of captions."""

    short_name: str
    caption: str
    is_prompt: bool
    is_train: bool


def read_captions(path: Path) -> list[Entry]:
    """Read the list of captions.

    Raises:
        ValueError: If a short name or a caption occurs twice.
    """
    entries: list[Entry] = []
    is_train = True
    for line in path.read_text().splitlines():
        text = line.partition("#")[0].strip()
        if text == HELD_OUT:
            is_train = False
        elif text:
            name, _, caption = text.rstrip(" *").partition(":")
            caption = caption.strip() or name.replace("_", " ")
            entries.append(Entry(name, caption, text.endswith("*"), is_train))
    for column in ([e.short_name for e in entries], [e.caption for e in entries]):
        repeated = sorted({value for value in column if column.count(value) > 1})
        if repeated:
            raise ValueError(f"{path}: {', '.join(repeated)} occurs more than once")
    return entries


def read_pictures(archive: Path, entries: list[Entry]) -> np.ndarray:
    """Read the entries' pictures on a white ground, ``[N, 64, 64, 3]`` uint8.

    Raises:
        ValueError: If the package has no emoji of a short name.
    """
    pictures = []
    with tarfile.open(archive) as package:

        def read(path: str) -> bytes:
            file = package.extractfile(f"package/{path}")
            assert file is not None
            return file.read()

        table = json.loads(read("emoji.json"))
        files = {row["short_name"]: row["image"] for row in table if row["has_img_google"]}
        missing = [entry.short_name for entry in entries if entry.short_name not in files]
        if missing:
            raise ValueError(f"{archive} has no emoji named {', '.join(missing)}")
        for entry in entries:
            data = read(f"img/google/64/{files[entry.short_name]}")
            picture = Image.open(io.BytesIO(data)).convert("RGBA")
            ground = Image.new("RGBA", picture.size, "white")
            pictures.append(np.asarray(Image.alpha_composite(ground, picture).convert("RGB")))
    return np.stack(pictures)


def main() -> None:
    """Write the file: pixels, captions, and which are prompts and which are held out."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("package", type=Path, help="emoji-datasource-google-VERSION.tgz")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the .npz file to write")
    arguments = parser.parse_args()
    entries = read_captions(CAPTIONS)
    np.savez_compressed(
        arguments.output,
        pixels=read_pictures(arguments.package, entries),
        captions=np.array([entry.caption for entry in entries]),
        is_prompt=np.array([entry.is_prompt for entry in entries]),
        is_train=np.array([entry.is_train for entry in entries]),
    )
    print(f"{arguments.output}: {arguments.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
