"""The KL autoencoder against diffusers, with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from septet import AutoencoderKL
from septet.models import DiagonalGaussianDistribution
from septet.testing.tolerances import relative_error

diffusers = pytest.importorskip("diffusers")

SMALL: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
    "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
    "norm_num_groups": 4,
    "latent_channels": 3,
    "sample_size": 16,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "small": SMALL,
    "three_levels": {
        **SMALL,
        "block_out_channels": (8, 16, 12),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "layers_per_block": 2,
        "latent_channels": 4,
    },
    "attention_everywhere": {
        **SMALL,
        "down_block_types": ("AttnDownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        "up_block_types": ("AttnUpDecoderBlock2D", "AttnUpDecoderBlock2D"),
        "act_fn": "mish",
    },
    "attention_in_places": {
        **SMALL,
        "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        "up_block_types": ("UpDecoderBlock2D", "AttnUpDecoderBlock2D"),
        "mid_block_add_attention": False,
        "act_fn": "gelu",
    },
    "no_quant_conv": {**SMALL, "use_quant_conv": False, "shift_factor": 0.1},
    "no_post_quant_conv": {**SMALL, "use_post_quant_conv": False, "act_fn": "relu"},
    "one_level": {
        "block_out_channels": (6,),
        "norm_num_groups": 3,
        "in_channels": 1,
        "out_channels": 5,
        "latent_channels": 2,
        "latents_mean": (0.0, 1.0),
        "latents_std": (1.0, 2.0),
        "force_upcast": False,
        "scaling_factor": 0.3,
    },
}


def pair(name: str) -> tuple[AutoencoderKL, Any]:
    """Make our network and diffusers' with the same random weights."""
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKL(**CONFIGS[name]).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    ours = AutoencoderKL(**CONFIGS[name]).eval()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_matches_diffusers(name: str) -> None:
    ours, theirs = pair(name)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert dict(ours.config) == {k: v for k, v in theirs.config.items() if not k.startswith("_")}
    sample = torch.randn(2, ours.config.in_channels, 16, 24)
    result, expected = ours.encode(sample).latent_dist, theirs.encode(sample).latent_dist
    for part in ("mean", "logvar", "std", "var"):
        assert relative_error(getattr(result, part), getattr(expected, part)) <= 1e-5
    z = torch.randn(expected.mean.shape)
    result, expected = ours.decode(z).sample, theirs.decode(z).sample
    assert relative_error(result, expected) <= 1e-5
    assert result.is_contiguous()
    assert torch.equal(ours.decode(z, return_dict=False)[0], result)


@torch.no_grad()
def test_a_remainder_has_no_latents() -> None:
    ours, theirs = pair("three_levels")
    sample = torch.randn(1, 3, 21, 18)
    result, expected = ours.encode(sample).latent_dist.mean, theirs.encode(sample).latent_dist.mean
    assert result.shape[2:] == (5, 4)
    assert relative_error(result, expected) <= 1e-5


@torch.no_grad()
def test_forward() -> None:
    ours, theirs = pair("small")
    sample = torch.randn(2, 3, 16, 16)
    assert relative_error(ours(sample).sample, theirs(sample).sample) <= 1e-5
    result = ours(sample, True, False, torch.Generator().manual_seed(3))[0]
    expected = theirs(sample, True, False, torch.Generator().manual_seed(3))[0]
    assert relative_error(result, expected) <= 1e-5


