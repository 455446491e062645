"""The quantised autoencoder against diffusers, with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_autoencoder_kl import SMALL

from septet import VQModel
from septet.nn import VectorQuantizer
from septet.testing.tolerances import relative_error

diffusers = pytest.importorskip("diffusers")

CONFIGS: dict[str, dict[str, Any]] = {
    "small": {**SMALL, "num_vq_embeddings": 20},
    "wide_codes": {**SMALL, "vq_embed_dim": 5, "layers_per_block": 2, "scaling_factor": 1.0},
    "attention": {
        **SMALL,
        "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        "mid_block_add_attention": False,
        "act_fn": "mish",
        "force_upcast": True,
    },
    "lookup": {**SMALL, "lookup_from_codebook": True, "vq_embed_dim": 4},
}


def pair(name: str) -> tuple[VQModel, Any]:
    """Make our network and diffusers' with the same random weights."""
    torch.manual_seed(0)
    theirs = diffusers.VQModel(**CONFIGS[name]).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        theirs.quantize.embedding.weight.normal_()
    ours = VQModel(**CONFIGS[name]).eval()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_matches_diffusers(name: str) -> None:
    ours, theirs = pair(name)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert dict(ours.config) == {k: v for k, v in theirs.config.items() if not k.startswith("_")}
    sample = torch.randn(2, 3, 16, 24)
    result, expected = ours.encode(sample).latents, theirs.encode(sample).latents
    assert relative_error(result, expected) <= 1e-5
    h = torch.randn(expected.shape)
    result, expected = ours.decode(h), theirs.decode(h)
    assert relative_error(result.sample, expected.sample) <= 1e-5
    assert relative_error(result.commit_loss, expected.commit_loss) <= 1e-5
    assert result.sample.is_contiguous()
    result, expected = ours(sample), theirs(sample)
    assert relative_error(result.sample, expected.sample) <= 1e-5
    sample_too, loss = ours(sample, return_dict=False)
    assert torch.equal(sample_too, result.sample)
    assert torch.equal(loss, result.commit_loss)


@torch.no_grad()
def test_without_quantising() -> None:
    ours, theirs = pair("wide_codes")
    h = torch.randn(2, 5, 6, 4)
    result, expected = ours.decode(h, True), theirs.decode(h, True)
    assert relative_error(result.sample, expected.sample) <= 1e-5
    assert torch.equal(result.commit_loss, torch.zeros(2))
    assert relative_error(result.sample, ours.decode(h).sample) > 1e-2


@torch.no_grad()
def test_indices() -> None:
    ours, theirs = pair("lookup")
    indices = torch.randint(256, (2, 6, 4))
    shape = (2, 6, 4, 4)
    expected = theirs.decode(indices.flatten(), True, shape=shape).sample
    for result in (
        ours.decode(indices, True).sample,
        ours.decode(indices.int(), True, shape=shape).sample,
        ours.decode(indices.reshape(2, 24), True, shape=list(shape)).sample,
        ours.decode(ours.quantize.entries(indices)).sample,
    ):
        assert relative_error(result, expected) <= 1e-5


@torch.no_grad()
def test_slices() -> None:
    ours, _ = pair("small")
    sample, h = torch.randn(3, 3, 16, 16), torch.randn(3, 3, 8, 8)
    latents, image = ours.encode(sample).latents, ours.decode(h)
    ours.enable_slicing()
    assert relative_error(ours.encode(sample).latents, latents) <= 1e-6
    sliced = ours.decode(h)
    assert relative_error(sliced.sample, image.sample) <= 1e-6
    assert torch.equal(sliced.commit_loss, image.commit_loss)


def test_gradients_match_diffusers() -> None:
    ours, theirs = pair("attention")
    sample = torch.randn(2, 3, 8, 8)
    for model in (ours.train(), theirs.train()):
        output = model(sample)
        (output.sample.square().mean() + output.commit_loss).backward()
    for (key, parameter), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        scale = other.grad.abs().max()
        assert (parameter.grad - other.grad).abs().max() <= 1e-4 * scale + 1e-7, key


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@torch.no_grad()
def test_the_nearest_entry(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(100, 4).to(dtype)
    quantizer.embedding.weight.normal_()
    latents = torch.randn(2, 4, 5, 7, dtype=dtype)
    quantized, loss, indices = quantizer(latents)
    vectors, codes = latents.double().permute(0, 2, 3, 1), quantizer.embedding.weight.double()
    distances = (vectors[..., None, :] - codes).square().sum(dim=-1)
    nearest = distances.argmin(dim=-1)
    assert torch.equal(indices, nearest)
    assert torch.equal(quantized, quantizer.embedding(nearest).permute(0, 3, 1, 2))
    assert torch.equal(quantizer(quantized).indices, indices)
    expected = 1.25 * distances.min(dim=-1).values.mean() / 4
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-6
    assert loss.double().item() == pytest.approx(expected.item(), rel=tolerance)


@torch.no_grad()
def test_the_first_of_equals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("septet.nn.quantize._MAX_DISTANCES", 10)  # several pieces
    quantizer = VectorQuantizer(4, 2)
    quantizer.embedding.weight.copy_(torch.tensor([[5.0, 5], [1, 0], [1, 0], [0, 1]]))
    latents = torch.tensor([1.0, 0]).reshape(1, 2, 1, 1).expand(1, 2, 3, 3)
    assert torch.equal(quantizer(latents).indices, torch.ones(1, 3, 3, dtype=torch.int64))


def test_bad_arguments() -> None:
    model = VQModel(**CONFIGS["lookup"])
    with pytest.raises(ValueError, match=r"^sample must have shape \[B, 3, H, W\], got"):
        model(torch.zeros(1, 4, 16, 16))
    with pytest.raises(ValueError, match=r"^sample must have at least 2 x 2 pixels"):
        model.encode(torch.zeros(1, 3, 16, 1))
    with pytest.raises(ValueError, match=r"^latents must have shape \[B, 4, H, W\], got"):
        model.decode(torch.zeros(1, 3, 4, 4))
    indices = torch.zeros(1, 4, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"^indices must have shape \[B, H, W\]"):
        model.decode(indices.flatten(), True)
    for shape in ((1, 4, 4, 3), (1, 4, 3, 4), (16, 4), ()):
        with pytest.raises(ValueError, match=r"^shape must be \(B, H, W, 4\) with one pixel per"):
            model.decode(indices, True, shape=shape)
    with pytest.raises(ValueError, match=r"^indices must be integers, got torch.float32"):
        model.decode(indices.float(), True)
    for wrong in (-1, 256):
        with pytest.raises(ValueError, match=r"^indices must be from 0 to 255, got"):
            model.decode(indices + wrong, True)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_vq_embeddings": 0}, "num_vq_embeddings must be an integer from 1"),
        ({"vq_embed_dim": "3"}, "vq_embed_dim must be an integer"),
        ({"norm_type": "spatial"}, "norm_type 'spatial' is not supported, expected 'group'"),
        ({"norm_type": "layer"}, "norm_type must be one of"),
        ({"lookup_from_codebook": 1}, "lookup_from_codebook must be true or false"),
        ({"use_quant_conv": True}, "unknown configuration key 'use_quant_conv'"),
        (
            {"num_vq_embeddings": 1 << 24, "vq_embed_dim": 1 << 14},
            "num_vq_embeddings and vq_embed_dim ask for",
        ),
    ],
)
def test_bad_configurations(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        VQModel(**config)
