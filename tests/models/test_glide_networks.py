"""GLIDE's networks: published sizes, batches of texts, inpainting, training, bad arguments."""

from __future__ import annotations

import pytest
import torch

import stored
import tiny_networks
from septet import GlideSuperResolutionUNet, GlideTextToImageUNet
from septet.models import glide_unet

TINY = {**tiny_networks.GLIDE, "text_ctx": 6}


def randomised(unet):
    """Replace the zeros that blocks start with."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weights in unet.parameters():
            weights.copy_(torch.randn_like(weights) * 0.1)
    return unet.eval()


@pytest.fixture
def base():
    return randomised(GlideTextToImageUNet(**TINY))


@pytest.fixture
def upsampler():
    return randomised(GlideSuperResolutionUNet(**TINY, upscale_factor=2))


def texts(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 32, (rows, 6), generator=generator)
    return tokens, torch.rand(rows, 6, generator=generator) > 0.4


def sample(batch=2, channels=3, size=8):
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(3))


# -- the published networks ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "network"),
    [("glide_base", GlideTextToImageUNet), ("glide_upsampler", GlideSuperResolutionUNet)],
)
def test_defaults_are_the_published_networks(name, network):
    layout = stored.layout(name)
    with torch.device("meta"):
        unet = network()
    assert sum(weights.numel() for weights in unet.parameters()) == layout["n_parameters"]
    shapes = {key: list(tensor.shape) for key, tensor in unet.state_dict().items()}
    assert shapes == layout["keys"]


@pytest.mark.parametrize(
    ("network", "channels", "parameters"),
    [(GlideTextToImageUNet, 7, 385_037_638), (GlideSuperResolutionUNet, 10, 398_368_198)],
)
def test_published_inpainting_networks(network, channels, parameters):
    with torch.device("meta"):
        unet = network(in_channels=channels)
    assert sum(weights.numel() for weights in unet.parameters()) == parameters
    assert unet.input_blocks[0][0].weight.shape == (192, channels, 3, 3)


def test_the_upsampler_of_the_early_folders_is_the_published_one_without_text():
    with torch.device("meta"):
        unet = GlideSuperResolutionUNet(xf_width=None)
    assert sum(weights.numel() for weights in unet.parameters()) == 311_027_910


# -- batches ------------------------------------------------------------------------------------


@torch.no_grad()
def test_each_row_reads_its_own_text(base):
    tokens, mask = texts(3)
    rows = torch.tensor([2, 0, 0, 1])
    prepared = base.prepare(torch.tensor([900, 5]), tokens, mask, text_rows=rows)
    images = sample(4)
    together = prepared(images, 1)
    for index, row in enumerate(rows.tolist()):
        alone = base(images[index : index + 1], 5, tokens[[row]], mask[[row]]).sample
        torch.testing.assert_close(together[index : index + 1], alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_long_run_keeps_less_and_computes_the_same(base, monkeypatch):
    tokens, mask = texts(2)
    options = {"text_rows": torch.tensor([1, 0])}
    timesteps = torch.arange(4)
    expected = base.prepare(timesteps, tokens, mask, **options)
    monkeypatch.setattr(glide_unet, "MAX_KEPT", 100)
    prepared = base.prepare(timesteps, tokens, mask, **options)
    assert prepared.times.numel() == 4 * 2 * 32
    for row in (2, torch.tensor(2)):
        output = prepared(sample(), row)
        torch.testing.assert_close(output, expected(sample(), 2), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_guidance_runs_both_halves_at_the_same_samples(base):
    tokens, mask = texts(2)
    rows = torch.tensor([0, 0, 1, 1])
    prepared = base.prepare(torch.tensor([7]), tokens, mask, text_rows=rows, guided=True)
    conditional, unconditional = prepared(sample(), 0)
    for output, row in ((conditional, 0), (unconditional, 1)):
        expected = base(sample(), 7, tokens[[row]], mask[[row]]).sample
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    assert (conditional - unconditional).abs().max() > 1e-4


@torch.no_grad()
def test_tokens_matter_only_where_the_mask_is_true(base):
    tokens, mask = texts(1)
    expected = base(sample(), 5, tokens, mask).sample
    for where, equal in ((mask, True), (~mask, False)):
        changed = torch.where(where, tokens, (tokens + 1) % 32)
        difference = (base(sample(), 5, changed, mask).sample - expected).abs().max()
        assert (difference == 0) == equal


@torch.no_grad()
def test_layout_of_the_sample_stays(base):
    tokens, mask = texts(1)
    wide = sample().contiguous(memory_format=torch.channels_last)
    output = base(wide, 5, tokens, mask).sample
    assert output.is_contiguous(memory_format=torch.channels_last)
    plain = base(sample(), 5, tokens, mask).sample
    assert plain.is_contiguous()
    assert torch.equal(output, plain)


# -- inpainting, low resolution -----------------------------------------------------------------


def known():
    image = sample() * 0.3
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., :4] = 1
    return {"inpaint_image": image, "inpaint_mask": mask}


@torch.no_grad()
def test_inpainting_networks_read_the_known_part_only():
    unet = randomised(GlideTextToImageUNet(**TINY, in_channels=7))
    tokens, mask = texts(1)
    images = known()
    output = unet(sample(), 5, tokens, mask, **images).sample
    hidden = images["inpaint_image"] + (1 - images["inpaint_mask"])
    same = unet(sample(), 5, tokens, mask, **{**images, "inpaint_image": hidden}).sample
    assert torch.equal(output, same)
    prepared = unet.prepare(torch.tensor([5]), tokens, mask, **images)
    torch.testing.assert_close(prepared(sample(), 0), output, rtol=1e-5, atol=1e-6)
    nothing = {key: torch.zeros_like(value) for key, value in images.items()}
    assert torch.equal(
        unet(sample(), 5, tokens, mask).sample, unet(sample(), 5, tokens, mask, **nothing).sample
    )


@torch.no_grad()
def test_order_of_the_inputs_of_an_inpainting_upsampler():
    unet = randomised(GlideSuperResolutionUNet(**TINY, in_channels=10, upscale_factor=2))
    seen = []
    unet.input_blocks[0][0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    low_res = sample(size=4)
    unet(sample(), 5, low_res, *texts(1), **known())
    x, image, mask, enlarged = seen[0].split([3, 3, 1, 3], dim=1)
    assert torch.equal(x, sample())
    assert torch.equal(image, known()["inpaint_image"] * known()["inpaint_mask"])
    assert torch.equal(mask, known()["inpaint_mask"])
    assert torch.equal(enlarged, unet.upsample(low_res))


# -- training, saving ---------------------------------------------------------------------------


def test_every_weight_learns(upsampler):
    upsampler.train()
    output = upsampler(sample(), torch.tensor([3, 900]), sample(size=4), *texts(2)).sample
    output.square().mean().backward()
    without = [key for key, w in upsampler.named_parameters() if w.grad is None or not w.grad.any()]
    assert without == []


def test_a_new_network_is_the_identity_block_by_block():
    unet = GlideTextToImageUNet(**TINY).eval()
    assert not unet(sample(), 5, *texts(1)).sample.any()
    image = torch.randn(1, 8, 8, 8)
    assert torch.equal(unet.input_blocks[1][0](image, torch.randn(1, 16)), image)


@torch.no_grad()
def test_save_and_load(upsampler, tmp_path):
    upsampler.save_pretrained(tmp_path)
    loaded = GlideSuperResolutionUNet.from_pretrained(tmp_path)
    assert loaded.config == upsampler.config
    output = loaded(sample(), 5, sample(size=4), *texts(1)).sample
    assert torch.equal(output, upsampler(sample(), 5, sample(size=4), *texts(1)).sample)


@torch.no_grad()
def test_half_precision_stays_close(base):
    expected = base(sample(), 5, *texts(1)).sample
    output = base.to(torch.bfloat16)(sample().bfloat16(), 5, *texts(1)).sample
    assert (output.float() - expected).abs().max() <= 0.05 * expected.abs().max()


@torch.no_grad()
def test_without_text_nothing_else_changes():
    unet = randomised(GlideSuperResolutionUNet(**{**TINY, "xf_width": None}, upscale_factor=2))
    prepared = unet.prepare(torch.tensor([5, 1]), sample(size=4))
    output = unet(sample(), 5, sample(size=4)).sample
    torch.testing.assert_close(prepared(sample(), 0), output, rtol=1e-5, atol=1e-6)


# -- bad arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("in_channels", 4, "in_channels must be 3, or 7 for inpainting"),
        ("out_channels", 5, "out_channels must be even"),
        ("channel_mult", (1, 3), "num_head_channels must divide"),
        ("num_head_channels", 5, "num_head_channels must divide"),
        ("norm_num_groups", 3, "multiple of norm_num_groups"),
        ("xf_heads", 3, "xf_heads must divide"),
        ("hidden_act", "relu", "hidden_act must be one of"),
        ("model_channels", 8192, "ask for about"),
        ("n_vocab", 1 << 30, "n_vocab must be"),
        ("dropout", 2.0, "dropout must be"),
        ("text_ctx", 0, "text_ctx must be"),
        ("unknown", 1, "unknown configuration key 'unknown'"),
    ],
)
def test_bad_configuration(key, value, match):
    config = {**TINY, "num_head_channels": 16, "attention_resolutions": (2,), "num_res_blocks": 1}
    if key == "model_channels":
        config |= {"channel_mult": (1, 2, 2, 2, 2, 2), "num_res_blocks": 32, "dropout": 0.0}
    with pytest.raises(ValueError, match=match):
        GlideTextToImageUNet(**{**config, key: value})


def test_upscale_factor_must_fit():
    with pytest.raises(ValueError, match="upscale_factor must divide sample_size = 8"):
        GlideSuperResolutionUNet(**TINY, upscale_factor=3)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"sample": sample(channels=4)}, "sample must have shape"),
        ({"sample": sample(size=7)}, "divisible by 2"),
        ({"tokens": None}, "tokens and mask must be given"),
        ({"tokens": torch.zeros(2, 5, dtype=torch.int64)}, r"tokens must have shape \[texts, 6\]"),
        ({"tokens": torch.full((2, 6), 32)}, "tokens must be from 0 to 31, got 32 to 32"),
        ({"mask": torch.ones(1, 6)}, r"mask must have shape \[texts, 6\]"),
        ({"tokens": torch.zeros(3, 6, dtype=torch.int64), "mask": torch.ones(3, 6)}, "3 texts"),
        ({"timestep": torch.arange(3)}, "timestep must be a number or one number per sample"),
        ({"low_res": sample(size=8)}, "low_res times upscale_factor"),
        ({"low_res": sample(batch=1, size=4)}, "low_res times upscale_factor"),
        ({"low_res": sample(channels=1, size=4)}, "low_res must have shape"),
        (known(), "does not inpaint"),
    ],
)
def test_bad_arguments(upsampler, change, match):
    tokens, mask = texts(2)
    arguments = {"sample": sample(), "timestep": 5, "low_res": sample(size=4)}
    with pytest.raises(ValueError, match=match):
        upsampler(**{**arguments, "tokens": tokens, "mask": mask, **change})


def test_bad_images_for_inpainting():
    unet = GlideTextToImageUNet(**TINY, in_channels=7)
    timesteps = torch.tensor([5])
    images = known()
    for change, match in (
        ({"inpaint_mask": None}, "must be given, and together"),
        ({"inpaint_image": sample(channels=2)}, r"inpaint_image must have shape \[B, 3, H, W\]"),
        ({"inpaint_mask": torch.ones(2, 3, 8, 8)}, "inpaint_mask must have shape"),
    ):
        with pytest.raises(ValueError, match=match):
            unet.prepare(timesteps, *texts(1), **{**images, **change})
    with pytest.raises(ValueError, match="together"):
        unet.prepare(timesteps, *texts(1))
