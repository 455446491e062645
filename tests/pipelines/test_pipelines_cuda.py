"""Pipelines on a real CUDA device: as on the CPU, captured or not, and without waiting."""

from __future__ import annotations

import pytest
import torch
from test_captured_pipelines import RUNS, bddm, image_pipeline, listed

import septet
from septet.capture import StepGraphs
from septet.pipelines.base import prepare
from septet.sampling import SamplingLoop
from septet.testing.tolerances import relative_error

pytestmark = pytest.mark.cuda


def tensors(results):
    return [torch.as_tensor(result).cpu() for result in listed(results)]


@pytest.fixture(params=RUNS)
def run(request, unet, tmp_path):
    make, call, _ = RUNS[request.param]
    pipeline = make(unet, tmp_path / "tokenizer")
    pipeline.set_progress_bar_config(disable=True)
    yield pipeline, call
    pipeline.to("cpu")  # some networks belong to the session


def test_cuda_agrees_with_the_cpu(run):
    pipeline, call = run
    expected = tensors(call(pipeline))
    pipeline.to("cuda")
    for a, b in zip(tensors(call(pipeline)), expected, strict=True):
        assert relative_error(a, b) < 1e-3


def test_graphs_do_not_change_bits(run):
    pipeline, call = run
    pipeline.to("cuda")
    pipeline.step_graphs.enabled = False
    expected = tensors(call(pipeline))
    graphs = pipeline.step_graphs = StepGraphs()
    for _ in range(2):
        assert all(map(torch.equal, tensors(call(pipeline)), expected))
        assert graphs.reason is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_graphs_continue_generators_of_torch(unet, dtype):
    pipeline = image_pipeline("DDPMPipeline", unet)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to("cuda", dtype)
    try:
        found = []
        for enabled in (False, True):
            pipeline.step_graphs.enabled = enabled
            generator = torch.Generator("cuda").manual_seed(7)
            call = {"batch_size": 2, "num_inference_steps": 4, "output_type": "pt"}
            images = [pipeline(generator=generator, **call).images for _ in range(2)]
            found.append((images, generator.get_offset()))
        (plain, end), (captured, captured_end) = found
        assert pipeline.step_graphs.reason is None
        assert all(map(torch.equal, plain, captured))
        assert not torch.equal(*captured)
        assert end == captured_end
    finally:
        pipeline.to("cpu", torch.float32)


@pytest.mark.parametrize("graphs", [None, StepGraphs()], ids=["plain", "captured"])
@pytest.mark.parametrize("source", ["torch", "philox"])
def test_the_loop_never_waits_for_the_device(unet, graphs, source):
    """From the second row on: the first one has to load, tune and capture."""
    unet.to("cuda")
    try:
        scheduler = septet.DDPMScheduler()
        scheduler.set_timesteps(6)
        table = scheduler.table()
        model = prepare(unet, table, torch.device("cuda"))
        sample = torch.randn(2, 3, 8, 8, device="cuda")

        def strict(iterable):
            try:
                for row in iterable:
                    if row == 2:
                        torch.cuda.set_sync_debug_mode("error")
                    yield row
            finally:
                torch.cuda.set_sync_debug_mode("default")

        generator = (
            torch.Generator("cuda").manual_seed(0)
            if source == "torch"
            else septet.PhiloxSeeds([1, 2])
        )
        loop = SamplingLoop(table, generator=generator, progress=strict, graphs=graphs)
        assert loop(model, sample).isfinite().all()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        unet.to("cpu")


def test_the_vocoder_in_half_precision():
    pipeline = bddm().to("cuda", torch.float16)
    pipeline.set_progress_bar_config(disable=True)
    mel = torch.randn(1, 4, 9, device="cuda", dtype=torch.float16)
    audio = pipeline(mel, generator=septet.PhiloxSeeds([0]), output_type="pt")[0]
    assert torch.isfinite(torch.as_tensor(audio[0]).float()).all()
