"""Whole runs against the loops of the papers, written out here in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import septet

T = 1000
BETAS = np.linspace(1e-4, 0.02, T)
ALPHAS_CUMPROD = np.cumprod(1 - BETAS)


def network(x, t):
    return np.sin(1.3 * x + t / 300) * 0.8 + 0.1


@pytest.fixture
def start():
    return np.random.default_rng(0).standard_normal((2, 3, 4, 4))


def run(scheduler, start, noise=None, dtype=torch.float64, **step):
    sample = torch.from_numpy(start).to(dtype)
    noise = iter([] if noise is None else noise)
    table = scheduler.table(**step)
    for row, t in enumerate(scheduler.timesteps.tolist()):
        output = torch.from_numpy(network(sample.double().numpy(), t)).to(dtype)
        options = dict(step)
        if table.adds_noise(row):
            options["variance_noise"] = torch.from_numpy(next(noise)).to(dtype)
        sample = scheduler.step(output, t, sample, **options).prev_sample
    return sample.double().numpy()


def test_ddpm_algorithm_2(start):
    """Ho et al. (2020), algorithm 2, in the form of equation 11 (no clipping)."""
    noise = np.random.default_rng(1).standard_normal((T - 1, *start.shape))
    x = start
    for t in range(T - 1, -1, -1):
        eps = network(x, t)
        alpha, beta = 1 - BETAS[t], BETAS[t]
        x = (x - beta / math.sqrt(1 - ALPHAS_CUMPROD[t]) * eps) / math.sqrt(alpha)
        if t > 0:
            x = x + math.sqrt(beta) * noise[T - 1 - t]
    scheduler = septet.DDPMScheduler(clip_sample=False, variance_type="fixed_large")
    np.testing.assert_allclose(run(scheduler, start, noise), x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("variance_type", ["fixed_large", "fixed_large_log"])
def test_ddpm_fixed_large_log_is_the_square_root_of_beta(variance_type):
    scheduler = septet.DDPMScheduler(variance_type=variance_type)
    rows = scheduler.table().rows
    assert [row.noise for row in rows[:-1]] == pytest.approx(np.sqrt(BETAS[:0:-1]).tolist())


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_ddim_equation_12(start, eta):
    """Song et al. (2021), equations 12 and 16."""
    steps, stride = 50, 20
    noise = np.random.default_rng(1).standard_normal((steps, *start.shape))
    x = start
    for i, t in enumerate(range(T - stride, -1, -stride)):
        a = ALPHAS_CUMPROD[t]
        b = ALPHAS_CUMPROD[t - stride] if t >= stride else 1.0
        sigma = eta * math.sqrt((1 - b) / (1 - a)) * math.sqrt(1 - a / b)
        eps = network(x, t)
        x0 = (x - math.sqrt(1 - a) * eps) / math.sqrt(a)
        x = math.sqrt(b) * x0 + math.sqrt(1 - b - sigma**2) * eps + sigma * noise[i]
    scheduler = septet.DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(steps)
    got = run(scheduler, start, noise, eta=eta)
    np.testing.assert_allclose(got, x, rtol=1e-8, atol=1e-8)


def transfer(x, eps, t, s, final=ALPHAS_CUMPROD[0]):
    """Liu et al. (2022), equation 11, as the authors' code writes it."""
    a, b = ALPHAS_CUMPROD[t], ALPHAS_CUMPROD[s] if s >= 0 else final
    x_part = x / (math.sqrt(a) * (math.sqrt(a) + math.sqrt(b)))
    eps_part = eps / (math.sqrt(a) * (math.sqrt((1 - b) * a) + math.sqrt((1 - a) * b)))
    return x + (b - a) * (x_part - eps_part)


def test_pndm_algorithm_2(start):
    """Liu et al. (2022), algorithm 2: equation 13 three times, then equation 12."""
    stride, half = 20, 10
    times = list(range(T - stride, -1, -stride))
    x, history = start, []
    for t in times[:3]:
        e1 = network(x, t)
        e2 = network(transfer(x, e1, t, t - half), t - half)
        e3 = network(transfer(x, e2, t, t - half), t - half)
        e4 = network(transfer(x, e3, t, t - stride), t - stride)
        history.append(e1)
        x = transfer(x, (e1 + 2 * e2 + 2 * e3 + e4) / 6, t, t - stride)
    for t in times[3:]:
        history.append(network(x, t))
        e = 55 * history[-1] - 59 * history[-2] + 37 * history[-3] - 9 * history[-4]
        x = transfer(x, e / 24, t, t - stride)
    scheduler = septet.PNDMScheduler()
    scheduler.set_timesteps(50)
    np.testing.assert_allclose(run(scheduler, start), x, rtol=1e-8, atol=1e-8)


def test_pndm_without_runge_kutta(start):
    """The PLMS sampler of Rombach et al. (2022): lower orders first, step one twice."""
    stride = 20
    times = list(range(T - stride, -1, -stride))
    e0 = network(start, times[0])
    e1 = network(transfer(start, e0, times[0], times[1]), times[1])
    x, history = transfer(start, (e0 + e1) / 2, times[0], times[1]), [e0]
    weights = {2: (3, -1), 3: (23, -16, 5), 4: (55, -59, 37, -9)}
    for t in times[1:]:
        history.append(network(x, t))
        w = weights[min(len(history), 4)]
        e = sum(a * b for a, b in zip(w, reversed(history), strict=False)) / sum(w)
        x = transfer(x, e, t, t - stride)
    scheduler = septet.PNDMScheduler(skip_prk_steps=True)
    scheduler.set_timesteps(50)
    np.testing.assert_allclose(run(scheduler, start), x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler", "PNDMScheduler"])
def test_float32_runs_do_not_drift(name, start):
    scheduler = getattr(septet, name)()
    noise = np.random.default_rng(1).standard_normal((T, *start.shape))
    results = []
    for dtype in (torch.float32, torch.float64):
        scheduler.set_timesteps(50)
        results.append(run(scheduler, start, noise, dtype))
    single, double = results
    assert np.abs(single - double).max() < 5e-6 * np.abs(double).max()
