"""GLIDE's respacing and coefficients: the authors' tables, closed forms, bad arguments."""

from __future__ import annotations

import itertools
import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import septet
from septet.ops import NoiseKind
from septet.schedulers.timesteps import respaced_timesteps

DATA = Path(__file__).parents[1] / "data" / "oracles"
TABLES = json.loads((DATA / "glide_tables.json").read_text())["schedules"]
CASES = [
    pytest.param(schedule, respacing, id=f"{schedule}-{respacing}")
    for schedule, runs in TABLES.items()
    for respacing in runs
]


def make(respacing="8", **config):
    scheduler = septet.GLIDEScheduler(**config)
    scheduler.set_timesteps(respacing)
    return scheduler


def column(table, name):
    """Return a column in the order of the oracle's tables, which ascend."""
    return np.array([getattr(row, name) for row in table.rows])[::-1]


# -- the authors' tables ------------------------------------------------------------------------


@pytest.mark.parametrize(("schedule", "respacing"), CASES)
def test_tables_of_the_authors(schedule, respacing):
    expected = TABLES[schedule][respacing]
    scheduler = make(respacing, beta_schedule=schedule)
    assert scheduler.timesteps.tolist() == expected["timestep_map"][::-1]
    table = scheduler.table()
    for name, theirs, sign in (
        ("pred_original", "posterior_mean_coef1", 1),
        ("base", "posterior_mean_coef2", 1),
        ("x0_sample", "sqrt_recip_alphas_cumprod", 1),
        ("x0_output", "sqrt_recipm1_alphas_cumprod", -1),
    ):
        # float64 rounding: 1 - alphas_cumprod has 1e-4 of its digits at the first timestep
        np.testing.assert_allclose(
            column(table, name), sign * np.array(expected[theirs]), rtol=1e-11, atol=1e-13
        )
    low, high = column(table, "log_variance_low"), column(table, "log_variance_high")
    np.testing.assert_allclose(low[1:], expected["posterior_log_variance_clipped"][1:], rtol=1e-11)
    np.testing.assert_allclose(high[1:], expected["log_betas"][1:], rtol=1e-11)
    kinds = {row.noise_kind for row in table.rows[:-1]}
    assert kinds == {NoiseKind.LEARNED_RANGE}
    assert (table.rows[-1].noise_kind, table.rows[-1].noise) == (NoiseKind.CONSTANT, 0.0)


# -- respacing ----------------------------------------------------------------------------------

