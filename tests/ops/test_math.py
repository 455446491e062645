"""exp, log, sine and cosine of the kernels against float64."""

from __future__ import annotations

import numpy as np
import pytest

from septet import _host


def _ulps(actual, exact):
    spacing = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    return np.abs(actual.astype(np.float64) - exact) / spacing


def _all_between(low, high, count=400_000):
    """Evenly spaced bit patterns, so that every binade is covered alike."""
    bits = np.linspace(
        np.float32(low).view(np.int32), np.float32(high).view(np.int32), count, dtype=np.int64
    )
    return bits.astype(np.int32).view(np.float32)


def test_log():
    x = _all_between(1.2e-38, 3.4e38)
    assert _ulps(_host.elementary("log", x), np.log(x.astype(np.float64))).max() <= 1.0
    # Box-Muller feeds it (0, 1]; next to 1 the result goes to zero
    near = 1 - np.arange(100_000, dtype=np.float32) * np.float32(2**-24)
    assert _ulps(_host.elementary("log", near)[1:], np.log(near[1:].astype(float))).max() <= 1.0
    assert _host.elementary("log", near)[0] == 0


def test_exp():
    x = np.linspace(-87, 88.7, 400_000, dtype=np.float32)
    assert _ulps(_host.elementary("exp", x), np.exp(x.astype(np.float64))).max() <= 2.0
    special = _host.elementary("exp", np.float32([-200, 200, -np.inf, np.inf, np.nan, 0]))
    np.testing.assert_array_equal(special, np.float32([0, np.inf, 0, np.inf, np.nan, 1]))


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_sine_and_cosine(name):
    # one turn is what Box-Muller needs
    x = np.linspace(0, 2 * np.pi, 400_000, dtype=np.float32)
    exact = getattr(np, name)(x.astype(np.float64))
    actual = _host.elementary(name, x)
    away = np.abs(exact) > 2.0**-10
    assert _ulps(actual, exact)[away].max() <= 2.0
    assert np.abs(actual - exact).max() <= 2.0**-23
