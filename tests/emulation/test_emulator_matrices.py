"""Tensor-core products, matrix loads and asynchronous copies of the emulator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import HERE, Builder, Toys


@pytest.fixture(scope="module")
def toys(build: Builder) -> Toys:
    return build(HERE / "toy_matrices.cu")


def _bits(values: np.ndarray, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Round to a half precision; return the bits, and the rounded values in float64."""
    rounded = torch.from_numpy(values).to(dtype)
    return rounded.view(torch.uint16).numpy(), rounded.double().numpy()


@pytest.mark.parametrize("wrong", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.usefixtures("order")
def test_matrix_product(toys: Toys, dtype: torch.dtype, wrong: int) -> None:
    """Against float64; a fragment in the wrong lanes must not pass."""
    draw = np.random.default_rng(0)
    a_bits, a = _bits(draw.standard_normal((16, 16)), dtype)
    b_bits, b = _bits(draw.standard_normal((16, 8)), dtype)
    c = draw.standard_normal((16, 8)).astype(np.float32)
    expected = a @ b + c
    multiply = toys.multiply_half if dtype == torch.float16 else toys.multiply_bfloat
    multiply(a_bits, b_bits, c, wrong)
    error = np.abs(c - expected).max()
    assert error > 1 if wrong else error < 5e-6


@pytest.mark.usefixtures("order")
def test_matrix_product_through_shared_memory(toys: Toys) -> None:
    draw = np.random.default_rng(1)
    a_bits, a = _bits(draw.standard_normal((16, 96)), torch.float16)
    b_bits, b = _bits(draw.standard_normal((8, 96)), torch.float16)
    c = np.empty((16, 8), np.float32)
    toys.multiply_shared(a_bits, b_bits, c, 96)
    np.testing.assert_allclose(c, a @ b.T, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.usefixtures("order")
def test_load_matrices(toys: Toys, transposed: int) -> None:
    x = np.arange(256, dtype=np.uint16).reshape(4, 8, 8)
    y = np.empty((32, 4), np.uint32)
    toys.load(x, y, transposed, 0)
    pairs = np.stack([y & 0xFFFF, y >> 16], axis=-1)  # lane, matrix, element
    for lane in range(32):
        for matrix in range(4):
            view = x[matrix].T if transposed else x[matrix]
            expected = view[lane // 4, 2 * (lane % 4) : 2 * (lane % 4) + 2]
            np.testing.assert_array_equal(pairs[lane, matrix], expected)


def test_misaligned_row_of_a_matrix_is_reported(toys: Toys) -> None:
    x, y = np.zeros(256, np.uint16), np.empty((32, 4), np.uint32)
    with pytest.raises(RuntimeError, match="misaligned access of 16 bytes"):
        toys.load(x, y, 0, 4)


@pytest.mark.usefixtures("order", "undetected")
def test_copies_arrive_when_they_are_waited_for(toys: Toys) -> None:
    x = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
    y = np.empty((3, 64, 4), np.float32)
    toys.copy(x, y, 64, 1)
    np.testing.assert_array_equal(y[0], np.roll(x, -1, axis=0))
    assert np.isnan(y[1]).all()  # the second group was not waited for
    assert (y[2] == 0).all()


@pytest.mark.usefixtures("order", "undetected")
def test_missing_wait_shows_as_nan(toys: Toys) -> None:
    x = np.ones((64, 4), np.float32)
    y = np.empty((3, 64, 4), np.float32)
    toys.copy(x, y, 64, 0)
    assert np.isnan(y[:2]).all()


def test_product_without_all_lanes_is_reported(toys: Toys) -> None:
    with pytest.raises(RuntimeError, match=r"mma at .*needs all 32 lanes of a warp"):
        toys.early_exit(np.empty(32, np.float32))
