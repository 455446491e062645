"""Captured steps: the bits of the plain loop, what is captured anew, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import septet
from captured import NeverWaits, PretendGraphs, Watched
from septet import capture
from septet.nn import at_row
from septet.ops import philox_normal, torch_cuda_offset, torch_cuda_threads
from septet.sampling import SamplingLoop

SHAPE = (2, 3, 4, 4)


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """Predicts something, differently in every step."""

    times: torch.Tensor
    guided: bool = False

    def __call__(self, sample, row):
        output = (sample * 0.8 + at_row(self.times, row)).sin()
        return (output, output * 0.5) if self.guided else output


def model_for(table, **options):
    return Model(torch.tensor(table.timesteps) / 1000, **options)


def make_table(name="DDPMScheduler", steps=8, config=None, **step):
    scheduler = getattr(septet, name)(**(config or {}))
    scheduler.set_timesteps(steps)
    return scheduler.table(**step)


def start(seed=0, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sample_with(table, graphs, seed=3, begin=None, guided=False, **options):
    """Run a loop with Philox seeds; return the sample and the offset it leaves."""
    begin = start() if begin is None else begin
    seeds = septet.PhiloxSeeds([seed + i for i in range(len(begin))])
    loop = SamplingLoop(table, generator=seeds, graphs=graphs, **options)
    return loop(model_for(table, guided=guided), begin), seeds.offset


TABLES = {
    "ddpm": lambda: make_table(),
    "ddim": lambda: make_table("DDIMScheduler", eta=0.0),
    "ddim-eta": lambda: make_table("DDIMScheduler", eta=0.6),
    "pndm": lambda: make_table("PNDMScheduler"),
    "one-step": lambda: make_table(steps=1),
}


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("name", TABLES)
def test_captured_runs_have_the_bits_of_plain_ones(name, guided):
    table, graphs = TABLES[name](), PretendGraphs()
    plain = sample_with(table, None, guided=guided)
    for _ in range(2):  # the second run replays from its first step on
        captured = sample_with(table, graphs, guided=guided)
        assert graphs.reason is None
        assert torch.equal(captured[0], plain[0])
        assert captured[1] == plain[1]
    assert graphs.captures == (0 if len(table) == 1 else 1)


def test_channels_last_and_a_mask():
    table, graphs = make_table(), PretendGraphs()
    begin = start(shape=(2, 3, 4, 6)).contiguous(memory_format=torch.channels_last)
    mask = (start(1, (2, 1, 4, 6)) > 0).float()
    results = []
    for kept in (None, graphs):
        seeds = septet.PhiloxSeeds([1, 2])
        loop = SamplingLoop(table, generator=seeds, graphs=kept)
        results.append(loop(model_for(table), begin, mask=mask))
    assert torch.equal(*results)
    assert results[1].stride() == begin.stride()


def test_only_another_shape_or_type_is_captured_anew():
    table, graphs = make_table(), PretendGraphs(capacity=2)
    first, _ = sample_with(table, graphs)
    second, _ = sample_with(table, graphs, seed=30, begin=start(1))
    assert graphs.captures == 1
    assert not torch.equal(first, second)
    assert torch.equal(second, sample_with(table, None, seed=30, begin=start(1))[0])
    assert torch.equal(first, sample_with(table, None)[0])  # results are the caller's own
    other = make_table("DDIMScheduler", eta=1.0)  # other numbers, of the same shape
    assert torch.equal(sample_with(other, graphs)[0], sample_with(other, None)[0])
    assert torch.equal(sample_with(table, graphs)[0], first)  # its table was not overwritten
    assert graphs.captures == 1
    sample_with(table, graphs, begin=start(shape=(1, 3, 4, 4)))
    sample_with(table, graphs, begin=start().half())
    assert graphs.captures == 3
    assert len(graphs) == 2
    sample_with(table, graphs)  # was forgotten for the others
    assert graphs.captures == 4
    graphs.clear()
    assert len(graphs) == 0


def test_interruption_leaves_generator_and_graph_in_order():
    table, graphs = make_table(), PretendGraphs()
    sample_with(table, graphs)
    for kept in (None, graphs):
        calls = iter([False] * 3 + [True])
        result = sample_with(table, kept, interrupted=lambda calls=calls: next(calls))
        if kept is None:
            plain = result
    assert torch.equal(result[0], plain[0])
    assert result[1] == plain[1] == 3 * 48
    assert torch.equal(sample_with(table, graphs)[0], sample_with(table, None)[0])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"callback": lambda *_: None}, "a callback sees every step"),
        ({"draw": lambda: torch.zeros(SHAPE)}, "noise is drawn by a function"),
        ({"generator": torch.Generator()}, "noise on cpu is drawn on the host"),
        ({"table": make_table(config={"thresholding": True})}, "dynamic thresholding"),
        ({"model": lambda sample, _row: sample}, "a function may need the host"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_needs_the_host_is_refused_with_a_reason(options, reason):
    options = {"table": make_table(), "generator": septet.PhiloxSeeds([1, 2]), **options}
    table, graphs = options.pop("table"), PretendGraphs()
    model = options.pop("model", model_for(table))
    result = SamplingLoop(table, **options, graphs=graphs)(model, start())
    assert result.shape == SHAPE
    assert reason in graphs.reason
    assert graphs.captures == 0


def test_failed_capture_goes_on_without():
    table, graphs = make_table(), PretendGraphs()
    graphs.fail = True
    result, offset = sample_with(table, graphs)
    assert "operation not permitted" in graphs.reason
    assert len(graphs) == 0
    plain = sample_with(table, None)
    assert torch.equal(result, plain[0])
    assert offset == plain[1]


def test_disabled_graphs_are_not_used():
    graphs = PretendGraphs(enabled=False)
    sample_with(make_table(), graphs)
    assert graphs.captures == 0


# --- torch's CUDA generators --------------------------------------------------------------------


class CudaGenerator:
    """What the loop reads and writes of a generator that lives on a GPU."""

    device = torch.device("cuda")

    def __init__(self, seed, offset):
        self.seed, self.offset = seed, offset

    def initial_seed(self):
        return self.seed

    def get_offset(self):
        return self.offset

    def set_offset(self, offset):
        self.offset = offset


@pytest.fixture
def small_gpu(monkeypatch):
    properties = dataclasses.make_dataclass(
        "Properties", ["multi_processor_count", "max_threads_per_multi_processor"]
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties(1, 512))
    monkeypatch.setattr(capture, "_on_device", lambda generator, _: generator)
    monkeypatch.setattr("septet.sampling.check_generator", lambda *_: None)


def drawn_by_torch(generator, shape):
    """Draw as ``torch.randn`` on that GPU would, one draw after the other."""
    numel = torch.Size(shape).numel()
    threads = torch_cuda_threads(numel, 1, 512)
    seed = generator.seed - 2**64 if generator.seed >= 2**63 else generator.seed
    pairs = torch.tensor([[seed, generator.offset]])
    generator.offset += torch_cuda_offset(numel, threads)
    return philox_normal(pairs, shape, threads=threads)


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.usefixtures("small_gpu")
def test_generators_are_continued_inside_the_step(count, copies):
    """The step draws what torch would have drawn, and the offsets end where torch's would."""
    shape, table = (2, 3, 20, 20), make_table()
    begin = start(shape=shape)

    def members():
        return [CudaGenerator(2**63 + 7 * i, 8 * i) for i in range(count)]

    ours, theirs = members(), members()

    def draw():
        if count == 1:
            return drawn_by_torch(theirs[0], (copies * shape[0], *shape[1:]))[: shape[0]]
        return torch.cat([drawn_by_torch(g, (copies, *shape[1:]))[:1] for g in theirs])

    expected = SamplingLoop(table, draw=draw)(model_for(table), begin)
    graphs = PretendGraphs()
    loop = SamplingLoop(
        table, generator=ours if count > 1 else ours[0], graphs=graphs, noise_copies=copies
    )
    assert torch.equal(loop(model_for(table), begin), expected)
    assert graphs.reason is None
    assert [g.offset for g in ours] == [g.offset for g in theirs]
    # the next run goes on from there
    again = loop(model_for(table), begin)
    assert torch.equal(again, SamplingLoop(table, draw=draw)(model_for(table), begin))
    assert not torch.equal(again, expected)


@pytest.mark.usefixtures("small_gpu")
def test_generators_that_a_kernel_cannot_continue():
    twice = [CudaGenerator(1, 0)] * 2
    with pytest.raises(capture.NotCapturable, match="one generator draws for several samples"):
        capture.device_noise(twice, start(), [True])
    with pytest.raises(capture.NotCapturable, match="float64"):
        capture.device_noise(CudaGenerator(1, 0), start().double(), [True])
    with pytest.raises(capture.NotCapturable, match="rows without noise lie between"):
        capture.device_noise(CudaGenerator(1, 0), start(), [True, False, True])
    assert capture.device_noise(CudaGenerator(1, 0), start(), [False]) is None


# --- The host -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).all()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.equal(x, x),
        lambda x: x[torch.tensor(1)],
        lambda x: x.repeat_interleave(torch.tensor([1, 2])),
    ],
)
def test_the_watcher_objects(wait):
    with pytest.raises(AssertionError, match="makes the host wait"), NeverWaits():
        wait(torch.ones(2))


@pytest.mark.parametrize("name", TABLES)
def test_the_loop_never_waits(name):
    table = TABLES[name]()
    assert torch.equal(sample_with(table, Watched())[0], sample_with(table, None)[0])
