"""Whole sampling steps as CUDA graphs: captured once, replayed for every row of a table.

Launching the few hundred kernels of a small network takes the host longer than the device needs to
run them. A captured step is one launch. What changes from step to step is read on the device: the
row from a counter there, the coefficients from the table, the noise from (seed, offset) pairs and
the row. What changes from run to run is copied into the tensors that the graph reads.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from septet.random import Generators, PhiloxSeeds, words_per_draw

logger = logging.getLogger(__name__)

#: Runs one step; what it reads and writes stays where it is.
Replay = Callable[[], None]
#: From what a step reads to ``step(sample, row)``, the next sample.
MakeStep = Callable[[dict[str, Any]], Callable[[Tensor, Tensor], Tensor]]


class NotCapturable(Exception):
    """Says why a run cannot be captured."""


@dataclass
class DeviceNoise:
    """Where the kernels of a captured run find their noise.

    Attributes:
        pairs: ``[1 or B, 2]`` int64 on the CPU, (seed, offset) of the first step.
        increment: By how much the offsets advance with every row.
        threads: As in :func:`septet.ops.step`: 0 for :class:`PhiloxSeeds`.
        advance: Told how many rows have drawn; moves the generators on as drawing would have.
    """

    pairs: Tensor
    increment: int
    threads: int
    advance: Callable[[int], None]


def device_noise(
    generator: Generators, sample: Tensor, draws: list[bool], copies: int = 1
) -> DeviceNoise | None:
    """Return what the kernels need to draw a run's noise themselves, or None if it has none.

    Args:
        generator: :class:`PhiloxSeeds`, or torch's generators of the sample's CUDA device.
        sample: ``[B, C, ...]``.
        draws: Whether noise is drawn, by row.
        copies: See :func:`septet.random.randn_leading`.

    Raises:
        NotCapturable: If the noise has to come from the host.
    """
    if not any(draws):
        return None
    numel = sample[:1].numel()
    if isinstance(generator, PhiloxSeeds):
        return _seeds_noise(generator, words_per_draw(numel))
    if draws != sorted(draws, reverse=True):
        raise NotCapturable("rows without noise lie between rows with noise")
    if sample.dtype == torch.float64:
        raise NotCapturable("torch's float64 noise is drawn by torch")
    members = list(generator) if isinstance(generator, Sequence) else [generator]
    if len({id(member) for member in members}) < len(members):
        raise NotCapturable("one generator draws for several samples")
    return _torch_noise([_on_device(m, sample.device) for m in members], sample, copies)


def _seeds_noise(seeds: PhiloxSeeds, words: int) -> DeviceNoise:
    """Every row, also one without noise, has its words: the offset follows from the row."""
    start = seeds.offset

    def advance(rows: int) -> None:
        seeds.offset = start + rows * words

    return DeviceNoise(seeds.advance(0), words, 0, advance)


def _on_device(generator: Any, device: torch.device) -> torch.Generator:
    if device.type != "cuda":
        raise NotCapturable(f"noise on {device} is drawn on the host")
    if generator is None:
        index = torch.cuda.current_device() if device.index is None else device.index
        default: torch.Generator = torch.cuda.default_generators[index]
        return default
    if generator.device.type != "cuda":
        raise NotCapturable("a CPU generator draws on the host")
    result: torch.Generator = generator
    return result


def _torch_noise(members: list[torch.Generator], sample: Tensor, copies: int) -> DeviceNoise:
    """Number the words as ``torch.randn`` does, once per row for each generator."""
    from septet.ops import torch_cuda_offset, torch_cuda_threads

    rows = copies * (sample.shape[0] if len(members) == 1 else 1)
    numel = rows * sample[:1].numel()
    device = torch.cuda.get_device_properties(sample.device)
    threads = torch_cuda_threads(
        numel, device.multi_processor_count, device.max_threads_per_multi_processor
    )
    increment = torch_cuda_offset(numel, threads)
    start = [member.get_offset() for member in members]

    def advance(drawn: int) -> None:
        for member, offset in zip(members, start, strict=True):
            member.set_offset(offset + drawn * increment)

    pairs = [[_signed(m.initial_seed()), at] for m, at in zip(members, start, strict=True)]
    return DeviceNoise(torch.tensor(pairs, dtype=torch.int64), increment, threads, advance)


def _signed(seed: int) -> int:
    """Return the int64 with the bits of an unsigned seed."""
    return seed - 2**64 if seed >= 2**63 else seed


def capture_cuda_graph(step: Replay) -> Replay:
    """Record a step as a CUDA graph, without running it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    replay: Replay = graph.replay
    return replay


def warm_up_on_side_stream(step: Replay, device: torch.device) -> None:
    """Run a step outside of the stream that will be captured, as torch's notes on graphs ask."""
    current, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(current)
    with torch.cuda.stream(side):
        step()
    current.wait_stream(side)


