"""The thread-block emulator runs correct kernels correctly and reports wrong ones."""

from __future__ import annotations

import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from toys import CSRC, HERE, ORDERS, WARNINGS, Builder, Toys

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")


@pytest.fixture(
    scope="session",
    params=[
        pytest.param([], id="default"),
        pytest.param(["-DSEPTET_EMULATOR_UCONTEXT"], id="ucontext", marks=pytest.mark.slow),
    ],
)
def toys(request: pytest.FixtureRequest, build: Builder) -> Toys:
    """Build the kernels with each way of switching between fibers."""
    return build(HERE / "toy_kernels.cu", *request.param)


def random(count: int, dtype: type = np.float32) -> np.ndarray:
    """Draw the same normal numbers in every test."""
    return np.random.default_rng(0).standard_normal(count).astype(dtype)


@needs_nvcc
def test_nvcc_takes_the_same_source(tmp_path: Path) -> None:
    flags = ["-std=c++20", "-arch=sm_80", "-Werror", "all-warnings", f"-I{CSRC}"]
    host = ["-Xcompiler", ",".join(WARNINGS)]
    subprocess.run(
        ["nvcc", *flags, *host, "-c", HERE / "toy_kernels.cu", "-o", tmp_path / "toys.o"],
        check=True,
    )


