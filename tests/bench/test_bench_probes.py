"""The probes of the machine: plausible, repeatable, and picky about arguments."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading

import pytest

from septet import _host


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("num_bytes", [1, 1000, 1 << 20, 1 << 25])
def test_copy_bandwidth_is_plausible(num_bytes, threads):
    rate = _host.copy_bandwidth(num_bytes, threads, 0.02)
    assert 1e8 < rate < 1e13


def test_small_buffers_are_quicker_than_memory():
    small, large = (_host.copy_bandwidth(size, 1, 0.1) for size in (16 << 10, 256 << 20))
    assert small > large


@pytest.mark.parametrize("threads", [1, 2])
def test_fma_peak_is_plausible(threads):
    assert 1e8 < _host.fma_peak(threads, 0.02) < 1e13


@pytest.mark.parametrize("isa", _host.build_info()["cpu_isas"])
def test_every_instruction_set_has_probes(isa):
    script = (
        "from septet import _host as h; print(h.copy_bandwidth(9999, 2, .01), h.fma_peak(2, .01))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "SEPTET_CPU_ISA": isa},
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(float(word) > 1e8 for word in run.stdout.split())


def test_other_threads_run_meanwhile():
    ticks, done = [], threading.Event()

    def tick():
        while not done.wait(0.001):
            ticks.append(None)

    ticker = threading.Thread(target=tick)
    ticker.start()
    _host.copy_bandwidth(4096, 1, 0.2)
    done.set()
    ticker.join()
    assert len(ticks) > 5


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((0, 1, 0.1), "bytes"),
        ((-5, 1, 0.1), "bytes"),
        ((2**40, 1, 0.1), "bytes"),
        ((64, 0, 0.1), "threads"),
        ((64, 5000, 0.1), "threads"),
        ((64, 1, 0.0), "seconds"),
        ((64, 1, 1e6), "seconds"),
        ((64, 1, math.nan), "seconds"),
    ],
)
def test_senseless_arguments(arguments, name):
    with pytest.raises(ValueError, match=rf"septet.copy_bandwidth: {name}"):
        _host.copy_bandwidth(*arguments)
    if name != "bytes":
        with pytest.raises(ValueError, match=rf"septet.fma_peak: {name}"):
            _host.fma_peak(*arguments[1:])
