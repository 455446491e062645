"""The judge of generated digits: right about real ones, not fooled by others, repeatable."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from septet.cli.judge import augment, enlarge, judge, load_digits, train_classifier


def test_data() -> None:
    digits = load_digits()
    assert digits.pixels.shape == (1797, 1, 8, 8)
    assert digits.pixels.min() == 0
    assert digits.pixels.max() == 1
    for label in range(10):
        members = digits.labels == label
        assert abs(int((members & digits.is_train).sum()) * 2 - int(members.sum())) <= 1


def test_enlarging_keeps_the_picture() -> None:
    pixels = load_digits().pixels[:20]
    assert (torch.nn.functional.avg_pool2d(enlarge(pixels), 2) - pixels).abs().mean() < 0.05
    still = augment(pixels, torch.Generator(), strength=0.0)
    assert (still - enlarge(pixels)).abs().mean() < 0.02


def test_real_digits_and_noise() -> None:
    digits = load_digits()
    heldout = enlarge(digits.pixels[~digits.is_train])
    report = judge(heldout.numpy())
    assert report.num_images == len(heldout)
    assert report.recognised == report.heldout_recognised > 0.9
    assert report.relative == 1
    assert report.heldout_accuracy > 0.97
    assert report.nearest_distance == report.heldout_nearest_distance
    assert min(report.class_counts) > 50
    copies = judge(enlarge(digits.pixels[digits.is_train]).numpy())
    assert copies.nearest_distance < 1e-3
    noise = judge(np.random.default_rng(0).random((100, 1, 16, 16)))
    assert noise.relative < 0.5
    assert noise.nearest_distance > 2 * noise.heldout_nearest_distance


def test_training_is_repeatable_and_private() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    train_classifier.cache_clear()
    first = train_classifier(3, num_epochs=2)
    assert torch.equal(torch.rand(1), expected)
    train_classifier.cache_clear()
    second = train_classifier(3, num_epochs=2)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("shape", [(0, 1, 16, 16), (2, 3, 16, 16), (1, 16, 16), (2, 1, 8, 8)])
def test_refuses_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="images must have shape"):
        judge(np.zeros(shape))


def test_refuses_values() -> None:
    images = np.zeros((1, 1, 16, 16))
    for bad in (-0.1, 1.1, np.nan):
        images[0, 0, 3, 3] = bad
        with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
            judge(images)