counts = st.integers(2, 600).flatmap(
    lambda total: st.tuples(
        st.just(total),
        st.integers(1, min(5, total)).flatmap(
            lambda n: st.lists(st.integers(0, total // n), min_size=n, max_size=n).filter(any)
        ),
    )
)


@given(counts)
def test_sections(case):
    total, sections = case
    chosen = respaced_timesteps(total, sections)
    assert chosen == sorted(set(chosen))
    assert respaced_timesteps(total, ",".join(map(str, sections))) == chosen
    start = 0
    for index, count in enumerate(sections):
        length = total // len(sections) + (index < total % len(sections))
        here = [t - start for t in chosen if start <= t < start + length]
        assert len(here) == count
        if count > 1:
            assert (here[0], here[-1]) == (0, length - 1)
        for position, t in enumerate(here):
            exact = Fraction(position * (length - 1), max(count - 1, 1))
            assert abs(t - exact) <= Fraction(1, 2) + Fraction(1, 10**6)
        start += length


@given(st.integers(2, 400), st.integers(1, 400))
def test_strides(total, count):
    fits = [s for s in range(1, total) if math.ceil(total / s) == count]
    if not fits:
        with pytest.raises(ValueError, match="does not fit"):
            respaced_timesteps(total, f"ddim{count}")
        return
    assert respaced_timesteps(total, f"ddim{count}") == list(range(0, total, fits[0]))


def test_a_number_is_one_section_and_all_are_all():
    assert respaced_timesteps(1000, 100) == respaced_timesteps(1000, "100")
    assert respaced_timesteps(1000, 1000) == list(range(1000))
    assert respaced_timesteps(1000, 1) == [0]
    assert respaced_timesteps(1000, "ddim25") == list(range(0, 1000, 40))


@pytest.mark.parametrize(
    ("respacing", "match"),
    [
        ("", "must be a number"),
        ("fast", "must be a number"),
        ("10,", "must be a number"),
        ("-3", "must be a number"),
        ([], "must be a number"),
        ([0, 0], "must be a number"),
        (0, "must be a number"),
        (True, "must be a number"),
        (2.5, "must be a number"),
        (None, "must be a number"),
        ([5, None], "must be a number"),
        (1001, "a section of 1000 of the 1000 timesteps cannot give 1001"),
        ("10,600", "a section of 500 of the 1000 timesteps cannot give 600"),
        ([1] * 1001, "does not fit"),
        ("ddim999", "no whole stride"),
        ("ddim", "no whole stride"),
        ("ddim-5", "no whole stride"),
        ("ddim" + "9" * 5000, "no whole stride"),
    ],
)
def test_respacing_that_does_not_fit(respacing, match):
    with pytest.raises(ValueError, match=match):
        make(respacing)


def test_fast27_needs_room():
    assert len(make("fast27", num_train_timesteps=50).timesteps) == 27
    with pytest.raises(ValueError, match="'fast27' does not fit"):
        make("fast27", num_train_timesteps=40)


# -- steps --------------------------------------------------------------------------------------


def test_ddim_with_eta_1_is_ddpm_with_the_smaller_variance():
    for respacing in ("100", "fast27", "ddim25"):
        ddpm, ddim = make(respacing).table(), make(respacing, sampler="ddim").table(eta=1.0)
        for name in ("pred_original", "base", "x0_sample", "x0_output"):
            np.testing.assert_allclose(
                column(ddim, name), column(ddpm, name), rtol=1e-9, atol=1e-12
            )
        small = np.exp(column(ddpm, "log_variance_low") / 2)
        np.testing.assert_allclose(column(ddim, "noise")[1:], small[1:], rtol=1e-9)
        assert column(ddim, "noise")[0] == pytest.approx(0, abs=1e-12)


def original_step(kept, index, x, output, noise, sampler, eta):
    """One step of guided-diffusion, in float64, from its text."""
    betas = np.array([1 - a / b for a, b in zip(kept, [1.0, *kept[:-1]], strict=True)])
    bar = np.cumprod(1 - betas)
    previous = np.append(1.0, bar[:-1])
    variance = betas * (1 - previous) / (1 - bar)
    epsilon, fraction = np.split(output, 2, axis=1)
    x0 = np.clip(np.sqrt(1 / bar[index]) * x - np.sqrt(1 / bar[index] - 1) * epsilon, -1, 1)
    if sampler == "ddpm":
        low = np.log(variance[max(index, 1)])
        log_variance = low + (fraction + 1) / 2 * (np.log(betas[index]) - low)
        mean = betas[index] * np.sqrt(previous[index]) / (1 - bar[index]) * x0
        mean += (1 - previous[index]) * np.sqrt(1 - betas[index]) / (1 - bar[index]) * x
        return mean + (index > 0) * np.exp(log_variance / 2) * noise, x0
    epsilon = (x - np.sqrt(bar[index]) * x0) / np.sqrt(1 - bar[index])
    sigma = eta * np.sqrt(
        (1 - previous[index]) / (1 - bar[index]) * (1 - bar[index] / previous[index])
    )
    mean = np.sqrt(previous[index]) * x0 + np.sqrt(1 - previous[index] - sigma**2) * epsilon
    return mean + sigma * noise, x0


@pytest.mark.parametrize(("sampler", "eta"), [("ddpm", 0.0), ("ddim", 0.0), ("ddim", 0.7)])
@pytest.mark.parametrize("schedule", ["squaredcos_cap_v2", "linear"])
def test_steps_of_the_original(sampler, eta, schedule):
    scheduler = make("6,3,2", sampler=sampler, beta_schedule=schedule)
    timesteps = scheduler.timesteps.tolist()
    if schedule == "linear":
        cumprod = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    else:
        angle = [math.cos((i / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(1001)]
        cumprod = np.cumprod([1 - min(1 - b / a, 0.999) for a, b in itertools.pairwise(angle)])
    draw = torch.Generator().manual_seed(0)
    for row, t in enumerate(timesteps):
        x, noise = torch.randn(2, 2, 3, 5, 5, generator=draw, dtype=torch.float64)
        output = 1.5 * torch.randn(2, 6, 5, 5, generator=draw, dtype=torch.float64)
        got = scheduler.step(output, t, x, eta, variance_noise=noise)
        kept = cumprod[timesteps[::-1]]
        index = len(timesteps) - 1 - row
        expected = original_step(
            kept, index, x.numpy(), output.numpy(), noise.numpy(), sampler, eta
        )
        for ours, theirs in zip(got, expected, strict=True):
            # the coefficients reach the kernel's double precision; x0 loses what 1/bar magnifies
            np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-9, atol=1e-9)


def test_noise_is_drawn_in_every_step():
    """The original does, so its seeds give the same images."""
    for sampler in ("ddpm", "ddim"):
        scheduler = make("3", sampler=sampler)
        generator = torch.Generator().manual_seed(0)
        sample = torch.zeros(1, 3, 4, 4)
        for t in scheduler.timesteps:
            before = generator.get_state()
            scheduler.step(torch.zeros(1, 6, 4, 4), t, sample, generator=generator)
            assert not torch.equal(generator.get_state(), before)


def test_one_step_gives_the_estimate():
    scheduler = make(1)
    sample, output = torch.randn(1, 3, 4, 4), torch.randn(1, 6, 4, 4)
    result = scheduler.step(output, 0, sample)
    torch.testing.assert_close(result.prev_sample, result.pred_original_sample)


def test_without_clamp():
    scheduler = make("4", clip_sample=False)
    sample, output = torch.full((1, 3, 2, 2), 30.0), torch.zeros(1, 6, 2, 2)
    assert scheduler.step(output, 0, sample).prev_sample.min() > 29


def test_configurations_convert(tmp_path):
    early = {"_class_name": "ClassifierFreeGuidanceScheduler", "timesteps": 500}
    assert septet.GLIDEScheduler.from_config(early).config.num_train_timesteps == 500
    ddim = septet.DDIMScheduler(beta_schedule="linear", clip_sample=False)
    converted = septet.GLIDEScheduler.from_config(ddim, sampler="ddim")
    assert converted.config.beta_schedule == "linear"
    assert not converted.config.clip_sample
    converted.save_pretrained(tmp_path)
    loaded = septet.GLIDEScheduler.from_pretrained(tmp_path)
    assert loaded.config.sampler == "ddim"
    assert septet.DDPMScheduler.from_config(loaded).config.beta_schedule == "linear"


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: septet.GLIDEScheduler(sampler="pndm"), "sampler must be one of"),
        (lambda: septet.GLIDEScheduler(clip_sample=1), "clip_sample must be true or false"),
        (lambda: septet.GLIDEScheduler(num_train_timesteps=0), "num_train_timesteps must be"),
        (lambda: septet.GLIDEScheduler(clip_sample_range=-1), "clip_sample_range must be"),
        (lambda: septet.GLIDEScheduler(beta_schedule="x"), "beta_schedule must be one of"),
        (lambda: make(sampler="ddim").table(eta=1.5), "eta must be a number from 0 to 1"),
        (lambda: make(sampler="ddim").table(eta=math.nan), "eta must be a number from 0 to 1"),
        (
            lambda: make().step(torch.zeros(1, 6, 2, 2), 7, torch.zeros(1, 3, 2, 2)),
            "timestep 7 is not one",
        ),
        (
            lambda: make().step(torch.zeros(1, 3, 2, 2), 999, torch.zeros(1, 3, 2, 2)),
            "model_output must have 6 channels, got 3",
        ),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()
