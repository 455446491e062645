"""The probe of the machine: plausible, and picky about arguments."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading

import pytest

from septet import _host


@pytest.mark.parametrize("threads", [1, 2])
def test_fma_peak_is_plausible(threads):
    assert 1e8 < _host.fma_peak(threads, 0.02) < 1e13


@pytest.mark.parametrize("isa", _host.build_info()["cpu_isas"])
def test_every_instruction_set_has_the_probe(isa):
    script = "from septet import _host; print(_host.fma_peak(2, .01))"
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "SEPTET_CPU_ISA": isa},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(run.stdout) > 1e8


def test_other_threads_run_meanwhile():
    ticks, done = [], threading.Event()

    def tick():
        while not done.wait(0.001):
            ticks.append(None)

    ticker = threading.Thread(target=tick)
    ticker.start()
    _host.fma_peak(1, 0.2)
    done.set()
    ticker.join()
    assert len(ticks) > 5


@pytest.mark.parametrize(
    ("threads", "seconds", "name"),
    [
        (0, 0.1, "threads"),
        (5000, 0.1, "threads"),
        (1, 0.0, "seconds"),
        (1, 1e6, "seconds"),
        (1, math.nan, "seconds"),
    ],
)
def test_senseless_arguments(threads, seconds, name):
    with pytest.raises(ValueError, match=rf"septet.fma_peak: {name}"):
        _host.fma_peak(threads, seconds)
