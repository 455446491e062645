"""GLIDE against stored runs of the authors' code: the networks, then whole guided sampling."""

from __future__ import annotations

import pytest
import torch
from glide_oracles import network, oracle

import septet
from septet.bench.glide_original import OriginalGlide, OriginalSampler, guided
from septet.ops import use_convolution
from septet.testing.tolerances import relative_error

BASES = ("glide_base", "glide_base_wide")
CASES = (*BASES, "glide_upsampler")
# Ten times what another convolution backend changes in the authors' own code.
TOLERANCE = {"glide_base": 4e-4, "glide_base_wide": 7e-5, "glide_upsampler": 1e-3}
# A single call of a network: float32 rounding.
CALL = 1e-5


def images(tensors):
    return {"low_res": tensors["input.low_res"]} if "input.low_res" in tensors else {}


@pytest.mark.parametrize("name", CASES)
def test_text_transformer(name):
    tensors, case = oracle(name)
    hidden, pooled = network(tensors, case).encode_text(
        tensors["input.tokens"], tensors["input.mask"]
    )
    assert relative_error(hidden, tensors["output.xf_out"].transpose(1, 2)) <= CALL
    assert relative_error(pooled, tensors["output.xf_proj"]) <= CALL


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", ["fused", "eager"])
def test_forward(name, backend):
    tensors, case = oracle(name)
    unet = network(tensors, case)
    sample, tokens, mask = (tensors[f"input.{key}"] for key in ("fwd.x", "tokens", "mask"))
    if case["cls"] == "SuperResText2ImUNet":
        sample = sample[:, :3]
    for timestep in case["config"]["fwd_t"]:
        with septet.use_backend(backend):
            output = unet(sample, timestep, tokens=tokens, mask=mask, **images(tensors)).sample
        assert relative_error(output, tensors[f"output.forward.t{timestep}"]) <= CALL


@pytest.mark.parametrize("name", BASES)
def test_states_between_the_blocks(name):
    tensors, case = oracle(name)
    unet = network(tensors, case)
    expected = {k[14:]: v for k, v in tensors.items() if k.startswith("output.hidden.")}
    states = {}
    for place in expected:
        if place != "time_embed":
            last = unet.get_submodule(place)[-1]
            last.register_forward_hook(
                lambda _module, _inputs, output, place=place: states.update({place: output})
            )
    unet(
        tensors["input.fwd.x"],
        case["config"]["fwd_t"][0],
        tensors["input.tokens"],
        tensors["input.mask"],
    )
    assert len(states) >= 8
    for place, state in states.items():
        assert relative_error(state, expected[place]) <= CALL, place


def test_enlarged_low_res():
    tensors, case = oracle("glide_upsampler")
    enlarged = network(tensors, case).upsample(tensors["input.low_res"])
    assert relative_error(enlarged, tensors["output.low_res_upsampled"]) <= 1e-6


@pytest.mark.parametrize("name", CASES)
def test_prepared_network_equals_calls(name):
    tensors, case = oracle(name)
    unet = network(tensors, case)
    tokens, mask = tensors["input.tokens"], tensors["input.mask"]
    timesteps = torch.tensor(case["timestep_map"][::-1])
    sample = tensors["noise.000"][: len(tokens)]
    options = {"tokens": tokens, "mask": mask, **images(tensors)}
    # One product rounds the embeddings of all steps, another one that of a call: convolutions that
    # do not magnify the difference leave the hoisting alone to be seen.
    with use_convolution("direct"):
        prepared = unet.prepare(timesteps, **options)
        assert len(prepared) == len(timesteps)
        for row in (0, len(timesteps) - 1):
            expected = unet(sample, timesteps[row], **options).sample
            assert relative_error(prepared(sample, row), expected) <= 1e-6
            assert torch.equal(prepared(sample, torch.tensor(row)), prepared(sample, row))


# -- whole runs, with the noise that was drawn then -----------------------------------------------