@dataclass
class _Captured:
    """A graph, and the tensors of its own that it reads and changes."""

    sources: Any  # what a run is given: the model and the rest, here as copies
    sample: Tensor
    row: Tensor
    replay: Replay | None = None


class StepGraphs:
    """The captured steps of a pipeline, by the shapes and types of everything they read.

    Args:
        enabled: Whether to capture at all.
        capacity: How many to keep; each holds the memory of one call of its network.

    Attributes:
        reason: Why the last run was not captured, None if it was.
    """

    # A test without a CUDA device replaces these three.
    device_type: str = "cuda"
    capture: Callable[[Replay], Replay] = staticmethod(capture_cuda_graph)
    warm_up: Callable[[Replay, torch.device], None] = staticmethod(warm_up_on_side_stream)

    def __init__(self, enabled: bool = True, capacity: int = 2) -> None:
        self.enabled = enabled
        self.reason: str | None = None
        self._capacity = capacity
        self._kept: OrderedDict[Any, _Captured] = OrderedDict()

    def __len__(self) -> int:
        """Return how many captured steps are kept."""
        return len(self._kept)

    def clear(self) -> None:
        """Forget the captured steps and give their memory back."""
        self._kept.clear()

    def refuse(self, reason: str) -> None:
        """Note why a run is not captured."""
        self.reason = reason
        logger.info("septet: the steps are not captured: %s", reason)

    def start(self, sources: dict[str, Any], sample: Tensor, make: MakeStep) -> Iterator[Tensor]:
        """Return an iterator that runs one step each time, and gives the sample after it.

        Args:
            sources: What the step reads: tensors, plain values, networks, and dataclasses, lists
                and dicts of these. The graph gets copies of the tensors, and with the next run of
                the same shapes, types and values the new contents.
            sample: The starting sample.
            make: Makes the step of sources: ``make(sources)(sample, row)`` is the next sample.

        Raises:
            NotCapturable: If there is something else in the sources.
        """
        captured = self._kept.get((_layout(sample), _describe(sources)))
        self.reason = None
        if captured is None:
            return self._first_run(sources, sample, make)
        for target, source in zip(_tensors(captured.sources), _tensors(sources), strict=True):
            target.copy_(source)
        captured.sample.copy_(sample)
        captured.row.zero_()
        return self._replays(captured)

    def _first_run(
        self, sources: dict[str, Any], sample: Tensor, make: MakeStep
    ) -> Iterator[Tensor]:
        """Run the first step plainly, then record it for the others."""
        row = torch.zeros((), dtype=torch.int64, device=sample.device)
        captured = _Captured(_copied(sources), sample.clone(), row)
        step = make(captured.sources)

        def advance() -> None:
            captured.sample.copy_(step(captured.sample, captured.row))
            captured.row.add_(1)

        self.warm_up(advance, sample.device)
        yield captured.sample
        try:
            captured.replay = self.capture(advance)
        except RuntimeError as error:
            self.refuse(f"the capture failed: {error}")
            captured.replay = advance
        else:
            # Only now: the first call may have moved weights.
            self._kept[_layout(sample), _describe(sources)] = captured
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        yield from self._replays(captured)

    @staticmethod
    def _replays(captured: _Captured) -> Iterator[Tensor]:
        assert captured.replay is not None
        while True:
            captured.replay()
            yield captured.sample


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return (tensor.shape, tensor.stride(), tensor.dtype, tensor.device)


def _is_record(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _fields(value: Any) -> dict[str, Any]:
    """Return the parts of a dataclass, dict, list or tuple by name; none of anything else."""
    if _is_record(value):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return value
    if isinstance(value, (list, tuple)):
        return {str(i): part for i, part in enumerate(value)}
    return {}


def _describe(value: Any) -> Any:
    """Return a hashable description in which tensors are replaced by their layout.

    Raises:
        NotCapturable: If there is something else in it than tensors, networks and plain values.
    """
    if isinstance(value, Tensor):
        return _layout(value)
    if isinstance(value, nn.Module):
        # Weights are read where they are: not the same if they were moved or replaced.
        return (id(value), tuple(p.data_ptr() for p in value.parameters()))
    if _is_record(value) or isinstance(value, (dict, list, tuple)):
        parts = _fields(value).items()
        return (type(value), tuple((name, _describe(part)) for name, part in parts))
    if value is None or isinstance(value, (bool, int, float, str, torch.dtype)):
        return value
    raise NotCapturable(f"a {type(value).__name__} may need the host")


def _tensors(value: Any) -> list[Tensor]:
    """List the tensors in a value."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for part in _fields(value).values() for tensor in _tensors(part)]


def _copied(value: Any) -> Any:
    """Return a value with copies of its tensors; networks stay the same."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, nn.Module) or not _fields(value):
        return value
    parts = {name: _copied(part) for name, part in _fields(value).items()}
    if _is_record(value):
        return dataclasses.replace(value, **parts)
    return parts if isinstance(value, dict) else type(value)(parts.values())
