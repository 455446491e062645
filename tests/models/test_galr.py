"""The schedule network of BDDM against the authors' code."""

from __future__ import annotations

import pytest
import torch

from bddm_oracles import Oracle
from septet.models import GALRModel
from septet.testing.tolerances import relative_error
from stored import layout

TOLERANCE = 1e-5


def test_forward_equals_the_authors() -> None:
    oracle = Oracle("bddm_schedule_net")
    model = oracle.schedule_network()
    for run in "01":
        beta, delta = oracle[f"input.galr.beta_nxt.{run}"], oracle[f"input.galr.delta.{run}"]
        output = model(oracle[f"input.galr.audio.{run}"], beta[:, 0], delta[:, 0])
        assert relative_error(output, oracle[f"output.galr.beta.{run}"][:, 0, 0]) < TOLERANCE


def test_keys_and_shapes_are_the_published_ones() -> None:
    published = layout("bddm_galr")
    names = set(GALRModel.config_class().to_dict())
    model = GALRModel(**{k: v for k, v in published["config"].items() if k in names})
    state = model.state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == published["keys"]
    assert sum(value.numel() for value in model.parameters()) == published["n_parameters"]


def test_bad_arguments() -> None:
    model = GALRModel(input_dim=8, hidden_dim=2, segment_size=4, window_length=2)
    one = torch.ones(1)
    with pytest.raises(ValueError, match=r"sample must have shape \[B, samples\]"):
        model(torch.zeros(1, 1, 30), one, one)
    with pytest.raises(ValueError, match="the network has positions for 5000"):
        model(torch.zeros(1, 20_000), one, one)
    with pytest.raises(ValueError, match="segment_size must be a multiple of 2"):
        GALRModel(segment_size=5)
