"""PNDM's other conventions against the loops of diffusers 0.0.4 and of the authors.

Both are written out here in float64 from the public code: ``schedulers/scheduling_pndm.py`` and
``pipelines/pndm`` of diffusers 0.0.4, ``runner/method.py`` (gen_order_4) of luping-liu/PNDM.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import septet
from septet.sampling import SamplingLoop

T = 1000
SCHEDULES = {
    "linear": np.linspace(1e-4, 0.02, T),
    "scaled_linear": np.linspace(0.01, 0.02**0.5, T) ** 2,
}
# odd strides (15, 47), even ones (10, 50), and more timesteps than asked for (15, 47)
COUNTS = (4, 10, 15, 47, 50)


def network(x, t):
    return np.sin(1.3 * x + t / 300) * 0.8 + 0.1


@pytest.fixture
def start():
    return np.random.default_rng(0).standard_normal((2, 3, 4, 4))


def transfer(x, t, t_next, et, alphas_cumprod):
    """The same in both: alphas_cumprod is read one later."""
    at, at_next = alphas_cumprod[int(t) + 1], alphas_cumprod[int(t_next) + 1]
    x_part = x / (at**0.5 * (at**0.5 + at_next**0.5))
    et_part = et / (at**0.5 * (((1 - at_next) * at) ** 0.5 + ((1 - at) * at_next) ** 0.5))
    return x + (at_next - at) * (x_part - et_part)


def multistep(ets):
    return (55 * ets[-1] - 59 * ets[-2] + 37 * ets[-3] - 9 * ets[-4]) / 24


def early(x, alphas_cumprod, steps, told):
    stride = T // steps
    times = list(range(0, T, stride))
    warmup = np.array(times[-4:]).repeat(2) + np.tile([0, stride // 2], 4)
    warmup = list(reversed(warmup[:-1].repeat(2)[1:-1]))
    ets, residual_sum, saved = [], 0, None
    for i, t in enumerate(warmup):
        told.append(t)
        residual = network(x, t)
        if i % 4 == 0:
            ets.append(residual)
            saved = x
        residual_sum = residual_sum + residual * (1 / 6, 1 / 3, 1 / 3, 1 / 6)[i % 4]
        if i % 4 == 3:
            residual, residual_sum = residual_sum, 0
        t_next = warmup[min(i + 1, len(warmup) - 1)]
        x = transfer(saved, warmup[i // 4 * 4], t_next, residual, alphas_cumprod)
    times = list(reversed(times[:-3]))
    for i, t in enumerate(times):
        told.append(t)
        ets.append(network(x, t))
        x = transfer(x, t, times[min(i + 1, len(times) - 1)], multistep(ets), alphas_cumprod)
    return x


def original(x, alphas_cumprod, steps, told):
    def model(x, t):
        told.append(t)
        return network(x, t)

    times = range(0, T, T // steps)
    ets = []
    for t, t_next in zip(reversed(times), reversed([-1, *times[:-1]]), strict=True):
        middle = (t + t_next) / 2
        if len(ets) > 2:
            ets.append(model(x, t))
            noise = multistep(ets)
        else:
            e_1 = model(x, t)
            ets.append(e_1)
            e_2 = model(transfer(x, t, middle, e_1, alphas_cumprod), middle)
            e_3 = model(transfer(x, t, middle, e_2, alphas_cumprod), middle)
            e_4 = model(transfer(x, t, t_next, e_3, alphas_cumprod), t_next)
            noise = (e_1 + 2 * e_2 + 2 * e_3 + e_4) / 6
        x = transfer(x, t, t_next, noise, alphas_cumprod)
    return x


def run(scheduler, sample):
    for t in scheduler.timesteps:
        output = torch.from_numpy(network(sample.double().numpy(), t.item())).to(sample)
        sample = scheduler.step(output, t, sample).prev_sample
    return sample.double().numpy()


@pytest.mark.parametrize("steps", COUNTS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("loop", [early, original])
def test_runs(loop, schedule, steps, start):
    told = []
    expected = loop(start, np.cumprod(1 - SCHEDULES[schedule]), steps, told)
    scheduler = septet.PNDMScheduler(variant=loop.__name__, beta_schedule=schedule)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 2e-5)):
        scheduler.set_timesteps(steps)
        assert scheduler.timesteps.tolist() == told
        got = run(scheduler, torch.from_numpy(start).to(dtype))
        assert np.abs(got - expected).max() < tolerance * np.abs(expected).max()


def test_kind_of_timesteps():
    for variant, dtype in (
        ("modern", torch.int64),
        ("early", torch.int64),
        ("original", torch.float32),
    ):
        scheduler = septet.PNDMScheduler(variant=variant)
        scheduler.set_timesteps(47)
        assert scheduler.timesteps.dtype == dtype
    assert scheduler.timesteps[1] == scheduler.timesteps[0] - 21 / 2


def test_the_last_step_of_early_is_none():
    scheduler = septet.PNDMScheduler(variant="early")
    scheduler.set_timesteps(50)
    last = scheduler.table().rows[-1]
    assert (last.base, abs(last.output)) == (1.0, 0.0)


@pytest.mark.parametrize("steps", [101, 300, 333, 1000])
@pytest.mark.parametrize("variant", ["early", "original"])
def test_timesteps_without_a_noise_level_are_refused(variant, steps):
    """Where the old code ended in an IndexError: T - 1 is a timestep."""
    scheduler = septet.PNDMScheduler(variant=variant)
    with pytest.raises(ValueError, match="num_inference_steps"):
        scheduler.set_timesteps(steps)
    assert scheduler.num_inference_steps is None


@pytest.mark.parametrize("variant", ["early", "original"])
def test_fewer_steps_than_runge_kutta_needs_are_refused(variant):
    with pytest.raises(ValueError, match="num_inference_steps"):
        septet.PNDMScheduler(variant=variant).set_timesteps(3)


@pytest.mark.parametrize(
    "option",
    [
        {"skip_prk_steps": True},
        {"set_alpha_to_one": True},
        {"prediction_type": "v_prediction"},
        {"timestep_spacing": "trailing"},
        {"steps_offset": 1},
    ],
)
@pytest.mark.parametrize("variant", ["early", "original"])
def test_options_that_came_later_are_refused(variant, option):
    with pytest.raises(ValueError, match=next(iter(option))):
        septet.PNDMScheduler(variant=variant, **option)
    assert septet.PNDMScheduler(variant="modern", **option).config.variant == "modern"


@pytest.mark.parametrize("variant", ["modern", "early", "original"])
def test_the_loop_takes_the_same_steps(variant, start):
    scheduler = septet.PNDMScheduler(variant=variant)
    scheduler.set_timesteps(47)
    table = scheduler.table()

    def model(sample, row):
        return torch.from_numpy(network(sample.numpy(), table.timesteps[row]))

    got = SamplingLoop(table)(model, torch.from_numpy(start))
    np.testing.assert_array_equal(got.numpy(), run(scheduler, torch.from_numpy(start)))
