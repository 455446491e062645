"""The samplers on Gaussian data, where the network and the answer are known in closed form.

With data N(m, s^2), independent per pixel, the perfect noise predictor is

    eps(x, t) = sqrt(1 - a) (x - sqrt(a) m) / (a s^2 + 1 - a),    a = alphas_cumprod[t],

and the probability-flow ODE keeps (x - sqrt(a) m) / sqrt(a s^2 + 1 - a) constant.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import septet
from septet.sampling import SamplingLoop

# Four pixels from almost certain to wider than the noise, and where each run starts, in units of
# the standard deviation.
MEAN = torch.tensor([0.7, -0.4, 0.1, 0.0], dtype=torch.float64)
STD = torch.tensor([0.05, 0.3, 1.0, 1.8], dtype=torch.float64)
START = torch.tensor([[1.3, -0.8, 0.5, 1.0]], dtype=torch.float64)

# The process of the usual 1000 steps on a grid so fine that strides and half strides are integers.
T = 16000
BETAS = torch.linspace(0.1 / T, 20 / T, T, dtype=torch.float64)
ALPHAS_CUMPROD = (1 - BETAS).cumprod(0)
STEPS = [40, 80, 160, 320]


def marginal(a, z, shape=(4,)):
    """A point of the distribution at a noise level: the same z along an exact trajectory."""
    mean, std = MEAN.reshape(shape), STD.reshape(shape)
    return a**0.5 * mean + (a * std**2 + 1 - a) ** 0.5 * z


def predict_noise(x, a, shape=(4,)):
    mean, std = MEAN.reshape(shape), STD.reshape(shape)
    return (1 - a) ** 0.5 * (x - a**0.5 * mean) / (a * std**2 + 1 - a)


def discretisation_error(name, steps, end, **config):
    """Sample down to timestep ``end`` and return the distance from the exact solution."""
    scheduler = getattr(septet, name)(
        num_train_timesteps=T, beta_start=0.1 / T, beta_end=20 / T, **config
    )
    scheduler.set_timesteps(steps)
    x = marginal(ALPHAS_CUMPROD[scheduler.timesteps[0]], START)
    for t in scheduler.timesteps:
        if t == end:
            break
        x = scheduler.step(predict_noise(x, ALPHAS_CUMPROD[t]), t, x).prev_sample
    return (x - marginal(ALPHAS_CUMPROD[end], START)).norm().item()


def orders(errors):
    """The order between neighbours, each of which has twice the steps."""
    return [np.log2(a / b) for a, b in itertools.pairwise(errors)]


@pytest.mark.parametrize("end", [0, T // 5])
def test_ddim_converges_at_order_1(end):
    errors = [discretisation_error("DDIMScheduler", n, end, clip_sample=False) for n in STEPS]
    assert orders(errors) == pytest.approx([1.0] * 3, abs=0.1)


@pytest.mark.parametrize("skip_prk_steps", [False, True])
def test_pndm_converges_at_order_2(skip_prk_steps):
    """Nearer the end the noise level grows like a square root of time, and no rule has its order.

    The multistep rule is of order 4 in the outputs, the transfer of order 2 in the sample.
    """
    config = {"skip_prk_steps": skip_prk_steps}
    errors = [discretisation_error("PNDMScheduler", n, T // 5, **config) for n in STEPS]
    assert min(orders(errors)) >= 1.9


@pytest.mark.parametrize("skip_prk_steps", [False, True])
@pytest.mark.parametrize("end", [0, T // 5])
def test_pndm_is_more_accurate_than_ddim(end, skip_prk_steps):
    for steps in STEPS:
        ddim = discretisation_error("DDIMScheduler", steps, end, clip_sample=False)
        pndm = discretisation_error("PNDMScheduler", steps, end, skip_prk_steps=skip_prk_steps)
        assert pndm < ddim


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_ddpm_has_the_moments_of_its_own_recursion(variance_type):
    """Every step is linear with Gaussian noise: x' = gain x + shift + std z, exactly."""
    count, shape = 40_000, (4, 1)
    scheduler = septet.DDPMScheduler(clip_sample=False, variance_type=variance_type)
    scheduler.set_timesteps(50)
    cumprod = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))

    mean, variance = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    for t, row in zip(scheduler.timesteps.tolist(), scheduler.table().rows, strict=True):
        slope = predict_noise(torch.ones(4), cumprod[t]) - predict_noise(torch.zeros(4), cumprod[t])
        offset = predict_noise(torch.zeros(4), cumprod[t])
        assert row.pred_original == 0  # folded into the two others, as nothing is clipped
        gain = row.base + row.output * slope
        mean = gain * mean + row.output * offset
        variance = gain**2 * variance + row.noise**2

    def model(sample, row):
        a = cumprod[scheduler.timesteps[row]]
        return predict_noise(sample, a, shape)

    seeds = septet.PhiloxSeeds([0])
    start = septet.randn_tensor((1, 4, count), seeds, dtype=torch.float64)
    samples = SamplingLoop(scheduler.table(), generator=seeds)(model, start)[0]

    assert ((samples.mean(dim=1) - mean).abs() < 4 * (variance / count).sqrt()).all()
    # an entry of a sample covariance has the variance (v_i v_j + c_ij^2) / (n - 1)
    expected = torch.diag(variance)
    spread = ((torch.outer(variance, variance) + expected**2) / (count - 1)).sqrt()
    assert ((samples.cov() - expected).abs() < 4 * spread).all()
