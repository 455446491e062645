"""Every option, alone and in all pairs, step by step against diffusers in float32 and float64.

Each run is teacher-forced: all schedulers get the same sample, output and noise in every step, so
that the errors below are those of one step. They are relative to the largest value of the result.
"""

from __future__ import annotations

import inspect
import itertools
import math

import numpy as np
import pytest
import torch

import septet
from septet.testing.tolerances import relative_error

diffusers = pytest.importorskip("diffusers")
from diffusers.schedulers import scheduling_ddpm  # noqa: E402

# Of float32 steps against the same in float64, and of float32 tables against diffusers'.
CLOSE = 2e-5
# Of float64 tables against diffusers' float32 ones.
NEAR = 2e-4
STEPS = 6

# Values other than the defaults. The process still ends at alphas_cumprod of 1e-4 or so: what is
# not clipped of an estimate of the clean sample has float32 errors times 1 / sqrt(alphas_cumprod).
COMMON = {
    "num_train_timesteps": [250],
    "beta_start": [0.001],
    "beta_end": [0.018],
    "beta_schedule": ["scaled_linear", "squaredcos_cap_v2"],
    "trained_betas": [np.linspace(0.0005, 0.016, 1000).tolist()],
    "timestep_spacing": ["linspace", "trailing"],
    "steps_offset": [1],
    "prediction_type": ["sample", "v_prediction"],
}
CLAMPED = {
    "clip_sample": [False],
    "clip_sample_range": [0.6],
    "thresholding": [True],
    "dynamic_thresholding_ratio": [0.8],
    "sample_max_value": [1.7],
    "rescale_betas_zero_snr": [True],
}
OPTIONS = {
    "DDPMScheduler": COMMON
    | CLAMPED
    | {
        "beta_schedule": ["scaled_linear", "squaredcos_cap_v2", "laplace", "sigmoid"],
        "variance_type": [
            "fixed_small_log",
            "fixed_large",
            "fixed_large_log",
            "learned",
            "learned_range",
        ],
    },
    "DDIMScheduler": COMMON
    | CLAMPED
    | {
        "set_alpha_to_one": [False],
        "step.eta": [0.4, 1.0],
        "step.use_clipped_model_output": [True],
    },
    "PNDMScheduler": COMMON
    | {
        "prediction_type": ["v_prediction"],
        "skip_prk_steps": [True],
        "set_alpha_to_one": [True],
    },
}


def choices():
    for name, options in OPTIONS.items():
        single = [(key, value) for key, values in options.items() for value in values]
        chosen = [(), *((one,) for one in single)]
        chosen += [p for p in itertools.combinations(single, 2) if p[0][0] != p[1][0]]
        for pair in chosen:
            label = [f"{k}={v if not isinstance(v, list) else 'list'}" for k, v in pair]
            yield pytest.param(name, dict(pair), id="-".join([name[:4], *label]))


def alpha_bar(kind, u):
    if kind == "squaredcos_cap_v2":
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    log_snr = -0.5 * math.copysign(1, 0.5 - u) * math.log(1 - 2 * abs(0.5 - u) + 1e-6)
    return math.sqrt(1 / (1 + math.exp(-log_snr)))


def betas_in_float64(config):
    start, end, count = config.beta_start, config.beta_end, config.num_train_timesteps
    kind = config.beta_schedule
    if config.trained_betas is not None:
        betas = np.array(config.trained_betas)
    elif kind == "linear":
        betas = np.linspace(start, end, count)
    elif kind == "scaled_linear":
        betas = np.linspace(start**0.5, end**0.5, count) ** 2
    elif kind == "sigmoid":
        betas = start + (end - start) / (1 + np.exp(-np.linspace(-6, 6, count)))
    else:
        bars = [alpha_bar(kind, i / count) for i in range(count + 1)]
        betas = np.array([min(1 - b / a, 0.999) for a, b in itertools.pairwise(bars)])
    betas = torch.from_numpy(betas)
    if config.get("rescale_betas_zero_snr"):
        betas = scheduling_ddpm.rescale_zero_terminal_snr(betas)
    return betas


def in_float64(name, config):
    """diffusers' own code, with everything it computes from in float64."""
    scheduler = getattr(diffusers, name)(**config)
    scheduler.betas = betas_in_float64(scheduler.config)
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)
    scheduler.one = torch.ones((), dtype=torch.float64)
    if hasattr(scheduler, "final_alpha_cumprod"):
        final = scheduler.one if scheduler.config.set_alpha_to_one else scheduler.alphas_cumprod[0]
        scheduler.final_alpha_cumprod = final
    return scheduler


