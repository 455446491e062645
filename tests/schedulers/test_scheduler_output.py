"""What a step returns: both entries right, whenever and however they are read."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import septet
from septet.ops import step
from septet.schedulers import SchedulerOutput

X, M, Z = torch.randn(3, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SCHEDULERS = {
    "ddpm": lambda: septet.DDPMScheduler(),
    "learned": lambda: septet.DDPMScheduler(variance_type="learned_range"),
    "ddim": lambda: septet.DDIMScheduler(),
    "threshold": lambda: septet.DDIMScheduler(thresholding=True, sample_max_value=1.5),
    "unclipped": lambda: septet.DDIMScheduler(clip_sample=False),
}


def take_step(name, sample, output, **options):
    scheduler = SCHEDULERS[name]()
    scheduler.set_timesteps(10)
    if name == "learned":
        output = torch.cat([output, Z], dim=1)
    if isinstance(scheduler, septet.DDPMScheduler):
        options["variance_noise"] = Z
    return scheduler.step(output, scheduler.timesteps[4], sample, **options)


def test_outputs_can_be_read_in_every_way():
    a, b = torch.zeros(1), torch.ones(1)
    output = SchedulerOutput(a, b)
    assert output[0] is output.prev_sample is output["prev_sample"] is a
    assert output[-1] is output[1] is output["pred_original_sample"] is b
    assert tuple(output) == output.to_tuple() == (a, b)
    assert (
        repr(output)
        == "SchedulerOutput(prev_sample=tensor([0.]), pred_original_sample=tensor([1.]))"
    )
    alone = SchedulerOutput(a)
    assert alone.to_tuple() == (a,)
    assert alone.pred_original_sample is None
    with pytest.raises(IndexError):
        alone[1]


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler", "PNDMScheduler"])
def test_tuple_and_object_agree(name):
    sample = torch.ones(1, 1, 4)
    results = []
    for return_dict in (True, False):
        scheduler = getattr(septet, name)()
        scheduler.set_timesteps(4)
        t = scheduler.timesteps[0]
        options = {} if name == "PNDMScheduler" else {"generator": torch.Generator()}
        results.append(scheduler.step(sample, t, sample, return_dict=return_dict, **options))
    assert isinstance(results[1], tuple)
    for got, expected in zip(*results, strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_reading_later_gives_the_bits_of_computing_at_once(name):
    later = take_step(name, X, M)
    prev, original = take_step(name, X, M, return_dict=False)
    assert torch.equal(later.prev_sample, prev)
    assert torch.equal(later.pred_original_sample, original)
    assert later.pred_original_sample is later[1]


def count_originals(monkeypatch):
    computed = []

    def counting(*arguments, pred_original_sample=False, **options):
        computed.append(pred_original_sample)
        return step(*arguments, pred_original_sample=pred_original_sample, **options)

    monkeypatch.setattr("septet.ops.step", counting)
    return computed


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_estimate_is_computed_once_and_only_if_it_is_read(name, monkeypatch):
    computed = count_originals(monkeypatch)
    output = take_step(name, X, M)
    assert torch.equal(output[0], output["prev_sample"])
    assert computed == [False]
    _ = output.pred_original_sample, output[1], output.to_tuple()
    assert computed == [False, True]


@pytest.mark.parametrize("changed", ["sample", "model_output"])
@pytest.mark.parametrize("write", [torch.Tensor.zero_, lambda t: t[0, 0].add_(1)])
def test_it_is_refused_once_an_argument_has_changed(changed, write):
    arguments = {"sample": X.clone(), "model_output": M.clone()}
    output, read = (
        take_step("ddim", arguments["sample"], arguments["model_output"]) for _ in range(2)
    )
    expected = read.pred_original_sample.clone()
    write(arguments[changed])
    with pytest.raises(RuntimeError, match=f"{changed} has been modified in place"):
        _ = output.pred_original_sample
    assert torch.equal(read.pred_original_sample, expected)
    assert output.prev_sample.isfinite().all()


def test_where_changes_cannot_be_seen_it_is_computed_at_once(monkeypatch):
    computed = count_originals(monkeypatch)
    with torch.inference_mode():
        sample = X.clone()
        output = take_step("ddim", sample, M.clone())
        sample.zero_()
    assert computed == [True]
    assert torch.equal(output.pred_original_sample, take_step("ddim", X, M).pred_original_sample)


def test_gradients_flow_through_both_entries():
    sample = X.double().requires_grad_()
    output = take_step("unclipped", sample, M.double())
    with torch.no_grad():
        original = output.pred_original_sample
    (gradient,) = torch.autograd.grad(original.sum(), sample)
    scheduler = SCHEDULERS["unclipped"]()
    scheduler.set_timesteps(10)
    alpha_prod = scheduler.alphas_cumprod[scheduler.timesteps[4]].double()
    torch.testing.assert_close(gradient, (alpha_prod**-0.5).expand(X.shape), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "twin", [copy.copy, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))]
)
def test_copies_hold_both_entries(twin):
    output = take_step("ddim", X, M)
    copied = twin(output)
    assert type(copied) is SchedulerOutput
    for got, expected in zip(copied, output, strict=True):
        assert torch.equal(got, expected)


def test_pndm_keeps_references_as_diffusers_does():
    scheduler = septet.PNDMScheduler(skip_prk_steps=True)
    scheduler.set_timesteps(10)
    sample, outputs = X, [M + i for i in range(6)]
    before = [output.clone() for output in outputs]
    for t, output in zip(scheduler.timesteps, outputs, strict=False):
        sample = scheduler.step(output, t, sample).prev_sample
    kept = {tensor.data_ptr() for tensor in scheduler._stored}
    # the second evaluation repeats the first step and is not kept
    assert {output.data_ptr() for output in outputs[-3:]} <= kept
    assert all(torch.equal(a, b) for a, b in zip(outputs, before, strict=True))
    scheduler.set_timesteps(10)
    assert scheduler._stored == []


def test_pndm_takes_outputs_of_another_layout_and_type():
    results = []
    for convert in (lambda t: t, lambda t: t.to(memory_format=torch.channels_last).double()):
        scheduler = septet.PNDMScheduler()
        scheduler.set_timesteps(5)
        sample = X
        for i, t in enumerate(scheduler.timesteps):
            sample = scheduler.step(convert(M + i), t, sample).prev_sample
        results.append(sample)
    assert torch.equal(*results)
