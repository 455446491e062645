"""Who computes a convolution."""

from __future__ import annotations

import runpy

import pytest

from septet.ops import ConvLayer, chosen_convolution, conv_choice, use_convolution

PLAIN = ConvLayer((3, 3), (1, 1), (1, 1), 1, 32 * 32)


@pytest.fixture(autouse=True)
def _fast_kernels(monkeypatch):
    monkeypatch.setattr(conv_choice, "has_fast_kernels", lambda: True)
    conv_choice._rule.cache_clear()
    with use_convolution("auto"):
        yield
    conv_choice._rule.cache_clear()


@pytest.mark.parametrize(
    ("layer", "algorithm"),
    [
        (PLAIN, "winograd4"),
        (PLAIN._replace(outputs=8 * 8), "winograd4"),
        (PLAIN._replace(outputs=7 * 7), "winograd2"),
        (PLAIN._replace(outputs=1), "direct"),
        (PLAIN._replace(stride=(2, 2)), "direct"),
        (PLAIN._replace(dilation=(1, 2)), "direct"),
        (PLAIN._replace(kernel=(1, 1)), "direct"),
        (PLAIN._replace(groups=2), "torch"),
    ],
)
def test_the_rule(layer, algorithm):
    assert chosen_convolution(layer) == algorithm
    with use_convolution("torch"):
        assert chosen_convolution(layer) == "torch"
    with use_convolution("direct"):
        assert chosen_convolution(layer) == ("torch" if layer.groups == 2 else "direct")
    with use_convolution("winograd"):
        assert chosen_convolution(layer).startswith("winograd") == (
            layer._replace(outputs=PLAIN.outputs) == PLAIN
        )
    assert chosen_convolution(layer) == algorithm


def test_a_processor_without_multiply_add_leaves_all_to_torch(monkeypatch):
    monkeypatch.setattr(conv_choice, "has_fast_kernels", lambda: False)
    assert chosen_convolution(PLAIN) == "torch"


def test_unknown_names_are_refused(monkeypatch):
    monkeypatch.setenv("SEPTET_CONV", "fft")
    with pytest.raises(ValueError, match=r"convolution must be one of auto, direct, .* got 'fft'"):
        use_convolution("fft").__enter__()
    with pytest.raises(
        ValueError, match=r"SEPTET_CONV must be one of auto, direct, winograd, torch"
    ):
        runpy.run_path(conv_choice.__file__)