@pytest.mark.parametrize("size", [(16, 40), (38, 16), (40, 29), (17, 50)])
@pytest.mark.parametrize("overlap", [0.25, 0.5])
@torch.no_grad()
def test_tiles(size: tuple[int, int], overlap: float) -> None:
    ours, theirs = pair("three_levels")
    for model in (ours, theirs):
        model.enable_tiling()
        model.tile_overlap_factor = overlap
    z = torch.randn(2, 4, size[0] // 4, size[1] // 4)
    result = ours.decode(z).sample
    assert relative_error(result, theirs.decode(z).sample) <= 1e-5
    sample = torch.randn(2, 3, 4 * (size[0] // 4), 4 * (size[1] // 4))
    means = [model.encode(sample).latent_dist.mean for model in (ours, theirs)]
    assert relative_error(*means) <= 1e-5
    ours.disable_tiling()
    whole = ours.decode(z).sample
    assert whole.shape == result.shape
    if max(size) > 16:
        assert not torch.equal(whole, result)


@torch.no_grad()
def test_tiles_of_any_size() -> None:
    ours, theirs = pair("small")
    for model in (ours, theirs):
        model.enable_tiling()
        model.tile_sample_min_size, model.tile_latent_min_size = 10, 5
    z = torch.randn(1, 3, 13, 22)
    assert relative_error(ours.decode(z).sample, theirs.decode(z).sample) <= 1e-5
    ours.tile_overlap_factor = 1.0
    with pytest.raises(ValueError, match=r"tiles of 5 pixels, 10 in the output, cannot overlap"):
        ours.decode(z)


@torch.no_grad()
def test_slices() -> None:
    ours, _ = pair("small")
    sample, z = torch.randn(3, 3, 16, 16), torch.randn(3, 3, 8, 8)
    mean, image = ours.encode(sample).latent_dist.mean, ours.decode(z).sample
    batches = []
    ours.decoder.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    ours.enable_slicing()
    assert relative_error(ours.encode(sample).latent_dist.mean, mean) <= 1e-6
    assert relative_error(ours.decode(z).sample, image) <= 1e-6
    ours.disable_slicing()
    ours.decode(z)
    assert batches == [1, 1, 1, 3]


def test_gradients_match_diffusers() -> None:
    ours, theirs = pair("attention_in_places")
    sample, z = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 4, 4)
    for model in (ours.train(), theirs.train()):
        posterior = model.encode(sample).latent_dist
        loss = model.decode(posterior.mode() + z).sample.square().mean() + posterior.kl().mean()
        loss.backward()
    for (key, parameter), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        scale = other.grad.abs().max()
        assert (parameter.grad - other.grad).abs().max() <= 1e-4 * scale + 1e-7, key


def test_gradients_pass_through_tiles() -> None:
    ours, theirs = pair("small")
    z = torch.randn(1, 3, 8, 14)
    gradients = []
    for model in (ours, theirs):
        model.enable_tiling()
        model.decode(z).sample.square().mean().backward()
        gradients.append(model.decoder.conv_in.weight.grad)
    assert relative_error(*gradients) <= 1e-4


@torch.no_grad()
def test_channels_last_in_and_out() -> None:
    ours, _ = pair("small")
    z = torch.randn(2, 3, 8, 8)
    image = ours.decode(z.contiguous(memory_format=torch.channels_last)).sample
    assert image.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(image, ours.decode(z).sample)


@torch.no_grad()
def test_half_precision() -> None:
    ours, _ = pair("small")
    z = torch.randn(1, 3, 8, 8)
    expected = ours.decode(z).sample
    result = ours.to(torch.bfloat16).decode(z.to(torch.bfloat16)).sample
    assert result.dtype == torch.bfloat16
    assert relative_error(result.float(), expected) <= 0.05


def test_bad_arguments() -> None:
    model = AutoencoderKL(**CONFIGS["three_levels"])
    for shape in ((1, 4, 16, 16), (3, 16, 16), (1, 3, 16)):
        with pytest.raises(ValueError, match=r"^sample must have shape \[B, 3, H, W\], got"):
            model.encode(torch.zeros(shape))
        with pytest.raises(ValueError, match=r"^sample must have shape \[B, 3, H, W\], got"):
            model(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"^sample must have at least 4 x 4 pixels"):
        model.encode(torch.zeros(1, 3, 16, 3))
    for shape in ((1, 3, 4, 4), (4, 4, 4), (1, 4, 0, 4)):
        with pytest.raises(ValueError, match=r"^latents must have shape \[B, 4, H, W\], got"):
            model.decode(torch.zeros(shape))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"in_channels": 0}, "in_channels must be an integer from 1"),
        ({"latent_channels": "4"}, "latent_channels must be an integer"),
        ({"block_out_channels": ()}, "block_out_channels must be a list of 1 to 12"),
        ({"block_out_channels": (48,)}, r"norm_num_groups must divide .*32 .*\[0\] = 48"),
        ({"down_block_types": ("DownBlock2D",)}, r"down_block_types\[0\] must be one of"),
        ({"up_block_types": ("UpDecoderBlock2D",) * 2}, "up_block_types must have one entry per"),
        ({"act_fn": "tanh"}, "act_fn must be one of"),
        ({"layers_per_block": 33}, "layers_per_block must be an integer from 1 to 32"),
        ({"sample_size": (32,)}, "sample_size must be a list of 2 to 2"),
        ({"sample_size": True}, "sample_size must be an integer"),
        ({"scaling_factor": 0}, "scaling_factor must be a number"),
        ({"shift_factor": "0"}, "shift_factor must be a number"),
        ({"latents_mean": (0.0,)}, "latents_mean must be a list of 4 to 4"),
        ({"latents_std": (0.0,) * 4}, r"latents_std\[0\] must be a number"),
        ({"use_quant_conv": 1}, "use_quant_conv must be true or false"),
        ({"force_upcast": None}, "force_upcast must be true or false"),
        ({"norm_type": "group"}, "unknown configuration key 'norm_type'"),
        (
            {"block_out_channels": (1 << 14,), "layers_per_block": 32},
            "ask for about .* parameters",
        ),
    ],
)
def test_bad_configurations(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^.*{message}"):
        AutoencoderKL(**config)


def test_distribution_as_in_diffusers() -> None:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution as Theirs

    torch.manual_seed(0)
    parameters, others = 30 * torch.randn(2, 6, 4, 4), torch.randn(2, 6, 4, 4)
    sample = torch.randn(2, 3, 4, 4)
    for deterministic in (False, True):
        ours = DiagonalGaussianDistribution(parameters, deterministic)
        theirs = Theirs(parameters, deterministic)
        for part in ("mean", "logvar", "std", "var"):
            assert torch.equal(getattr(ours, part), getattr(theirs, part))
        assert torch.equal(ours.mode(), theirs.mode())
        torch.testing.assert_close(ours.kl(), theirs.kl(), rtol=1e-6, atol=0)
        other = DiagonalGaussianDistribution(others), Theirs(others)
        torch.testing.assert_close(ours.kl(other[0]), theirs.kl(other[1]), rtol=1e-6, atol=0)
        torch.testing.assert_close(ours.nll(sample), theirs.nll(sample), rtol=1e-6, atol=0)
        generators = [torch.Generator().manual_seed(5) for _ in range(2)]
        assert torch.equal(ours.sample(generators[0]), theirs.sample(generators[1]))
        lists = [[torch.Generator().manual_seed(seed) for seed in (1, 2)] for _ in range(2)]
        assert torch.equal(ours.sample(lists[0]), theirs.sample(lists[1]))
    with pytest.raises(ValueError, match=r"parameters must have shape \[B, 2 \* C, ...\]"):
        DiagonalGaussianDistribution(torch.zeros(1, 3, 2, 2))


def test_distribution_is_differentiable() -> None:
    parameters = torch.randn(2, 6, 4, 4, requires_grad=True)
    posterior = DiagonalGaussianDistribution(parameters)
    (posterior.sample().sum() + posterior.kl().sum()).backward()
    assert parameters.grad is not None
    assert parameters.grad.abs().min() > 0