# --- Correct kernels: the same result in every order ---------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("block", [32, 96, 256, 1024])
@pytest.mark.usefixtures("order")
def test_block_sum_is_exact_in_its_documented_order(toys: Toys, dtype: type, block: int) -> None:
    grid = 3
    x = random(grid * block, dtype)
    y = np.empty_like(x)
    run = toys.block_sum_float if dtype is np.float32 else toys.block_sum_double
    run(x, y, grid, block)

    def butterfly(lanes: np.ndarray) -> np.ndarray:
        for lane_mask in (16, 8, 4, 2, 1):
            lanes = lanes + lanes[..., np.arange(32) ^ lane_mask]
        return lanes

    warp_sums = np.zeros((grid, 32), dtype)
    warp_sums[:, : block // 32] = butterfly(x.reshape(grid, -1, 32))[..., 0]
    expected = butterfly(warp_sums)[:, :1]
    np.testing.assert_array_equal(y.reshape(grid, block), np.broadcast_to(expected, (grid, block)))


@pytest.mark.usefixtures("order")
def test_reduction_in_dynamic_shared_memory(toys: Toys) -> None:
    x = np.arange(1000, dtype=np.float32)
    y = np.empty(8, np.float32)
    toys.tree_sum(x, y, 1000, 8, 128)
    expected = np.pad(x, (0, 24)).reshape(8, 128).sum(axis=1)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.usefixtures("order")
def test_static_shared_memory_serves_block_after_block(toys: Toys) -> None:
    x = np.arange(5 * 128, dtype=np.int32)
    y = np.empty_like(x)
    toys.static_shared(x, y, 5)
    np.testing.assert_array_equal(y.reshape(5, 128), x.reshape(5, 128)[:, ::-1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("width", [32, 8])
@pytest.mark.usefixtures("order")
def test_shuffles(toys: Toys, dtype: type, width: int) -> None:
    """An 8 x 9 block: two whole warps, and one of 8 lanes."""
    count = 72
    x = random(count, dtype)
    y = np.empty((4, count), dtype)
    run = toys.shuffle_float if dtype is np.float32 else toys.shuffle_double
    run(x, y, width, 8, 9)

    lane = np.arange(count) % 32
    begin, end = lane // width * width, lane // width * width + width
    up, down, xor = lane - 3, lane + 3, lane ^ 5
    sources = [
        np.where(up < begin, lane, up),
        np.where(down >= end, lane, down),
        np.where(xor >= end, lane, xor),
        begin + 7,
    ]
    for got, source in zip(y, sources, strict=True):
        index = np.arange(count) // 32 * 32 + source
        # Lanes which the last warp does not have are undefined in CUDA and NaN here.
        expected = np.where(index < count, x[np.minimum(index, count - 1)], np.nan)
        np.testing.assert_array_equal(got, expected)


@pytest.mark.usefixtures("order")
def test_votes(toys: Toys) -> None:
    x = np.concatenate([np.arange(32) % 3 == 0, np.ones(8)]).astype(np.int32)
    ballot, any_, all_ = y = np.empty((3, 40), np.uint32)
    toys.vote(x, y, 40)
    first = sum(1 << i for i in range(32) if i % 3 == 0)
    np.testing.assert_array_equal(ballot, [first] * 32 + [0xFF] * 8)
    np.testing.assert_array_equal(any_, 1)
    np.testing.assert_array_equal(all_, [0] * 32 + [1] * 8)


@pytest.mark.usefixtures("order")
def test_parts_of_a_warp_meet_in_different_branches(toys: Toys) -> None:
    x = np.arange(1, 65, dtype=np.int32)
    y = np.empty_like(x)
    toys.half_warp(x, y, 64)
    warps = x.reshape(2, 32)
    expected = np.repeat(warps[:, [0, 16]], 16, axis=1)
    expected[:, 16:31] += warps[:, 17:]
    expected[:, 31] += warps[:, 31]
    np.testing.assert_array_equal(y.reshape(2, 32), expected)


@pytest.mark.parametrize("count", [1, 31, 32, 100])
@pytest.mark.usefixtures("order")
def test_threads_that_leave_early_count_as_arrived(toys: Toys, count: int) -> None:
    x = np.arange(128, dtype=np.int32)
    y = np.full(128, -1, np.int32)
    toys.early_exit(x, y, count)
    np.testing.assert_array_equal(y[:count], np.roll(x[:count], -2))
    np.testing.assert_array_equal(y[count:], -1)


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64])
@pytest.mark.usefixtures("order")
def test_atomic_add_in_a_grid_stride_loop(toys: Toys, dtype: type) -> None:
    names = {np.int32: "atomic_int", np.float32: "atomic_float", np.float64: "atomic_double"}
    x = (np.arange(5000) % 7).astype(dtype)
    total = np.zeros(1, dtype)
    getattr(toys, names[dtype])(x, total, 5000)
    assert total[0] == x.sum()


def test_packs(toys: Toys) -> None:
    x = np.arange(64, dtype=np.uint16)
    y = np.empty_like(x)
    toys.pack(x, y, 0, 8)
    np.testing.assert_array_equal(y, x + 1)


def test_fast_functions(toys: Toys) -> None:
    x = np.linspace(0.1, 6.0, 50, dtype=np.float32)
    y = np.empty((3, 50), np.float32)
    toys.normal(x, y, 50)
    np.testing.assert_allclose(y, [np.log(x), np.sin(x), np.cos(x)], rtol=1e-5, atol=1e-6)


def test_empty_grid_is_no_work(toys: Toys) -> None:
    toys.atomic_int(np.empty(0, np.int32), total := np.zeros(1, np.int32), 0)
    assert total[0] == 0


def test_several_host_threads_take_turns(toys: Toys) -> None:
    x = np.arange(1000, dtype=np.float32)

    def work(_: int) -> float:
        y = np.empty(8, np.float32)
        toys.tree_sum(x, y, 1000, 8, 128)
        return float(y.sum())

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(work, range(40))) == {float(x.sum())}


def test_a_thread_without_barriers_is_cheap(toys: Toys) -> None:
    y = np.zeros(102_400, np.float32)
    start = time.perf_counter()
    toys.fill(y, 400, 256)
    assert time.perf_counter() - start < 0.5
    assert y.all()


# --- Wrong kernels: the emulator shows it ---------------------------------------------------------


