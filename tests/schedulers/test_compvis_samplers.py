"""DDIM and PNDM against the samplers of CompVis' latent diffusion, on a linear toy model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import septet

DATA = Path(__file__).parents[1] / "data" / "oracles"
ORACLE = json.loads((DATA / "ldm_samplers.json").read_text())
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def make_scheduler(sampler, steps):
    if sampler == "ddim":
        scheduler = septet.DDIMScheduler(clip_sample=False, **SCHEDULE)
    else:
        scheduler = septet.PNDMScheduler(skip_prk_steps=True, **SCHEDULE)
    scheduler.set_timesteps(steps)
    return scheduler


def toy_model(tensors, x, t, condition):
    per_channel = condition.mean(dim=1) @ tensors["input.K"]
    mixed = torch.einsum("oc,nchw->nohw", tensors["input.A"], x)
    return mixed + t / 1000 * tensors["input.P"] + per_channel[:, :, None, None]


@pytest.mark.parametrize("run", range(len(ORACLE["config"]["runs"])))
def test_every_step(run):
    tensors = load_file(DATA / "ldm_samplers.safetensors")
    sampler, steps, eta, guidance_scale, temperature = ORACLE["config"]["runs"][run]
    times = ORACLE["runs_info"][f"run{run}"]["model_call_t"]
    scheduler = make_scheduler(sampler, steps)
    if 1000 % steps == 0:  # otherwise CompVis takes one step more than it was asked for
        assert scheduler.timesteps.tolist() == times
    sample, *noise = tensors[f"noise.run{run}"]
    after = tensors[f"step.run{run}"]
    for i, t in enumerate(times):
        output = toy_model(tensors, sample, t, tensors["input.cond"])
        if guidance_scale != 1:
            free = toy_model(tensors, sample, t, tensors["input.uncond"])
            output = free + guidance_scale * (output - free)
        options = {"eta": eta, "variance_noise": noise[i] * temperature} if eta else {}
        sample = scheduler.step(output, t, sample, **options).prev_sample
        done = i + 1 if sampler == "ddim" else i  # PLMS takes its first step in two goes
        if done:
            torch.testing.assert_close(
                sample, after[done - 1], rtol=0, atol=1e-5 * after[done - 1].abs().max().item()
            )
    assert done == len(after)
