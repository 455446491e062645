"""Says how many of a set of generated digits are digits, by a classifier trained on real ones.

The handwritten digits are split into two halves. The generator and the classifier learn from the
first; the second, which neither has seen, sets the mark that generated digits are held against.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMAGE_SIZE = 16
CONFIDENCE = 0.9
_FINE_SIZE = 2 * IMAGE_SIZE
_NUM_EPOCHS = 40
_BATCH_SIZE = 64
_AUGMENTATION = 0.6


@dataclass(frozen=True)
class Digits:
    """The handwritten digits, 1,797 images of 8x8 pixels in 17 grey levels.

    Attributes:
        pixels: ``[N, 1, 8, 8]`` float32 in [0, 1].
        labels: ``[N]`` int64, the digits.
        is_train: ``[N]`` bool, the half to train on; the other half is only for judging.
    """

    pixels: Tensor
    labels: Tensor
    is_train: Tensor


@dataclass(frozen=True)
class JudgeReport:
    """How a set of images compares with real digits that no training has seen.

    Attributes:
        num_images: How many images were judged.
        recognised: Share that the classifier takes for some digit with at least 90 % confidence.
        class_counts: How many were recognised as 0, 1, .., 9.
        nearest_distance: Median over the images of the distance to the nearest training image,
            as the root of the mean square over pixels in [0, 1]. Far below the held-out value
            the images are copies, far above it they are not digits.
        heldout_recognised: ``recognised`` of the held-out real digits.
        heldout_accuracy: Share of the held-out real digits that the classifier names correctly.
        heldout_nearest_distance: ``nearest_distance`` of the held-out real digits.
    """

    num_images: int
    recognised: float
    class_counts: tuple[int, ...]
    nearest_distance: float
    heldout_recognised: float
    heldout_accuracy: float
    heldout_nearest_distance: float

    @property
    def relative(self) -> float:
        """The share recognised, as a fraction of that of the held-out real digits."""
        return self.recognised / self.heldout_recognised


@functools.cache
def load_digits() -> Digits:
    """Load the handwritten digits that come with the package."""
    with (resources.files("septet") / "assets" / "digits_data.npz").open("rb") as file:
        arrays = np.load(file)
        pixels, labels, is_train = (arrays[key] for key in ("pixels", "labels", "is_train"))
    return Digits(
        pixels=torch.from_numpy(pixels.astype(np.float32) / 16)[:, None],
        labels=torch.from_numpy(labels.astype(np.int64)),
        is_train=torch.from_numpy(is_train),
    )


def enlarge(pixels: Tensor, size: int = IMAGE_SIZE) -> Tensor:
    """Enlarge ``[N, 1, 8, 8]`` in [0, 1] smoothly to ``[N, 1, size, size]`` in [0, 1]."""
    enlarged = F.interpolate(pixels, size=(size, size), mode="bicubic", align_corners=False)
    return enlarged.clamp(0, 1)


def augment(pixels: Tensor, generator: torch.Generator, *, strength: float = 1.0) -> Tensor:
    """Enlarge digits, each a little shifted, turned and scaled at random.

    Args:
        pixels: ``[N, 1, 8, 8]`` in [0, 1].
        generator: Source of the shifts (to half a pixel), angles (to 8 degrees) and scales (0.9
            to 1.03).
        strength: Multiplies how far each of these goes.

    Returns:
        ``[N, 1, 16, 16]`` in [0, 1].
    """
    count = pixels.shape[0]
    uniform = torch.rand(4, count, generator=generator)
    angle = (uniform[0] * 2 - 1) * strength * math.radians(8)
    zoom = 1 / (1 + strength * (0.13 * uniform[1] - 0.1))
    shift = (uniform[2:] * 2 - 1) * strength / IMAGE_SIZE
    cos, sin = zoom * torch.cos(angle), zoom * torch.sin(angle)
    rows = [torch.stack([cos, -sin, shift[0]], dim=1), torch.stack([sin, cos, shift[1]], dim=1)]
    grid = F.affine_grid(
        torch.stack(rows, dim=1), [count, 1, IMAGE_SIZE, IMAGE_SIZE], align_corners=False
    )
    # Twice the size in between, so that reading between pixels does not blur.
    return F.grid_sample(enlarge(pixels, _FINE_SIZE), grid, align_corners=False).clamp(0, 1)


def _classifier() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * (IMAGE_SIZE // 4) ** 2, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


@functools.cache
def train_classifier(seed: int = 0, *, num_epochs: int = _NUM_EPOCHS) -> nn.Sequential:
    """Train a small convolutional network on the training half, which takes a few seconds.

    Args:
        seed: Of the initial weights, the order of the images and their augmentation. The global
            random state is left as it was.
        num_epochs: How often every image is seen.

    Returns:
        A network from ``[N, 1, 16, 16]`` in [0, 1] to the logits ``[N, 10]``.
    """
    digits = load_digits()
    pixels, labels = digits.pixels[digits.is_train], digits.labels[digits.is_train]
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        network = _classifier()
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
        steps = num_epochs * math.ceil(len(pixels) / _BATCH_SIZE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(num_epochs):
            order = torch.randperm(len(pixels), generator=generator)
            for batch in torch.split(order, _BATCH_SIZE):
                loss = F.cross_entropy(
                    network(augment(pixels[batch], generator, strength=_AUGMENTATION)),
                    labels[batch],
                )
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                schedule.step()
    return network.eval().requires_grad_(False)


def judge(images: NDArray[np.floating], *, seed: int = 0) -> JudgeReport:
    """Compare images with the held-out real digits.

    Args:
        images: ``[N, 1, 16, 16]`` in [0, 1], at least one.
        seed: Of the classifier.

    Raises:
        ValueError: If the shape is another, or a pixel lies outside [0, 1].
    """
    batch = torch.from_numpy(np.asarray(images, dtype=np.float32))
    if batch.ndim != 4 or batch.shape[1:] != (1, IMAGE_SIZE, IMAGE_SIZE) or not len(batch):
        raise ValueError(f"images must have shape [N, 1, 16, 16], got {list(batch.shape)}")
    if not ((batch >= 0) & (batch <= 1)).all():
        raise ValueError("images must lie in [0, 1]")
    digits = load_digits()
    train, heldout = (
        enlarge(digits.pixels[digits.is_train]),
        enlarge(digits.pixels[~digits.is_train]),
    )
    confidence, label = _classify(batch, seed)
    heldout_confidence, heldout_label = _classify(heldout, seed)
    counts = torch.bincount(label[confidence >= CONFIDENCE], minlength=10)
    correct = heldout_label == digits.labels[~digits.is_train]
    return JudgeReport(
        num_images=len(batch),
        recognised=_share(confidence >= CONFIDENCE),
        class_counts=tuple(counts.tolist()),
        nearest_distance=_nearest_distance(batch, train),
        heldout_recognised=_share(heldout_confidence >= CONFIDENCE),
        heldout_accuracy=_share(correct),
        heldout_nearest_distance=_nearest_distance(heldout, train),
    )


def _classify(images: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return confidence and label of each image."""
    probabilities = train_classifier(seed)(images).softmax(dim=1)
    confidence, label = probabilities.max(dim=1)
    return confidence, label


def _nearest_distance(images: Tensor, train: Tensor) -> float:
    distances = torch.cdist(images.flatten(1), train.flatten(1)).min(dim=1).values
    return distances.median().item() / IMAGE_SIZE


def _share(flags: Tensor) -> float:
    return flags.float().mean().item()
