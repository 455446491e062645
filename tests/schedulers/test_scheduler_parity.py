"""The schedulers against diffusers 0.42: timesteps, every step, and inside its pipelines."""

from __future__ import annotations

import pytest
import torch

import septet

diffusers = pytest.importorskip("diffusers")

NAMES = ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler")
# diffusers takes 1 - alphas_cumprod[t] / alphas_cumprod[t - 1] in float32, which costs it up to
# four digits where steps are short; septet's tables are float64
TOLERANCE = 2e-4


def both(name, **config):
    return getattr(septet, name)(**config), getattr(diffusers, name)(**config)


def assert_steps_agree(ours, theirs, *, learned=False, **step):
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(2, 3, 5, 7, generator=generator)
    pattern = torch.randn(3, 5, 7, generator=generator)
    sources = [torch.Generator().manual_seed(1) for _ in range(2)]
    for t in theirs.timesteps:
        output = 0.9 * sample + pattern * float(t) / 1000
        if learned:
            output = torch.cat([output, torch.rand(sample.shape, generator=generator)], dim=1)
        results = []
        for scheduler, source in zip((ours, theirs), sources, strict=True):
            noise = {} if "PNDM" in type(scheduler).__name__ else {"generator": source}
            results.append(scheduler.step(output, t, sample, **noise, **step))
        for got, expected in zip(results[0], results[1].values(), strict=True):
            torch.testing.assert_close(
                got, expected, rtol=0, atol=TOLERANCE * expected.abs().max().item()
            )
        sample = results[1].prev_sample
    assert torch.equal(sources[0].get_state(), sources[1].get_state())


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("name", NAMES)
def test_timesteps_are_those_of_diffusers(name, spacing):
    ours, theirs = both(name, timestep_spacing=spacing, num_train_timesteps=100)
    for steps in range(4, 101):
        ours.set_timesteps(steps)
        theirs.set_timesteps(steps)
        # rounding gives diffusers a timestep of -1 in some trailing lists
        assert ours.timesteps.tolist() == [t for t in theirs.timesteps.tolist() if t >= 0]
        assert ours.timesteps.dtype == torch.int64


def test_trailing_timesteps_never_go_below_zero():
    scheduler = septet.DDIMScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(61)
    assert len(scheduler.timesteps) == 61
    assert scheduler.timesteps[-1] == 15


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("clip", [True, False])
def test_ddpm_steps(prediction_type, spacing, clip):
    ours, theirs = both(
        "DDPMScheduler",
        prediction_type=prediction_type,
        timestep_spacing=spacing,
        clip_sample=clip,
        clip_sample_range=0.7,
    )
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(13)
    assert_steps_agree(ours, theirs)


@pytest.mark.parametrize(
    "variance_type", ["fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range"]
)
def test_ddpm_variance_types(variance_type):
    ours, theirs = both("DDPMScheduler", variance_type=variance_type)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(20)
    assert_steps_agree(ours, theirs, learned=variance_type.startswith("learned"))


def test_ddpm_all_training_steps_without_set_timesteps():
    assert_steps_agree(*both("DDPMScheduler", num_train_timesteps=200, beta_end=0.1))


