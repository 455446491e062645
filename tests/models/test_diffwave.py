"""The score network of BDDM against the authors' code, and what our version of it adds."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch

import septet
import tiny_networks
from bddm_oracles import Oracle
from septet.checkpoints.weight_norm import fold_weight_norm
from septet.models import DiffWaveModel
from septet.testing.tolerances import relative_error
from stored import layout

# Ten times what another convolution backend makes of the authors' own code.
TOLERANCE = 1e-5
TINY = tiny_networks.DIFFWAVE


def tiny(**config: Any) -> DiffWaveModel:
    torch.manual_seed(0)
    model = DiffWaveModel(**{**TINY, **config}).eval().requires_grad_(False)
    torch.nn.init.normal_(model.final_conv[2].conv.weight)  # zero at first, which hides all
    return model


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle("bddm_score_net")


def test_forward_equals_the_authors(oracle: Oracle) -> None:
    model = oracle.score_network()
    for run, timesteps in enumerate(oracle.config["fwd_ts"]):
        output = model(oracle["input.audio"], torch.tensor(timesteps), oracle["input.mel"]).sample
        assert relative_error(output, oracle[f"output.forward.{run}"]) < TOLERANCE
    timesteps = torch.tensor(oracle.config["fwd_ts"][0])
    output = model(oracle["input.audio_short"], timesteps, oracle["input.mel"]).sample
    assert relative_error(output, oracle["output.forward_short"]) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("max_bytes", [0, 140_000, 1 << 30])
def test_prepared_equals_forward(oracle: Oracle, max_bytes: int) -> None:
    model = oracle.score_network()
    model.max_prepared_bytes = max_bytes
    timesteps = torch.tensor([3.25, 199.0])
    prepared = model.prepare(timesteps, oracle["input.mel"])
    # 2 samples, 16 channels and 512 positions of 4 bytes take 65536 bytes per layer
    assert len(prepared.mel.projections) == min(4, max_bytes // 65536)
    for row, timestep in enumerate(timesteps):
        output = model(oracle["input.audio"], timestep, oracle["input.mel"]).sample
        assert relative_error(prepared(oracle["input.audio"], row), output) < 2e-6
        from_tensor = prepared(oracle["input.audio"], torch.tensor([row]))
        assert torch.equal(from_tensor, prepared(oracle["input.audio"], row))


@torch.no_grad()
@pytest.mark.parametrize("lengths", [None, [5, 2]])
def test_kernels_are_as_accurate_as_torch_at_the_published_depth(lengths: list[int] | None) -> None:
    model = tiny(num_res_layers=30, dilation_cycle=10)
    mel, sample = torch.randn(2, 4, 5), torch.randn(2, 1, 30)
    arguments = (torch.tensor([7.25]), mel, None if lengths is None else torch.tensor(lengths))
    output = model.prepare(*arguments)(sample, 0)
    with septet.use_backend("eager"):
        plain = model.prepare(*arguments)(sample, 0)
        exact = model.double().prepare(*arguments)(sample.double(), 0)
    assert relative_error(output, exact) < max(2 * relative_error(plain, exact), 1e-6)


@torch.no_grad()
@pytest.mark.parametrize("factor", [1, 2, 3, 5, 16])
def test_mel_is_stretched_as_by_the_transposed_convolution(factor: int) -> None:
    model = tiny(upsample_factors=(factor,)).double()
    layer = model.residual_layer.layers[0]
    mel = torch.randn(2, 4, 7, dtype=torch.float64)
    stretched = layer.upsample_conv2d[0](mel[:, None])[:, 0, :, : 7 * factor]
    expected = layer.mel_conv.conv(torch.nn.functional.leaky_relu(stretched, 0.4))
    actual = layer.project_mel(mel, 7 * factor) + layer.mel_conv.conv.bias
    torch.testing.assert_close(actual, expected.transpose(1, 2))


@torch.no_grad()
@pytest.mark.parametrize("group_size", [1, 2])
@pytest.mark.parametrize("keeps", [True, False])
def test_samples_of_a_batch_do_not_see_its_padding(group_size: int, keeps: bool) -> None:
    model = tiny(group_size=group_size)
    model.max_prepared_bytes = 1 << 30 if keeps else 0
    hop, lengths = model.settings.hop_length, torch.tensor([3, 7, 1])
    mel = torch.randn(3, 4, 7)
    sample = torch.randn(3, 1, 7 * hop)
    prepared = model.prepare(torch.tensor([5.5]), mel, lengths)
    together = prepared(sample, 0)
    for index, frames in enumerate(lengths.tolist()):
        one = slice(index, index + 1)
        alone = model(sample[one, :, : frames * hop], 5.5, mel[one, :, :frames]).sample
        assert relative_error(together[one, :, : frames * hop], alone) < 1e-5
        assert (together[one, :, frames * hop :] == 0).all()


def test_groups_are_consecutive_samples() -> None:
    """With one tap per layer a position depends on the samples of its group only."""
    model = tiny(group_size=3, num_res_layers=1)
    with torch.no_grad():
        model.residual_layer.residual_blocks[0].dilated_conv_layer.conv.weight[:, :, ::2] = 0
    sample, mel = torch.randn(1, 1, 36), torch.randn(1, 4, 2)
    changed = sample.clone()
    changed[..., 7] += 1  # in the group of samples 6, 7 and 8
    with septet.use_backend("eager"):  # Winograd's sums hold neighbours, which then cancel
        difference = (model(changed, 1.0, mel).sample - model(sample, 1.0, mel).sample).abs()[0, 0]
    assert (difference[6:9] > 0).all()
    assert difference[:6].max() == difference[9:].max() == 0


def test_learns() -> None:
    model = tiny().train().requires_grad_(True)
    output = model(torch.randn(2, 1, 12), torch.tensor([1.0, 7.5]), torch.randn(2, 4, 2)).sample
    output.square().mean().backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    idle = [name for name, grad in grads.items() if grad is None or not grad.any()]
    # nothing comes after the last layer's residual path
    assert idle == [f"residual_layer.residual_blocks.2.res_conv.{k}" for k in ("weight", "bias")]


def test_keys_and_shapes_are_the_published_ones_with_weights_folded() -> None:
    published = layout("bddm_diffwave")
    keys = {key: torch.rand(shape) + 0.5 for key, shape in published["keys"].items()}
    names = set(DiffWaveModel.config_class().to_dict())
    model = DiffWaveModel(**{k: v for k, v in published["config"].items() if k in names})
    folded = {key: list(value.shape) for key, value in fold_weight_norm(keys).items()}
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == folded
    assert sum(value.numel() for value in keys.values()) == published["n_parameters"]


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["weight_norm", "parametrizations.weight_norm"])
def test_folded_weight_is_that_of_torch(kind: str) -> None:
    normalise = operator.attrgetter(kind)(torch.nn.utils)
    for module in (torch.nn.Conv1d(3, 5, 2), torch.nn.ConvTranspose2d(1, 1, (3, 4))):
        wrapped = torch.nn.Sequential(normalise(module))
        folded = fold_weight_norm(wrapped.state_dict())
        assert set(folded) == {"0.weight", "0.bias"}
        assert relative_error(folded["0.weight"], wrapped[0].weight) < 1e-6


def test_fold_refuses_half_a_pair() -> None:
    weights = {"a.weight_g": torch.ones(2, 1), "a.weight_v": torch.ones(2, 3)}
    assert torch.allclose(fold_weight_norm(weights)["a.weight"].norm(dim=1), torch.ones(2))
    for key in weights:
        with pytest.raises(ValueError, match=f"{key}.*lacks"):
            fold_weight_norm({key: weights[key]})
    with pytest.raises(ValueError, match="with and without"):
        fold_weight_norm({**weights, "a.weight": torch.ones(2, 3)})
    with pytest.raises(ValueError, match="does not suit"):
        fold_weight_norm({**weights, "a.weight_g": torch.ones(3, 1)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mel": torch.zeros(4, 2)}, r"mel_spectrogram must have shape \[B, 4, frames\]"),
        ({"mel": torch.zeros(1, 5, 2)}, "mel_spectrogram must have shape"),
        ({"mel": torch.zeros(1, 4, 0)}, "mel_spectrogram must have shape"),
        ({"sample": torch.zeros(1, 2, 12)}, "sample must have shape"),
        ({"sample": torch.zeros(1, 1, 13)}, "sample must have at most 12 values"),
        ({"timestep": torch.zeros(3)}, "timestep must be a number or one number per sample"),
        ({"lengths": torch.tensor([3])}, "lengths must be from 1 to 2 frames"),
        ({"lengths": torch.tensor([1.0])}, "lengths must be 1 integers"),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    arguments = {"sample": torch.zeros(1, 1, 12), "timestep": 1.0, "mel": torch.zeros(1, 4, 2)}
    arguments.update(change)
    lengths = arguments.pop("lengths", None)
    with pytest.raises(ValueError, match=message):
        tiny()(arguments["sample"], arguments["timestep"], arguments["mel"], lengths)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"res_channels": 0}, "res_channels"),
        ({"num_res_layers": 10**6}, "num_res_layers"),
        ({"diffusion_step_embed_dim_in": 5}, "must be even"),
        ({"out_channels": 2}, "out_channels must equal in_channels"),
        ({"upsample_factors": (16, 0)}, r"upsample_factors\[1\]"),
        ({"fmax": 20_000}, "fmax"),
        ({"whatever": 1}, "unknown configuration key"),
    ],
)
def test_bad_configurations(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffWaveModel(**config)