def run(tensors, case, prepared, table, sample):
    """Yield (sample, estimate of the clean one) after every step."""
    for row in range(len(table)):
        output = prepared(sample, row)
        output, uncond = output if isinstance(output, tuple) else (output, None)
        sample, original = septet.ops.step(
            sample,
            output,
            table.on(sample),
            row,
            uncond_output=uncond,
            noise=tensors[f"noise.{row + 1:03d}"][: case["config"]["batch"]],
            pred_original_sample=True,
        )
        yield sample, original


def compare(tensors, prefix, states, tolerance):
    for row, (sample, original) in enumerate(states):
        expected = tensors[f"{prefix}{row:03d}.sample"][: len(sample)]
        assert relative_error(sample, expected) <= tolerance, row
        name = f"{prefix}{row:03d}.pred_xstart"
        if name in tensors:
            assert relative_error(original, tensors[name][: len(sample)]) <= tolerance, row
    return sample


@pytest.mark.parametrize("backend", ["fused", "eager"])
@pytest.mark.parametrize("name", BASES)
def test_guided_sampling(name, backend):
    tensors, case = oracle(name)
    config = case["config"]
    scheduler = septet.GLIDEScheduler(beta_schedule=config["noise_schedule"])
    scheduler.set_timesteps(config["respacing"])
    assert scheduler.timesteps.tolist() == case["timestep_map"][::-1]
    with septet.use_backend(backend):
        prepared = network(tensors, case).prepare(
            scheduler.timesteps, tensors["input.tokens"], tensors["input.mask"], guided=True
        )
        table = scheduler.table().with_guidance(config["guidance"])
        states = run(tensors, case, prepared, table, tensors["noise.000"][:1])
        final = compare(tensors, "step.", states, TOLERANCE[name])
    assert relative_error(final, tensors["output.samples"]) <= TOLERANCE[name]


@pytest.mark.parametrize("backend", ["fused", "eager"])
def test_upsampling(backend):
    tensors, case = oracle("glide_upsampler")
    config = case["config"]
    scheduler = septet.GLIDEScheduler(beta_schedule=config["noise_schedule"], sampler="ddim")
    scheduler.set_timesteps(config["respacing"])
    with septet.use_backend(backend):
        prepared = network(tensors, case).prepare(
            scheduler.timesteps,
            tensors["input.low_res"],
            tensors["input.tokens"],
            tensors["input.mask"],
        )
        start = tensors["noise.000"] * config["temp"]
        states = run(tensors, case, prepared, scheduler.table(), start)
        final = compare(tensors, "step.eta0.0.", states, TOLERANCE["glide_upsampler"])
    expected = tensors["output.samples.eta0.0"]
    assert relative_error(final, expected) <= TOLERANCE["glide_upsampler"]


# -- the original that benchmarks compare with ----------------------------------------------------


@pytest.mark.parametrize("cache_text", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_the_benchmarks_original(name, cache_text):
    tensors, case = oracle(name)
    config = case["config"]
    unet = network(tensors, case)
    model = OriginalGlide(unet, cache_text=cache_text)
    tokens, mask = tensors["input.tokens"], tensors["input.mask"]
    scheduler = septet.GLIDEScheduler(beta_schedule=config["noise_schedule"])
    sampler = OriginalSampler(scheduler._cumprod, case["timestep_map"])
    is_base = name in BASES
    x = tensors["noise.000"] * config.get("temp", 1.0)
    for row, timestep in enumerate(case["timestep_map"][::-1]):
        times = torch.full((len(x),), timestep)
        if is_base:
            output = guided(model, x, times, tokens, mask, config["guidance"])
        else:
            output = model(x, times, tokens, mask, tensors["input.low_res"])
        step = sampler.ddpm if is_base else sampler.ddim
        noise = tensors[f"noise.{row + 1:03d}"]
        x, original = step(output, x, sampler_index(case, row), noise)
        prefix = f"step.{row:03d}" if is_base else f"step.eta0.0.{row:03d}"
        assert relative_error(x, tensors[f"{prefix}.sample"]) <= TOLERANCE[name]
        if f"{prefix}.pred_xstart" in tensors:
            expected = tensors[f"{prefix}.pred_xstart"]
            assert relative_error(original, expected) <= TOLERANCE[name]


def sampler_index(case, row):
    return case["num_timesteps"] - 1 - row
