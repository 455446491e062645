"""What a configuration refuses, and that it does so before anything large is made."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from septet.models import UNet2DConfig, UNet2DModel

GOOD: dict[str, Any] = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 4,
}

BAD = [
    ("in_channels", -3),
    ("in_channels", 0),
    ("in_channels", 3.0),
    ("in_channels", True),
    ("in_channels", "3"),
    ("in_channels", [3]),
    ("in_channels", 10**12),
    ("out_channels", None),
    ("sample_size", 0),
    ("sample_size", [32]),
    ("sample_size", [32, -1]),
    ("sample_size", "32"),
    ("block_out_channels", []),
    ("block_out_channels", [8]),
    ("block_out_channels", [8, -16]),
    ("block_out_channels", [8, 10**9]),
    ("block_out_channels", [8, 18]),
    ("block_out_channels", [8] * 1000),
    ("block_out_channels", 8),
    ("down_block_types", ["DownBlock2D"]),
    ("down_block_types", ["DownBlock2D", "SkipDownBlock2D"]),
    ("down_block_types", ["DownBlock2D", ["DownBlock2D"]]),
    ("down_block_types", "DownBlock2D"),
    ("up_block_types", ["UpBlock2D"] * 3),
    ("up_block_types", ["UpBlock2D", "os.system"]),
    ("mid_block_type", "UNetMidBlock2DCrossAttn"),
    ("layers_per_block", 0),
    ("layers_per_block", 10**6),
    ("norm_num_groups", 3),
    ("norm_num_groups", 0),
    ("norm_num_groups", None),
    ("attn_norm_num_groups", 5),
    ("norm_eps", -1e-6),
    ("norm_eps", math.nan),
    ("norm_eps", "1e-6"),
    ("mid_block_scale_factor", 0),
    ("mid_block_scale_factor", math.inf),
    ("dropout", 2),
    ("act_fn", "tanh"),
    ("act_fn", None),
    ("attention_head_dim", 0),
    ("attention_head_dim", 17),
    ("downsample_padding", 2),
    ("downsample_type", "fir"),
    ("upsample_type", 1),
    ("time_embedding_type", "fourier"),
    ("time_embedding_type", "learned"),
    ("time_embedding_type", None),
    ("time_embedding_dim", -1),
    ("time_embedding_dim", 10**9),
    ("freq_shift", math.inf),
    ("freq_shift", 4),
    ("flip_sin_to_cos", 1),
    ("center_input_sample", "yes"),
    ("add_attention", None),
    ("resnet_time_scale_shift", "spatial"),
    ("class_embed_type", "projection"),
    ("num_class_embeds", 0),
    ("num_class_embeds", 10**12),
    ("num_train_timesteps", 0),
    ("cross_attention_dim", 768),
]


@pytest.mark.parametrize(("key", "value"), BAD)
def test_refuses_by_name(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        UNet2DModel.from_config({**GOOD, key: value})


def test_refuses_what_no_machine_could_hold() -> None:
    huge = {**GOOD, "block_out_channels": [8192, 16384], "layers_per_block": 32}
    with pytest.raises(ValueError, match=r"block_out_channels, .* ask for about \d\.\de\+11"):
        UNet2DModel.from_config(huge)


def test_is_complete_and_read_only() -> None:
    config = UNet2DModel(**GOOD).config
    assert config.block_out_channels == config["block_out_channels"] == (8, 16)
    assert config.keys() == {*UNet2DConfig.__dataclass_fields__}
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == config
    with pytest.raises(TypeError, match="cannot be changed"):
        config["in_channels"] = 4
    with pytest.raises(TypeError, match="cannot be changed"):
        config.in_channels = 4
    with pytest.raises(AttributeError, match="'colour'"):
        _ = config.colour


def test_has_the_keys_and_defaults_of_diffusers() -> None:
    theirs = pytest.importorskip("diffusers").UNet2DModel(**GOOD).config
    theirs = {key: value for key, value in theirs.items() if not key.startswith("_")}
    ours = UNet2DModel(**GOOD).config
    assert {key: _as_tuple(value) for key, value in theirs.items()} == ours


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from([*UNet2DConfig.__dataclass_fields__]), JSON, max_size=3))
def test_any_value_is_taken_or_refused(changes: dict[str, Any]) -> None:
    with torch.device("meta"):
        try:
            model = UNet2DModel.from_config({**GOOD, **changes})
        except ValueError as error:
            if not any(key in str(error) for key in changes):
                raise
        else:
            assert UNet2DConfig.from_dict(model.config).to_dict() == model.config