def test_ddpm_custom_timesteps():
    ours, theirs = both("DDPMScheduler")
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(timesteps=[999, 700, 333, 100, 5, 0])
    assert_steps_agree(ours, theirs)


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler"])
@pytest.mark.parametrize(
    "config",
    [
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": torch.linspace(0.001, 0.02, 1000).tolist()},
        {"steps_offset": 1},
        {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
        {
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
            "prediction_type": "v_prediction",
        },
        {"thresholding": True, "sample_max_value": 1.5, "dynamic_thresholding_ratio": 0.9},
    ],
    ids=lambda config: "-".join(config),
)
def test_configurations(name, config):
    ours, theirs = both(name, **config)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(10)
    assert_steps_agree(ours, theirs)


@pytest.mark.parametrize("schedule", ["sigmoid", "laplace"])
def test_ddpm_beta_schedules(schedule):
    ours, theirs = both("DDPMScheduler", beta_schedule=schedule)
    torch.testing.assert_close(ours.betas, theirs.betas, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("reclip", [True, False])
@pytest.mark.parametrize("set_alpha_to_one", [True, False])
def test_ddim_steps(prediction_type, eta, reclip, set_alpha_to_one):
    ours, theirs = both(
        "DDIMScheduler", prediction_type=prediction_type, set_alpha_to_one=set_alpha_to_one
    )
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(12)
    assert_steps_agree(ours, theirs, eta=eta, use_clipped_model_output=reclip)


def test_ddim_takes_timesteps_outside_its_list():
    ours, theirs = both("DDIMScheduler")
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(10)
    sample, output = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        ours.step(output, 123, sample).prev_sample, theirs.step(output, 123, sample).prev_sample
    )


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("steps", [4, 5, 20, 1000])
def test_pndm_steps(prediction_type, skip, spacing, steps):
    ours, theirs = both(
        "PNDMScheduler",
        prediction_type=prediction_type,
        skip_prk_steps=skip,
        timestep_spacing=spacing,
    )
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(steps)
    ours.timesteps, theirs.timesteps = ours.timesteps[:40], theirs.timesteps[:40]
    assert_steps_agree(ours, theirs)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_pndm_few_steps_without_runge_kutta(steps):
    ours, theirs = both("PNDMScheduler", skip_prk_steps=True, set_alpha_to_one=True)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(steps)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    assert_steps_agree(ours, theirs)


def test_pndm_runs_again_after_an_interrupted_run():
    scheduler = septet.PNDMScheduler()
    sample = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(0))

    def run(count):
        scheduler.set_timesteps(10)
        state = sample
        for t in scheduler.timesteps[:count]:
            state = scheduler.step(state.sin(), t, state).prev_sample
        return state

    complete = run(19)
    run(7)
    assert torch.equal(run(19), complete)


@pytest.mark.parametrize("name", NAMES)
def test_float32_tables_diffuse_as_diffusers_bit_for_bit(name):
    ours = getattr(septet, name)(table_dtype="float32", beta_schedule="scaled_linear")
    theirs = getattr(diffusers, name)(beta_schedule="scaled_linear")
    assert torch.equal(ours.betas, theirs.betas)
    assert torch.equal(ours.alphas_cumprod, theirs.alphas_cumprod)
    clean, noise = torch.randn(2, 1000, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    operands = (clean, noise, torch.arange(1000))
    assert torch.equal(ours.add_noise(*operands), theirs.add_noise(*operands))
    if name != "PNDMScheduler":
        assert torch.equal(ours.get_velocity(*operands), theirs.get_velocity(*operands))


@pytest.mark.parametrize("name", NAMES)
def test_add_noise(name):
    ours, theirs = both(name)
    clean, noise = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([0, 500, 999])
    torch.testing.assert_close(
        ours.add_noise(clean, noise, timesteps), theirs.add_noise(clean, noise, timesteps)
    )
    if name != "PNDMScheduler":
        torch.testing.assert_close(
            ours.get_velocity(clean, noise, timesteps), theirs.get_velocity(clean, noise, timesteps)
        )
    assert torch.equal(ours.scale_model_input(clean, 3), clean)
    assert (ours.init_noise_sigma, ours.order, len(ours)) == (1.0, 1, 1000)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_other_types_stay_close_to_float32(name, dtype):
    results = []
    for kind in (torch.float32, dtype):
        scheduler = getattr(septet, name)()
        scheduler.set_timesteps(4)
        sample = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
        output = scheduler.step(sample.to(kind) * 0.5, scheduler.timesteps[0], sample.to(kind))
        assert output.prev_sample.dtype == kind
        results.append(output.prev_sample.float())
    if name != "DDPMScheduler":  # which draws other noise for other types
        torch.testing.assert_close(*results, rtol=1e-2, atol=1e-2)
