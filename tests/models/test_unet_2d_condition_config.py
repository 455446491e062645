"""What a text-conditional configuration refuses, by key and value."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from septet.models import UNet2DConditionConfig, UNet2DConditionModel

GOOD: dict[str, Any] = {
    "block_out_channels": [8, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
    "layers_per_block": 1,
}

BAD = [
    ("in_channels", 0),
    ("sample_size", [32]),
    ("block_out_channels", [8]),
    ("block_out_channels", [8, 18]),
    ("down_block_types", ["DownBlock2D"]),
    ("down_block_types", ["AttnDownBlock2D", "DownBlock2D"]),
    ("up_block_types", ["UpBlock2D", "SimpleCrossAttnUpBlock2D"]),
    ("mid_block_type", "UNetMidBlock2DSimpleCrossAttn"),
    ("only_cross_attention", 1),
    ("only_cross_attention", [True]),
    ("only_cross_attention", [True, "no"]),
    ("layers_per_block", 0),
    ("layers_per_block", [1, 2, 3]),
    ("layers_per_block", [1, 0]),
    ("cross_attention_dim", None),
    ("cross_attention_dim", 0),
    ("cross_attention_dim", [12]),
    ("cross_attention_dim", [12, 13]),
    ("transformer_layers_per_block", 0),
    ("transformer_layers_per_block", [1]),
    ("transformer_layers_per_block", [[1], 1]),
    ("reverse_transformer_layers_per_block", 1),
    ("reverse_transformer_layers_per_block", [1, [1]]),
    ("reverse_transformer_layers_per_block", [1, [1, 0]]),
    ("attention_head_dim", None),
    ("attention_head_dim", 9),
    ("attention_head_dim", [2, 17]),
    ("attention_head_dim", [2]),
    ("use_linear_projection", None),
    ("upcast_attention", "no"),
    ("conv_in_kernel", 2),
    ("conv_in_kernel", 99),
    ("conv_out_kernel", 0),
    ("norm_num_groups", None),
    ("time_embedding_type", "fourier"),
    ("class_embed_type", "projection"),
    ("class_embed_type", "simple_projection"),
    ("act_fn", "tanh"),
    ("colour", "red"),
]

# What pipelines that are not supported need; every one of these is refused with its value.
UNSUPPORTED = [
    ("num_attention_heads", 8),
    ("dual_cross_attention", True),
    ("encoder_hid_dim", 768),
    ("encoder_hid_dim_type", "text_proj"),
    ("addition_embed_type", "text_time"),
    ("addition_time_embed_dim", 256),
    ("addition_embed_type_num_heads", 32),
    ("resnet_skip_time_act", True),
    ("resnet_out_scale_factor", 1.5),
    ("resnet_out_scale_factor", True),
    ("time_embedding_act_fn", "silu"),
    ("timestep_post_act", "silu"),
    ("time_cond_proj_dim", 256),
    ("projection_class_embeddings_input_dim", 2816),
    ("attention_type", "gated"),
    ("class_embeddings_concat", True),
    ("mid_block_only_cross_attention", True),
    ("cross_attention_norm", "layer_norm"),
]


@pytest.mark.parametrize(("key", "value"), BAD)
def test_refuses_by_name(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        UNet2DConditionModel.from_config({**GOOD, key: value})


@pytest.mark.parametrize(("key", "value"), UNSUPPORTED)
def test_refuses_what_other_pipelines_need(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{key} {value!r} is not supported, expected "):
        UNet2DConditionModel.from_config({**GOOD, key: value})


def test_refuses_what_no_machine_could_hold() -> None:
    huge = {**GOOD, "block_out_channels": [8192, 16384], "transformer_layers_per_block": 32}
    with pytest.raises(ValueError, match=r"transformer_layers_per_block, .* ask for about \d\.\de"):
        UNet2DConditionModel.from_config(huge)


def test_lists_in_lists_need_the_way_up() -> None:
    nested = {**GOOD, "transformer_layers_per_block": [[1], 1]}
    with pytest.raises(ValueError, match="reverse_transformer_layers_per_block must be given"):
        UNet2DConditionModel.from_config(nested)
    config = {**nested, "reverse_transformer_layers_per_block": [1, [1, 2]]}
    model = UNet2DConditionModel.from_config(config)
    assert [len(a.transformer_blocks) for a in model.up_blocks[1].attentions] == [1, 2]
    assert UNet2DConditionConfig.from_dict(model.config).to_dict() == model.config


def test_has_the_keys_and_defaults_of_diffusers() -> None:
    theirs = pytest.importorskip("diffusers").UNet2DConditionModel(**GOOD).config
    theirs = {key: value for key, value in theirs.items() if not key.startswith("_")}
    ours = UNet2DConditionModel(**GOOD).config
    assert {k: tuple(v) if isinstance(v, list) else v for k, v in theirs.items()} == ours


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.dictionaries(
        st.sampled_from([*UNet2DConditionConfig.__dataclass_fields__]), JSON, max_size=3
    )
)
def test_any_value_is_taken_or_refused(changes: dict[str, Any]) -> None:
    with torch.device("meta"):
        try:
            model = UNet2DConditionModel.from_config({**GOOD, **changes})
        except ValueError as error:
            if not any(key in str(error) for key in changes):
                raise
        else:
            assert UNet2DConditionConfig.from_dict(model.config).to_dict() == model.config
