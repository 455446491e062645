"""The Grad-TTS solver against the authors' loop in float64."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import septet
from septet import GradTTSScheduler, SamplingLoop
from septet.errors import CheckpointError

SHAPE = (2, 4, 6)


def score(sample, time):
    """Return a score that depends on everything, so that no term can hide."""
    return torch.tanh(0.3 * sample) - time * torch.cos(sample)


def authors_loop(start, mu, mask, num_steps, stochastic, noises, beta_start, beta_end):
    """Return the samples after every step (Diffusion.reverse_diffusion)."""
    sample, length = start, 1.0 / num_steps
    samples = []
    for step in range(num_steps):
        time = 1.0 - (step + 0.5) * length
        beta = beta_start + (beta_end - beta_start) * time
        estimate = score(sample, time)
        if stochastic:
            change = (0.5 * (mu - sample) - estimate) * beta * length
            change = change + noises[step] * (beta * length) ** 0.5
        else:
            change = 0.5 * (mu - sample - estimate) * beta * length
        sample = (sample - change) * mask
        samples.append(sample)
    return samples


def problem(dtype):
    generator = torch.Generator().manual_seed(3)
    start, mu = (torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = (torch.arange(6) < torch.tensor([[[6]], [[4]]])).double()
    return (tensor.to(dtype) for tensor in (start, mu, mask))


@settings(max_examples=20, deadline=None)
@given(
    num_steps=st.integers(1, 30),
    stochastic=st.booleans(),
    betas=st.tuples(st.floats(0, 1), st.floats(1, 25)),
)
def test_runs_as_the_authors(num_steps, stochastic, betas):
    start, mu, mask = problem(torch.float64)
    scheduler = GradTTSScheduler(*betas)
    scheduler.set_timesteps(num_steps)
    table = scheduler.table(stochastic)
    seed = torch.Generator().manual_seed(5)
    noises = [torch.randn(SHAPE, generator=seed, dtype=torch.float64) for _ in range(num_steps)]
    expected = authors_loop(start, mu, mask, num_steps, stochastic, noises, *betas)
    got = SamplingLoop(table, generator=torch.Generator().manual_seed(5))(
        lambda sample, row: score(sample, table.timesteps[row]), start, mu, mask
    )
    assert (got - expected[-1]).abs().max() <= 1e-11 * max(1, expected[-1].abs().max())


@pytest.mark.parametrize("stochastic", [False, True])
def test_single_steps(stochastic):
    sample, mu, mask = problem(torch.float32)
    scheduler = GradTTSScheduler()
    scheduler.set_timesteps(7)
    noises = [torch.randn(SHAPE) for _ in range(7)]
    expected = authors_loop(sample, mu, mask, 7, stochastic, noises, 0.05, 20.0)
    for step, time in enumerate(scheduler.timesteps):
        output = score(sample, time)
        sample = scheduler.step(
            output, time, sample, mu, mask, stochastic=stochastic, noise=noises[step]
        ).prev_sample
        assert (sample - expected[step]).abs().max() <= 1e-5 * expected[step].abs().max()


def test_times_are_the_middles_of_the_steps():
    scheduler = GradTTSScheduler()
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [0.875, 0.625, 0.375, 0.125]
    assert len(scheduler) == 4


def test_another_number_of_steps_makes_another_table():
    # diffusers 0.1 kept the coefficients of the first run
    scheduler = GradTTSScheduler()
    lengths = []
    for steps in (4, 10, 4):
        scheduler.set_timesteps(steps)
        lengths.append(len(scheduler.table()))
    assert lengths == [4, 10, 4]


def test_saving(tmp_path):
    GradTTSScheduler(0.1, 5.0).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert content == {"_class_name": "GradTTSScheduler", "beta_start": 0.1, "beta_end": 5.0}
    loaded = GradTTSScheduler.from_pretrained(tmp_path)
    assert (loaded.config.beta_start, loaded.config.beta_end) == (0.1, 5.0)


def test_files_of_2022():
    config = {"_class_name": "GradTTSScheduler", "beta_start": 0.05, "beta_end": 20}
    scheduler = GradTTSScheduler.from_config(
        {**config, "timesteps": 1000, "tensor_format": "pt", "timestep_values": None}
    )
    assert scheduler.config.beta_end == 20


def test_the_other_schedulers_stay_apart():
    with pytest.raises(ValueError, match="unknown scheduler configuration key"):
        GradTTSScheduler.from_config(septet.DDPMScheduler(beta_schedule="linear"))
    with pytest.raises(ValueError, match="scheduler must be one of"):
        septet.DDPMPipeline(torch.nn.Identity(), GradTTSScheduler())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: GradTTSScheduler(beta_start=-1), "beta_start"),
        (lambda s: GradTTSScheduler(beta_start=2, beta_end=1), "beta_end"),
        (lambda s: s.set_timesteps(0), "num_inference_steps"),
        (lambda s: s.set_timesteps(True), "num_inference_steps"),
        (lambda s: s.table(1), "stochastic"),
        (lambda s: s.step(torch.zeros(1), 0.123, torch.zeros(1), torch.zeros(1)), "timestep"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call(GradTTSScheduler())


def test_damaged_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError):
        GradTTSScheduler.from_pretrained(tmp_path)
