"""The interleaving timer, on a clock that the test moves."""

from __future__ import annotations

import gc
import math

import numpy as np
import pytest

from septet.testing.timing import Plan, Timing, interleave, percentile, round_ratios


class FakeClock:
    """Time passes only when a function says so; every call is logged."""

    def __init__(self):
        self.now = 0.0
        self.log = []

    def __call__(self):
        return self.now

    def function(self, name, *durations):
        """Return a function that takes the durations in turn, again and again."""

        def call():
            taken = sum(entry == name for entry in self.log)
            self.log.append(name)
            self.now += durations[taken % len(durations)]

        return call


def test_functions_take_turns_of_an_untimed_and_a_timed_batch():
    clock = FakeClock()
    functions = {name: clock.function(name, 1.0) for name in "ABC"}
    interleave(functions, Plan(rounds=3, warmup_calls=2, warmup_seconds=0), clock)
    assert "".join(clock.log) == "AABBCC" + "AABBCC" * 3


def test_what_others_did_to_the_caches_does_not_count():
    """The first calls after another function's are slow, as with caches that it filled."""
    clock = FakeClock()

    def function(name, cold, warm):
        def call():
            clock.now += warm if set(clock.log[-2:]) == {name} else cold
            clock.log.append(name)

        return call

    functions = {"A": function("A", 9.0, 1.0), "B": function("B", 50.0, 2.0)}
    timings = interleave(functions, Plan(rounds=3, warmup_calls=3, batch_seconds=4), clock)
    assert timings["A"] == Timing((1.0,) * 3, calls_per_value=4)
    assert timings["B"] == Timing((2.0,) * 3, calls_per_value=2)


def test_it_reports_what_the_clock_says():
    clock = FakeClock()
    functions = {"slow": clock.function("slow", 3.0), "quick": clock.function("quick", 0.5)}
    timings = interleave(functions, Plan(rounds=4), clock)
    assert timings["slow"].values == (3.0,) * 4
    assert timings["quick"].values == (0.5,) * 4
    assert timings["slow"].median / timings["quick"].median == 6
    assert round_ratios(timings["slow"], timings["quick"]) == [6.0] * 4


def test_quick_functions_run_in_batches():
    clock = FakeClock()
    functions = {"quick": clock.function("quick", 0.25), "slow": clock.function("slow", 2.0)}
    plan = Plan(rounds=2, warmup_calls=1, warmup_seconds=0, batch_seconds=1.0)
    timings = interleave(functions, plan, clock)
    one_round = ["quick"] * (4 + 4) + ["slow"] * (1 + 1)
    assert clock.log == ["quick", "slow", *one_round, *one_round]
    assert timings["quick"] == Timing((0.25, 0.25), calls_per_value=4)
    assert timings["slow"].calls_per_value == 1


def test_the_first_calls_do_not_count():
    clock = FakeClock()
    durations = [100.0, 100.0, *[1.0] * 50]
    timings = interleave({"A": clock.function("A", *durations)}, Plan(rounds=5), clock)
    assert timings["A"].values == (1.0,) * 5


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.0, 10), (5.0, 10), (24.0, 12)],  # both take 2 s per round on average
)
def test_there_is_a_shortest_time_and_a_least_number_of_rounds(seconds, expected):
    clock = FakeClock()
    functions = {"A": clock.function("A", 1.0), "B": clock.function("B", 3.0)}
    timings = interleave(functions, Plan(seconds=seconds, min_rounds=10), clock)
    assert len(timings["A"].values) == len(timings["B"].values) == expected


def test_a_clock_that_stands_still_ends_too():
    timings = interleave({"A": lambda: None}, Plan(rounds=2, warmup_seconds=0), lambda: 0.0)
    assert timings["A"].values == (0.0, 0.0)


def test_nothing_to_time():
    assert interleave({}) == {}


def test_the_garbage_collector_waits_and_comes_back():
    seen = []
    assert gc.isenabled()
    interleave({"A": lambda: seen.append(gc.isenabled())}, Plan(rounds=1, warmup_seconds=0))
    assert set(seen) == {False}
    assert gc.isenabled()


def test_an_error_passes_and_the_collector_comes_back():
    def broken():
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        interleave({"A": broken})
    assert gc.isenabled()


def test_the_real_clock():
    timings = interleave({"sum": lambda: sum(range(1000))}, Plan(seconds=0.02, warmup_seconds=0.01))
    assert 1e-7 < timings["sum"].median < 1e-2
    assert timings["sum"].calls_per_value > 1


@pytest.mark.parametrize("percent", [0, 10, 37.5, 50, 90, 99, 100])
@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_percentiles_are_those_of_numpy(percent, count):
    values = np.random.default_rng(count).random(count)
    assert percentile(values.tolist(), percent) == pytest.approx(np.percentile(values, percent))


def test_spread_and_moments():
    timing = Timing(tuple(float(v) for v in range(1, 12)))
    assert (timing.median, timing.mean) == (6.0, 6.0)
    assert timing.stdev == pytest.approx(np.std(range(1, 12), ddof=1))
    assert timing.spread == pytest.approx((10 - 2) / 2 / 6)
    assert Timing((1.0,)).stdev == 0


@pytest.mark.parametrize("values", [(), (-1.0,), (math.nan,), (1.0, math.inf)])
def test_times_that_are_none(values):
    with pytest.raises(ValueError, match="timing"):
        Timing(values)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seconds", -1.0),
        ("seconds", math.nan),
        ("batch_seconds", math.inf),
        ("warmup_seconds", -0.1),
        ("rounds", 0),
        ("min_rounds", 0),
        ("warmup_calls", 0),
    ],
)
def test_senseless_plans(name, value):
    with pytest.raises(ValueError, match=name):
        Plan(**{name: value})
