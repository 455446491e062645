"""The sampling loop: the same numbers as stepping by hand, callbacks, interruption, noise."""

from __future__ import annotations

import pytest
import torch

import septet
from septet.ops import StepRow
from septet.sampling import SamplingLoop
from septet.schedulers import StepTable

SHAPE = (2, 3, 4, 4)


def make(name, steps=8, **config):
    scheduler = getattr(septet, name)(**config)
    scheduler.set_timesteps(steps)
    return scheduler


def model_for(table):
    return lambda sample, row: (sample * 0.8 + table.timesteps[row] / 1000).sin()


def noise(seed=0):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def by_hand(scheduler, generator, **step):
    table, sample = scheduler.table(**step), noise()
    options = {} if isinstance(scheduler, septet.PNDMScheduler) else {"generator": generator}
    for row, t in enumerate(scheduler.timesteps):
        output = model_for(table)(sample, row)
        sample = scheduler.step(output, t, sample, **options, **step).prev_sample
    return sample


CASES = [
    ("DDPMScheduler", {}, {}),
    ("DDPMScheduler", {"thresholding": True, "sample_max_value": 1.5}, {}),
    ("DDIMScheduler", {}, {"eta": 0.0}),
    ("DDIMScheduler", {}, {"eta": 0.6}),
    ("PNDMScheduler", {}, {}),
    ("PNDMScheduler", {"skip_prk_steps": True}, {}),
]


def generators():
    return [
        lambda: torch.Generator().manual_seed(5),
        lambda: [torch.Generator().manual_seed(i) for i in range(2)],
        lambda: septet.PhiloxSeeds([3, 4]),
    ]


@pytest.mark.parametrize("source", generators(), ids=["generator", "list", "philox"])
@pytest.mark.parametrize(("name", "config", "step"), CASES)
def test_loop_is_the_same_as_steps(name, config, step, source):
    scheduler = make(name, **config)
    table = scheduler.table(**step)
    hand, loop = source(), source()
    expected = by_hand(scheduler, hand, **step)
    got = SamplingLoop(table, generator=loop)(model_for(table), noise())
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    if isinstance(loop, septet.PhiloxSeeds):
        assert loop.offset == hand.offset


def test_philox_samples_do_not_depend_on_the_batch():
    table = make("DDPMScheduler").table()
    start = septet.randn_tensor((3, 3, 4, 4), septet.PhiloxSeeds([1, 2, 3]))
    seeds = septet.PhiloxSeeds([1, 2, 3], offset=48)
    together = SamplingLoop(table, generator=seeds)(model_for(table), start)
    for i in range(3):
        seed = septet.PhiloxSeeds([i + 1], offset=48)
        alone = SamplingLoop(table, generator=seed)(model_for(table), start[i : i + 1])
        assert torch.equal(alone[0], together[i])


def test_guided_models_return_pairs():
    table = make("DDIMScheduler").table().with_guidance(3.0)
    plain = make("DDIMScheduler").table()
    model = model_for(plain)

    def pair(sample, row):
        return model(sample, row), model(sample, row) * 0.5

    def mixed(sample, row):
        cond, uncond = pair(sample, row)
        return uncond + 3.0 * (cond - uncond)

    got = SamplingLoop(table)(pair, noise())
    torch.testing.assert_close(got, SamplingLoop(plain)(mixed, noise()))


def test_mu_and_mask_reach_the_step():
    table = StepTable([StepRow(output=0.0, prior_mean=2.0)], [0.5])
    mask = torch.zeros(2, 1, 4, 4)
    mask[0] = 1
    got = SamplingLoop(table)(lambda sample, row: sample, noise(), noise(1), mask)
    assert torch.equal(got, 2 * noise(1) * mask)


def test_callback_sees_and_replaces():
    table = make("DDIMScheduler").table()
    seen, originals = [], []

    def callback(row, timestep, tensors):
        seen.append((row, timestep, sorted(tensors)))
        originals.append(tensors["pred_original_sample"])
        return torch.zeros(SHAPE, dtype=torch.float64) if row == 7 else None

    loop = SamplingLoop(
        table, callback=callback, callback_tensors=["sample", "pred_original_sample"]
    )
    got = loop(model_for(table), noise())
    assert torch.equal(got, torch.zeros(SHAPE))
    first = make("DDIMScheduler").step(model_for(table)(noise(), 0), 875, noise())
    torch.testing.assert_close(originals[0], first.pred_original_sample)
    names = ["pred_original_sample", "sample"]
    assert seen == [(i, t, names) for i, t in enumerate(table.timesteps)]


def test_callback_must_keep_the_shape():
    table = make("DDIMScheduler").table()
    loop = SamplingLoop(table, callback=lambda *_: torch.zeros(1))
    with pytest.raises(ValueError, match="shape"):
        loop(model_for(table), noise())


def test_interrupted_before_a_step():
    table = make("DDIMScheduler").table()
    calls = []

    def model(sample, row):
        calls.append(row)
        return sample

    SamplingLoop(table, interrupted=lambda: len(calls) == 3)(model, noise())
    assert calls == [0, 1, 2]


def test_wrong_generators_are_refused():
    table = make("DDPMScheduler").table()
    for generator in ([torch.Generator()] * 3, septet.PhiloxSeeds([1])):
        with pytest.raises(ValueError, match="generator"):
            SamplingLoop(table, generator=generator)(model_for(table), noise())


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler", "PNDMScheduler"])
def test_channels_last_samples(name):
    table = make(name).table()
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        start = noise().to(memory_format=layout)
        loop = SamplingLoop(table, generator=torch.Generator().manual_seed(0))
        results.append(loop(model_for(table), start))
    assert results[1].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


def test_no_gradients_and_empty_batches():
    table = make("PNDMScheduler").table()
    weight = torch.ones((), requires_grad=True)
    got = SamplingLoop(table)(lambda sample, row: sample * weight, torch.empty(0, 3, 4, 4))
    assert got.shape == (0, 3, 4, 4)
    assert not got.requires_grad