@pytest.mark.usefixtures("undetected")
def test_missing_barrier_shows_in_another_order(
    toys: Toys, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.ones(64, np.float32)
    sums = {}
    for order in ORDERS:
        monkeypatch.setenv("SEPTET_EMULATOR_ORDER", order)
        y = np.empty(1, np.float32)
        toys.missing_barrier(x, y, 64)
        sums[order] = float(y[0])
    assert sums["reverse"] == 64  # the order in which the bug hides
    assert np.isnan(sums["forward"])
    assert np.isnan(sums["shuffle:1"])


@pytest.mark.usefixtures("order")
def test_barrier_against_shuffle_is_reported(toys: Toys) -> None:
    with pytest.raises(RuntimeError, match="can never continue") as error:
        toys.barrier_against_shuffle(np.empty(64, np.int32), 2, 64)
    message = str(error.value)
    assert "threads 0 to 0 wait in __syncthreads at " in message
    assert "threads 1 to 1 wait in __shfl_xor_sync at " in message
    assert "mask 0xffffffff" in message
    assert ("block (0, 0, 0)" in message) or ("block (1, 0, 0)" in message)


def test_different_barriers_do_not_meet(toys: Toys) -> None:
    with pytest.raises(RuntimeError, match="can never continue") as error:
        toys.two_barriers(np.empty(64, np.int32), 64)
    lines = (HERE / "toy_kernels.cu").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if "two_barriers_kernel(" in line)
    first, second = (i + 1 for i in range(start, start + 10) if "__syncthreads" in lines[i])
    assert f"threads 0 to 39 wait in __syncthreads at {HERE}/toy_kernels.cu:{first};" in str(
        error.value
    )
    assert str(error.value).endswith(
        f"threads 40 to 63 wait in __syncthreads at {HERE}/toy_kernels.cu:{second}"
    )


def test_mask_without_the_caller_is_reported(toys: Toys) -> None:
    with pytest.raises(RuntimeError, match=r"must include the calling lane.*thread 16"):
        toys.wrong_mask(np.empty(32, np.int32), 32)


def test_misaligned_pack_is_reported(toys: Toys) -> None:
    """The other threads wait at a barrier by then; the next launch must not notice."""
    x = np.arange(80, dtype=np.uint16)
    with pytest.raises(RuntimeError, match=r"misaligned access of 16 bytes.*thread 0"):
        toys.pack(x, np.empty(64, np.uint16), 1, 8)
    test_packs(toys)


@pytest.mark.usefixtures("order")
def test_launch_works_after_a_failure(toys: Toys) -> None:
    for _ in range(3):
        with pytest.raises(RuntimeError):
            toys.barrier_against_shuffle(np.empty(128, np.int32), 2, 64)
        test_reduction_in_dynamic_shared_memory(toys)


@pytest.mark.usefixtures("undetected")
def test_dynamic_shared_memory_starts_as_nan_in_every_block(toys: Toys) -> None:
    y = np.zeros(3 * 50, np.float32)
    toys.fresh_memory(y, 0, 3, 50)
    assert np.isnan(y).all()


@pytest.mark.parametrize("beyond", [1, 20])
@pytest.mark.usefixtures("undetected")
def test_write_past_dynamic_shared_memory_is_reported(toys: Toys, beyond: int) -> None:
    with pytest.raises(RuntimeError, match="wrote past its dynamic shared memory of 200 bytes"):
        toys.fresh_memory(np.zeros(150, np.float32), beyond, 3, 50)


@pytest.mark.usefixtures("undetected")
def test_impossible_launch_is_reported(toys: Toys) -> None:
    with pytest.raises(RuntimeError, match="invalid launch configuration"):
        toys.fill(np.empty(1025, np.float32), 1, 1025)
    with pytest.raises(RuntimeError, match="invalid launch configuration"):
        toys.large_memory(np.empty(32, np.float32), 32, 228 * 1024)
    toys.large_memory(np.empty(32, np.float32), 32, 227 * 1024)


@pytest.mark.parametrize("value", ["backward", "shuffle:", "shuffle:x"])
def test_unknown_order_is_refused(toys: Toys, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SEPTET_EMULATOR_ORDER", value)
    with pytest.raises(RuntimeError, match="SEPTET_EMULATOR_ORDER must be"):
        toys.fill(np.empty(32, np.float32), 1, 32)
