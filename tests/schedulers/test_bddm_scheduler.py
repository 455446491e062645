"""BDDM's scheduler against stored runs of the authors' code and of diffusers 0.0.4."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bddm_oracles import Oracle
from septet.errors import CheckpointError
from septet.models import DiffWaveModel
from septet.schedulers import BDDMScheduler, DDPMScheduler, NoiseSchedule
from septet.schedulers.noise_schedule import noise_level_to_timestep
from septet.testing.tolerances import relative_error
from stored import DATA

TOLERANCE = 1e-5
TABLES = json.loads((DATA / "oracles/bddm_tables.json").read_text())


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle("bddm_sampling")


@pytest.fixture(scope="module")
def network(oracle: Oracle) -> DiffWaveModel:
    return oracle.score_network()


def replay(
    scheduler: BDDMScheduler, network: DiffWaveModel, mel: Tensor, noise: list[Tensor]
) -> list[Tensor]:
    """Return the waveform after every step."""
    draws = iter(noise)
    sample, states = next(draws), []
    for row, timestep in enumerate(scheduler.timesteps):
        output = network(sample, timestep, mel).sample
        fresh = next(draws) if scheduler.table().adds_noise(row) else None
        sample = scheduler.step(output, timestep, sample, variance_noise=fresh).prev_sample
        states.append(sample)
    assert next(draws, None) is None
    return states


def worst(states: list[Tensor], expected: list[Tensor]) -> float:
    return max(relative_error(a, b) for a, b in zip(states, expected, strict=True))


@pytest.mark.parametrize("method", ["ddpm", "ddim"])
@pytest.mark.parametrize("name", ["n3", "n5", "n12", "linear", "full"])
def test_runs_equal_the_authors(
    oracle: Oracle, network: DiffWaveModel, name: str, method: str
) -> None:
    run = f"{name}.{method}"
    if run not in oracle.info["runs"]:
        return
    scheduler = BDDMScheduler()
    if name == "full":
        scheduler = BDDMScheduler(
            num_train_timesteps=oracle.config["fullT"],
            beta_end=oracle.config["full_beta_T"],
            schedule=None,
        )
        scheduler.set_timesteps(method=method)
    elif name == "linear":
        scheduler.set_timesteps(oracle.config["ddim_steps"], method=method)
    else:
        betas = oracle.config["betas"].get(name, "lj-12")
        scheduler.set_timesteps(schedule=betas, method=method)
        assert torch.equal(scheduler.timesteps.flip(0), oracle[f"input.schedule.{name}.ts"])
    noise = list(oracle.part(f"noise.{run}.").values())
    states = replay(scheduler, network, oracle["input.mel"], noise)
    assert worst(states, list(oracle.part(f"step.{run}.").values())) < TOLERANCE


@pytest.mark.parametrize("run", range(4))
def test_runs_equal_diffusers_of_2022(run: int, network: DiffWaveModel) -> None:
    early = Oracle("diffwave_early")
    name, clips = early.config["runs"][run]
    schedule = early.config["schedules"][name]
    scheduler = BDDMScheduler.from_config(
        {
            "_class_name": "DDPMScheduler",
            "timesteps": len(schedule["beta"]),
            "trained_betas": schedule["beta"],
            "timestep_values": schedule["ts"],
            "clip_predicted_image": clips,
            "variance_type": "fixed_small",
            "tensor_format": "pt",
        }
    )
    noise = list(early[f"noise.run{run}"])
    states = replay(scheduler, network, early["input.mel"], noise)
    assert worst(states, list(early[f"step.run{run}"])) < TOLERANCE


def test_step_mapping_is_exact() -> None:
    scheduler = BDDMScheduler()
    expected = np.array(TABLES["training"]["alpha"], np.float32)
    assert np.array_equal(scheduler.train_alphas, expected)
    for entry in TABLES["map_noise_scale_to_time_step"]:
        timestep = noise_level_to_timestep(entry["alpha"], scheduler.train_alphas)
        assert timestep == entry["as_float32_tensor"]


@given(position=st.floats(0, 199), first=st.floats(1e-5, 1e-3))
def test_step_mapping_inverts_interpolation(position: float, first: float) -> None:
    alphas = BDDMScheduler(beta_start=first).train_alphas
    level = np.interp(position, np.arange(200), alphas.astype(np.float64))
    # the levels of neighbours differ little at first: float32 leaves fewer digits there
    spacing = 1e-7 / abs(np.diff(alphas.astype(np.float64))).min()
    assert abs(noise_level_to_timestep(level, alphas) - position) <= 1e-4 + spacing


@pytest.mark.parametrize("name", ["lj-12", "lj-7"])
def test_published_schedules(name: str) -> None:
    published = {
        f"lj-{len(entry['b_infer'])}": entry
        for entry in TABLES["published_noise_schedules"].values()
    }[name]
    schedule = NoiseSchedule.published(name)
    assert list(schedule.betas) == published["b_infer"]
    assert list(schedule.timesteps) == published["ts_infer"]


def save(path: Path, *columns: list[float], kind: Any = tuple) -> Path:
    torch.save(kind(torch.tensor(column) for column in columns), path)
    return path


def test_schedule_files(tmp_path: Path) -> None:
    schedule = NoiseSchedule.published("lj-7")
    path = save(tmp_path / "a.ns", list(schedule.timesteps), [0.5], list(schedule.betas), [0.5])
    assert NoiseSchedule.from_file(path) == schedule
    scheduler = BDDMScheduler()
    scheduler.set_timesteps(schedule=path)
    assert scheduler.timesteps.flip(0).tolist() == list(schedule.timesteps)
    ones = [0.1, 0.2]
    for broken in (
        save(tmp_path / "b.ns", ones, ones, ones),
        save(tmp_path / "c.ns", ones, ones, [0.2, 0.1], ones),
        save(tmp_path / "d.ns", [0.2, 0.1], ones, ones, ones),
        save(tmp_path / "e.ns", [0.1, float("nan")], ones, ones, ones),
        save(tmp_path / "f.ns", [], [], [], []),
    ):
        with pytest.raises(CheckpointError, match=broken.name):
            NoiseSchedule.from_file(broken)
    hostile = tmp_path / "g.ns"
    hostile.write_bytes(pickle.dumps(print))
    with pytest.raises(CheckpointError, match="not a file of plain weights"):
        NoiseSchedule.from_file(hostile)


def test_number_of_steps_chooses_the_schedule() -> None:
    scheduler = BDDMScheduler()
    for steps in (12, 7, 8, 200):
        scheduler.set_timesteps(steps)
        assert len(scheduler.timesteps) == len(scheduler.table()) == steps
    for steps in (2, 25, 199):
        scheduler.set_timesteps(steps, method="ddim")
        assert len(scheduler.timesteps) == steps
        assert not any(scheduler.table().adds_noise(row) for row in range(steps))
    own = BDDMScheduler(schedule=[0.001, 0.1, 0.5])
    own.set_timesteps()
    assert len(own.timesteps) == 3


def test_round_trip_of_configurations(tmp_path: Path) -> None:
    betas, timesteps = [0.001, 0.1, 0.5], [1.5, 20.0, 90.25]
    scheduler = BDDMScheduler(schedule=betas, timestep_values=timesteps)
    scheduler.save_pretrained(tmp_path)
    again = BDDMScheduler.from_pretrained(tmp_path)
    assert again.timesteps.tolist() == timesteps[::-1]
    assert torch.equal(again.table().values, scheduler.table().values)
    assert len(BDDMScheduler.from_config(BDDMScheduler()).timesteps) == 12
    assert len(BDDMScheduler.from_config(DDPMScheduler(num_train_timesteps=30)).timesteps) == 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_inference_steps": 5}, "for which there is a noise schedule"),
        ({"num_inference_steps": 0}, "num_inference_steps must be"),
        ({"num_inference_steps": 1, "method": "ddim"}, "num_inference_steps must be 2"),
        ({"method": "euler"}, "method must be one of"),
        ({"schedule": "lj-13"}, "schedule must be one of"),
        ({"schedule": [0.5, 0.1]}, "must lie in .0, 1. and increase"),
        ({"schedule": [0.1, 0.1]}, "must lie in .0, 1. and increase"),
        ({"schedule": [0.0, 0.1]}, "must lie in .0, 1. and increase"),
        ({"schedule": [0.1, 1.0]}, "must lie in .0, 1. and increase"),
        ({"schedule": []}, "schedule must have 1 to 1000 entries"),
        ({"schedule": 3}, "schedule must be a list of numbers"),
        ({"schedule": "lj-7", "num_inference_steps": 12}, "must be that of the schedule, 7"),
    ],
)
def test_bad_choices(options: dict[str, Any], message: str) -> None:
    scheduler = BDDMScheduler()
    with pytest.raises(ValueError, match=message):
        scheduler.set_timesteps(**options)
    assert len(scheduler.timesteps) == 12  # nothing has changed
