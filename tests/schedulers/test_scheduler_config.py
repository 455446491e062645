"""Configurations: conversion between schedulers, files, and refusals."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch

import septet
from septet.config import FrozenConfig

NAMES = ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler")
#: What diffusers does not have, with the defaults.
OWN = {"table_dtype": "float64", "variant": "modern"}


def entries(config):
    """The keys that diffusers has, too."""
    return {k: v for k, v in config.items() if k[0] != "_" and k not in OWN}


@pytest.mark.parametrize("name", NAMES)
def test_arguments_and_defaults_are_those_of_diffusers(name):
    diffusers = pytest.importorskip("diffusers")
    ours, theirs = getattr(septet, name)().config, getattr(diffusers, name)().config
    assert entries(ours) == entries(theirs)
    own = {k: v for k, v in OWN.items() if name == "PNDMScheduler" or k != "variant"}
    assert {k: v for k, v in ours.items() if k in OWN} == own


@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("source", NAMES)
@pytest.mark.parametrize("explicit", [{}, {"set_alpha_to_one": True}, {"variance_type": "learned"}])
def test_conversion_as_in_diffusers(source, target, explicit):
    diffusers = pytest.importorskip("diffusers")
    config = {"beta_schedule": "scaled_linear", "steps_offset": 1, **explicit}
    try:
        theirs = getattr(diffusers, source)(**config)
    except TypeError:
        return  # the source does not have this argument
    expected = getattr(diffusers, target).from_config(theirs.config).config
    ours = getattr(septet, source)(**config)
    for given in (ours, ours.config, theirs.config):
        got = getattr(septet, target).from_config(given)
        assert entries(got.config) == entries(expected)
    back = getattr(diffusers, target).from_config(ours.config).config
    assert dict(back) == dict(expected) | {"_use_default_values": back["_use_default_values"]}


def test_conversion_keeps_what_only_septet_knows():
    first = septet.PNDMScheduler(variant="early", table_dtype="float32")
    middle = septet.DDIMScheduler.from_config(septet.DDPMScheduler.from_config(first))
    assert middle.config.table_dtype == "float32"
    last = septet.PNDMScheduler.from_config(middle)
    assert (last.config.variant, last.config.table_dtype) == ("early", "float32")


def test_a_converted_scheduler_ignores_what_is_not_its_own():
    first = septet.DDPMScheduler(clip_sample=True, thresholding=True, rescale_betas_zero_snr=True)
    converted = septet.PNDMScheduler.from_config(first)
    for scheduler in (converted, septet.PNDMScheduler()):
        scheduler.set_timesteps(10)
    assert torch.equal(converted.table().values, scheduler.table().values)
    assert converted.table().dynamic_threshold is None


def test_conversion_there_and_back_loses_nothing():
    first = septet.DDPMScheduler(variance_type="fixed_large", clip_sample=False)
    middle = septet.PNDMScheduler.from_config(septet.DDIMScheduler.from_config(first))
    last = septet.DDPMScheduler.from_config(middle)
    assert (last.config.variance_type, last.config.clip_sample) == ("fixed_large", False)


def test_overrides_win():
    scheduler = septet.DDIMScheduler.from_config(septet.DDPMScheduler().config, clip_sample=False)
    assert scheduler.config.clip_sample is False
    with pytest.raises(TypeError, match="variance"):
        septet.DDIMScheduler.from_config({}, variance_type="learned")


@pytest.mark.parametrize("name", NAMES)
def test_save_and_load(name, tmp_path):
    scheduler = getattr(septet, name)(trained_betas=np.linspace(0.001, 0.01, 1000), steps_offset=1)
    scheduler.save_pretrained(tmp_path / "scheduler")
    stored = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
    assert stored["_class_name"] == name
    loaded = getattr(septet, name).from_pretrained(tmp_path, subfolder="scheduler")
    loaded.set_timesteps(10)
    scheduler.set_timesteps(10)
    assert torch.equal(loaded.table().values, scheduler.table().values)
    diffusers = pytest.importorskip("diffusers")
    theirs = getattr(diffusers, name).from_pretrained(tmp_path, subfolder="scheduler")
    assert theirs.config.steps_offset == 1
    assert not OWN.keys() & stored.keys()  # diffusers would warn of them


@pytest.mark.parametrize("name", NAMES)
def test_save_and_load_what_only_septet_knows(name, tmp_path):
    options = {"table_dtype": "float32"}
    if name == "PNDMScheduler":
        options["variant"] = "original"
    scheduler = getattr(septet, name)(**options)
    scheduler.save_pretrained(tmp_path)
    loaded = getattr(septet, name).from_pretrained(tmp_path)
    assert entries(loaded.config) == entries(scheduler.config)
    assert {k: loaded.config[k] for k in options} == options


def test_configurations_of_2022_are_understood():
    scheduler = septet.DDIMScheduler.from_config(
        {
            "_class_name": "DDIMScheduler",
            "timesteps": 500,
            "clip_predicted_image": False,
            "tensor_format": "np",
            "timestep_values": None,
        }
    )
    assert scheduler.config.num_train_timesteps == 500
    assert scheduler.config.clip_sample is False
    old = septet.DDPMScheduler.from_config({"predict_epsilon": False})
    assert old.config.prediction_type == "sample"


def test_unknown_keys_are_refused():
    with pytest.raises(ValueError, match="clip_sampel"):
        septet.DDPMScheduler.from_config({"clip_sampel": True})


def test_config_is_read_only_and_copies():
    config = septet.DDPMScheduler().config
    with pytest.raises(TypeError, match="cannot be changed"):
        config["beta_start"] = 1
    with pytest.raises(TypeError, match="cannot be changed"):
        config.beta_start = 1
    with pytest.raises(AttributeError, match="nonsense"):
        _ = config.nonsense
    for twin in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert twin == config
        assert isinstance(twin, FrozenConfig)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("num_train_timesteps", 0),
        ("num_train_timesteps", 10.5),
        ("num_train_timesteps", True),
        ("beta_start", 0.0),
        ("beta_start", float("nan")),
        ("beta_end", 1.5),
        ("beta_end", "0.02"),
        ("beta_schedule", "quadratic"),
        ("trained_betas", [0.1, 1.2]),
        ("trained_betas", []),
        ("trained_betas", [1.0, 0.5]),
        ("prediction_type", "noise"),
        ("timestep_spacing", "even"),
        ("steps_offset", -1),
        ("table_dtype", "float16"),
        ("table_dtype", torch.float32),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_bad_arguments_are_named(name, argument, value):
    with pytest.raises(ValueError, match=argument):
        getattr(septet, name)(**{argument: value})


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("DDPMScheduler", "variance_type", "large"),
        ("DDPMScheduler", "clip_sample_range", -1.0),
        ("DDIMScheduler", "dynamic_thresholding_ratio", 1.5),
        ("DDIMScheduler", "sample_max_value", float("inf")),
        ("PNDMScheduler", "prediction_type", "sample"),
        ("PNDMScheduler", "trained_betas", [0.5, 1.0]),
        ("PNDMScheduler", "variant", "late"),
    ],
)
def test_bad_arguments_of_one_scheduler(name, argument, value):
    with pytest.raises(ValueError, match=argument):
        getattr(septet, name)(**{argument: value})


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.5, "10", True, float("nan")])
@pytest.mark.parametrize("name", NAMES)
def test_bad_step_counts(name, steps):
    scheduler = getattr(septet, name)()
    with pytest.raises(ValueError, match="num_inference_steps"):
        scheduler.set_timesteps(steps)
    assert scheduler.num_inference_steps is None


@pytest.mark.parametrize("timesteps", [[], [5, 5], [1, 2], [1000, 3], [3, -1]])
def test_bad_custom_timesteps(timesteps):
    with pytest.raises(ValueError, match="timesteps"):
        septet.DDPMScheduler().set_timesteps(timesteps=timesteps)


def test_steps_that_cannot_be_taken():
    sample = torch.zeros(1, 1, 2)
    for scheduler in (septet.DDIMScheduler(), septet.PNDMScheduler()):
        with pytest.raises(ValueError, match="set_timesteps"):
            scheduler.step(sample, 0, sample)
    ddpm, ddim = septet.DDPMScheduler(), septet.DDIMScheduler(steps_offset=1)
    with pytest.raises(ValueError, match="exactly one"):
        ddpm.set_timesteps(5, timesteps=[1])
    ddpm.set_timesteps(5)
    with pytest.raises(ValueError, match="timestep 7"):
        ddpm.step(sample, 7, sample)
    ddim.set_timesteps(1000)
    with pytest.raises(ValueError, match="steps_offset"):
        ddim.table()
    ddim.set_timesteps(10)
    for eta in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="eta"):
            ddim.step(sample, 1, sample, eta=eta)
    with pytest.raises(ValueError, match=r"eta = 1\.5 is too large"):
        ddim.table(eta=1.5)
    with pytest.raises(ValueError, match="variance_noise"):
        ddim.step(sample, 1, sample, 0.5, False, torch.Generator(), sample)


def test_tensors_that_do_not_fit():
    sample = torch.zeros(1, 1, 2)
    scheduler = septet.DDPMScheduler()
    learned = septet.DDPMScheduler(variance_type="learned")
    with septet.use_backend("fused"):
        with pytest.raises(ValueError, match="model_output"):
            scheduler.step(torch.zeros(1, 3, 2), 1, sample)
        with pytest.raises(ValueError, match="noise"):
            scheduler.step(sample, 1, sample, variance_noise=torch.zeros(1, 1, 3))
        with pytest.raises(ValueError, match="learned variance"):
            learned.step(sample, 999, sample)


def test_one_name_for_one_thing():
    with pytest.raises(ValueError, match="either timesteps or num_train_timesteps, not both"):
        septet.DDPMScheduler.from_config({"timesteps": 100, "num_train_timesteps": 1000})