class Comparison:
    """Four schedulers that take the same steps: both of ours, diffusers, diffusers in float64."""

    def __init__(self, name, config, monkeypatch, steps=STEPS, reference=None):
        self.options = {k[5:]: v for k, v in config.items() if k.startswith("step.")}
        config = {k: v for k, v in config.items() if not k.startswith("step.")}
        self.learned = config.get("variance_type", "").startswith("learned")
        reference = config | (reference or {})
        self.schedulers = {
            "default": getattr(septet, name)(**config),
            "float32": getattr(septet, name)(**config, table_dtype="float32"),
            "theirs": getattr(diffusers, name)(**reference),
            "exact": in_float64(name, reference),
        }
        for scheduler in self.schedulers.values():
            scheduler.set_timesteps(steps)
        # diffusers' DDPM takes no noise, but draws it here
        monkeypatch.setattr(
            scheduling_ddpm, "randn_tensor", lambda *_, dtype, **__: self.noise.to(dtype)
        )

    def steps(self):
        """Yield the results of every step: [sample, estimate of the clean one] by scheduler."""
        generator = torch.Generator().manual_seed(0)
        sample = torch.randn(2, 2, 3, 5, generator=generator)
        for t in self.schedulers["theirs"].timesteps.tolist():
            output = 0.7 * torch.randn(sample.shape, generator=generator) + 0.3 * sample
            if self.learned:
                variance = torch.rand(sample.shape, generator=generator)
                output = torch.cat([output, variance], dim=1)
            self.noise = torch.randn(sample.shape, generator=generator)
            results = {}
            for key, scheduler in self.schedulers.items():
                dtype = torch.float64 if key == "exact" else torch.float32
                options = dict(self.options)
                if "variance_noise" in inspect.signature(scheduler.step).parameters:
                    options["variance_noise"] = self.noise.to(dtype)
                result = scheduler.step(
                    output.to(dtype), t, sample.to(dtype), return_dict=False, **options
                )
                results[key] = [tensor.double() for tensor in result]
            yield results
            sample = 0.8 * sample + 0.3 * self.noise


def assert_close(results):
    for default, float32, theirs, exact in zip(*results.values(), strict=True):
        assert relative_error(default, exact) < CLOSE
        assert relative_error(default, theirs) < NEAR
        assert relative_error(float32, theirs) < CLOSE


@pytest.mark.parametrize(("name", "config"), list(choices()))
def test_steps(name, config, monkeypatch):
    # diffusers' own fixed_large_log is NaN, see below; the closed form is that of fixed_large
    nan = config.get("variance_type") == "fixed_large_log"
    reference = {"variance_type": "fixed_large"} if nan else {}
    run = Comparison(name, config, monkeypatch, reference=reference)
    timesteps = [scheduler.timesteps.tolist() for scheduler in run.schedulers.values()]
    assert all(chosen == timesteps[0] for chosen in timesteps)
    for results in run.steps():
        assert_close(results)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("DDPMScheduler", {}),
        ("DDPMScheduler", {"variance_type": "learned_range", "clip_sample": False}),
        ("DDIMScheduler", {"prediction_type": "sample"}),
        ("PNDMScheduler", {}),
    ],
)
def test_the_shortest_steps(name, config, monkeypatch):
    """Where diffusers loses most: it takes 1 - alpha_t from float32 numbers close to 1."""
    for results in Comparison(name, config, monkeypatch, steps=1000).steps():
        assert_close(results)


def test_diffusers_fixed_large_log_is_nan(monkeypatch):
    """It takes the square root of a logarithm that is negative."""
    run = Comparison("DDPMScheduler", {"variance_type": "fixed_large_log"}, monkeypatch)
    *noisy, last = run.steps()
    for results in noisy:
        for key in ("theirs", "exact"):
            assert results[key][0].isnan().all()
        for key in ("default", "float32"):
            assert results[key][0].isfinite().all()
    assert_close(last)


@pytest.mark.parametrize("limit", [{"clip_sample": False}, {"thresholding": True}])
@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler"])
def test_zero_snr_without_clamp_is_not_finite_as_in_diffusers(name, limit, monkeypatch):
    """x / 0 is infinite, and dynamic thresholding divides that by its own quantile."""
    config = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", **limit}
    first, *others = Comparison(name, config, monkeypatch).steps()
    for default, float32, theirs, exact in zip(*first.values(), strict=True):
        assert not theirs.isfinite().any()
        for tensor in (default, float32, exact):
            torch.testing.assert_close(tensor, theirs, equal_nan=True)
    for results in others:
        assert_close(results)


def test_zero_snr_with_full_noise_is_nan_in_diffusers(monkeypatch):
    """Its direction is sqrt(1 - alpha_prod_t_prev - std_dev_t ** 2), here of zero less rounding."""
    config = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "step.eta": 1.0}
    run = Comparison("DDIMScheduler", config, monkeypatch)
    steps = run.steps()
    first = next(steps)
    assert first["theirs"][0].isnan().all()
    alpha_prod_t_prev = in_float64("DDIMScheduler", {"rescale_betas_zero_snr": True}).alphas_cumprod
    alpha_prod_t_prev = alpha_prod_t_prev[999 - 1000 // STEPS]
    x0, noise = first["exact"][1], run.noise.double()
    expected = alpha_prod_t_prev.sqrt() * x0 + (1 - alpha_prod_t_prev).sqrt() * noise
    for key in ("default", "float32"):
        assert relative_error(first[key][0], expected) < CLOSE
    for results in steps:
        assert_close(results)
