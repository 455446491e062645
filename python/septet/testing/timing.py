"""Times several implementations of the same thing against each other, in one process.

The implementations take turns, A B C A B C ..., so that whatever else the machine does falls on
all of them alike. A turn is a batch of calls that are not timed, then one of as many that are: each
finds the caches as it leaves them itself, as in a sampling loop, and not as the others left them. A
victim cache needs about ten calls for that, not one. The rule is the same for all. Figures are
medians over the rounds.
"""

from __future__ import annotations

import functools
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

Function = Callable[[], object]
Clock = Callable[[], float]
#: Calls something so often, and returns how many seconds that took.
Timer = Callable[[int], float]

#: No call takes less.
_CALL_SECONDS = 1e-8


@dataclass(frozen=True)
class Timing:
    """How long calls of one function took.

    Attributes:
        values: Seconds per call, one value per round.
        calls_per_value: Each value is the mean over so many calls that follow one another.

    Raises:
        ValueError: If there is no value, or one is no time.
    """

    values: tuple[float, ...]
    calls_per_value: int = 1

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("a timing needs at least one value")
        if not all(0 <= value < math.inf for value in self.values):
            raise ValueError("a timing's values must be finite and not negative")

    @property
    def median(self) -> float:
        """The median, in seconds per call."""
        return statistics.median(self.values)

    @property
    def mean(self) -> float:
        """The mean, in seconds per call."""
        return statistics.fmean(self.values)

    @property
    def stdev(self) -> float:
        """The standard deviation of the values, 0 if there is only one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0

    @property
    def spread(self) -> float:
        """Half the distance from the 10th to the 90th percentile, relative to the median."""
        return (self.percentile(90) - self.percentile(10)) / (2 * self.median)

    def percentile(self, percent: float) -> float:
        """Return a percentile of the values, interpolated between neighbours."""
        return percentile(self.values, percent)


@dataclass(frozen=True)
class Plan:
    """How long to measure.

    Attributes:
        seconds: The functions are timed for at least so long each on average; calls that are not
            timed come on top.
        rounds: Number of rounds instead; ``seconds`` then counts for nothing.
        min_rounds: At least so many rounds, however slow the functions are.
        warmup_calls: Every function is called at least so often first.
        warmup_seconds: Every function is called for at least so long first.
        batch_seconds: A turn's batch has as many calls as take about so long, at least one:
            reading the clock then does not count, and a moment's disturbance little.

    Raises:
        ValueError: If a value makes no sense.
    """

    seconds: float = 1.0
    rounds: int | None = None
    min_rounds: int = 10
    warmup_calls: int = 2
    warmup_seconds: float = 0.05
    batch_seconds: float = 5e-3

    def __post_init__(self) -> None:
        for name in ("seconds", "warmup_seconds", "batch_seconds"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and not negative")
        for name in ("rounds", "min_rounds", "warmup_calls"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile, interpolated linearly between neighbours (numpy's default)."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def interleave(
    functions: Mapping[str, Function], plan: Plan | None = None, clock: Clock = time.perf_counter
) -> dict[str, Timing]:
    """Time functions in turn.

    Args:
        functions: What to call, by name, without arguments.
        plan: How long; the defaults if not given.
        clock: Returns the time in seconds.

    Returns:
        One timing per function, all with the same number of values: values of the same index were
        measured in the same round.
    """
    timers = {
        name: functools.partial(elapsed, function, clock=clock)
        for name, function in functions.items()
    }
    with _no_collection():
        return take_turns(timers, plan or Plan())


def take_turns(timers: Mapping[str, Timer], plan: Plan) -> dict[str, Timing]:
    """Time what times itself, perhaps in another process, in turn; see :func:`interleave`."""
    calls = {name: _warm_up(timer, plan) for name, timer in timers.items()}
    values: dict[str, list[float]] = {name: [] for name in timers}
    rounds, spent = 0, 0.0
    while timers and _unfinished(plan, rounds, spent / len(timers)):
        for name, timer in timers.items():
            # brings back into the caches what the others drove out
            timer(calls[name])
            seconds = timer(calls[name])
            spent += seconds
            values[name].append(seconds / calls[name])
        rounds += 1
    return {name: Timing(tuple(values[name]), calls[name]) for name in timers}


def elapsed(function: Function, calls: int, clock: Clock = time.perf_counter) -> float:
    """Return how many seconds so many calls take."""
    started = clock()
    for _ in range(calls):
        function()
    return clock() - started


def round_ratios(baseline: Timing, candidate: Timing) -> list[float]:
    """Return ``baseline / candidate`` of every round of the same :func:`interleave`."""
    return [b / c for b, c in zip(baseline.values, candidate.values, strict=True)]


def _unfinished(plan: Plan, rounds: int, seconds: float) -> bool:
    if plan.rounds is not None:
        return rounds < plan.rounds
    return rounds < plan.min_rounds or seconds < plan.seconds


def _warm_up(timer: Timer, plan: Plan) -> int:
    """Call something until it runs at full speed; return how many calls fill a batch."""
    fastest, spent, calls = math.inf, 0.0, 0
    while calls < plan.warmup_calls or spent < plan.warmup_seconds:
        seconds = timer(1)
        fastest = min(fastest, seconds)
        # the clock may tick more slowly than a call takes
        spent += max(seconds, _CALL_SECONDS)
        calls += 1
    if fastest <= 0:  # quicker than the clock ticks
        return 1000
    return max(1, math.ceil(plan.batch_seconds / fastest))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector, which would strike one of the functions at random, away."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
