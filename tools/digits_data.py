"""Make the demo's data file from scikit-learn's copy of the handwritten digits.

The installed demo judges its own samples with this file, so it needs no scikit-learn.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

OUTPUT = Path(__file__).parents[1] / "python/septet/assets/digits_data.npz"
SPLIT_SEED = 0


def split_halves(labels: np.ndarray, seed: int) -> np.ndarray:
    """Choose half of each class at random; True marks the half to train on."""
    generator = np.random.default_rng(seed)
    is_train = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        is_train[members[: (len(members) + 1) // 2]] = True
    return is_train


def main() -> None:
    """Write the file: pixels ``[1797, 8, 8]`` in 0..16, labels, and the split."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the .npz file to write")
    output: Path = parser.parse_args().output
    digits = load_digits()
    labels = digits.target.astype(np.uint8)
    np.savez_compressed(
        output,
        pixels=digits.images.astype(np.uint8),
        labels=labels,
        is_train=split_halves(labels, SPLIT_SEED),
    )
    print(f"{output}: {output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
