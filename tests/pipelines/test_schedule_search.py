"""The search for noise schedules against stored runs of the authors' code."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from bddm_oracles import Oracle
from septet import BDDMPipeline, BDDMScheduler
from septet.pipelines.schedule_search import ScheduleFollower, starting_points
from septet.testing.tolerances import relative_error
from stored import DATA

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle("bddm_schedule_net")


@pytest.mark.parametrize("run", ["p0.ddpm", "p0.ddim", "p1.ddpm", "p1.ddim"])
def test_schedule_equals_the_authors(oracle: Oracle, run: str) -> None:
    network, schedule_network = oracle.score_network(), oracle.schedule_network()
    noise = iter(oracle.part(f"noise.{run}.").values())
    seen: list[Tensor] = []

    def next_beta(sample: Tensor, beta: Tensor, variance: Tensor) -> Tensor:
        seen.append(sample[:, 0])
        return schedule_network(sample[:, 0], beta, variance)

    follow = ScheduleFollower(
        predict=lambda sample, t: network(sample, t, oracle["input.ref_spec"]).sample,
        next_beta=next_beta,
        draw=lambda: next(noise),
        scheduler=BDDMScheduler(),
        max_steps=oracle.config["N"],
    )
    pair, method = run.split(".")
    schedule = follow(*oracle.config["params"][int(pair[1])], method)
    for name, values in (("ts", schedule.timesteps), ("beta", schedule.betas)):
        expected = oracle[f"output.search.{run}.{name}"]
        assert relative_error(torch.tensor(values), expected) < TOLERANCE
    for sample, expected in zip(seen, oracle.part(f"step.search.{run}.").values(), strict=True):
        assert relative_error(sample, expected) < TOLERANCE


def test_grid_is_that_of_the_authors() -> None:
    grid = json.loads((DATA / "oracles/bddm_tables.json").read_text())["search_grid"]
    ours = starting_points(BDDMScheduler().train_alphas, grid["bddm_search_bins"])
    expected = [tuple(pair) for pair in grid["pairs_alpha_beta_in_order"]]
    assert torch.allclose(torch.tensor(ours), torch.tensor(expected), rtol=1e-6, atol=0)


def test_search_keeps_the_best_of_every_length(oracle: Oracle) -> None:
    pipe = BDDMPipeline(oracle.score_network(), BDDMScheduler(), oracle.schedule_network())
    pipe.set_progress_bar_config(disable=True)
    judged: list[float] = []

    def judge(waveform: Tensor) -> float:
        assert waveform.shape == (512,)
        judged.append(-float(waveform.square().mean()))
        return judged[-1]

    found = pipe.search_schedules(oracle["input.ref_spec"], judge, max_steps=4, bins=2, attempts=1)
    assert found
    assert len(judged) == 2 * (len(starting_points(pipe.scheduler.train_alphas, 2)) + len(found))
    assert max(result.scores[0] for result in found.values()) == max(judged)
    for steps, result in found.items():
        assert len(result.schedule) == steps <= 4
    with pytest.raises(ValueError, match="no schedule_network"):
        BDDMPipeline(pipe.diffwave, BDDMScheduler()).search_schedules(torch.zeros(80, 2), judge)
