"""Latent diffusion against diffusers 0.42: same weights, same noise, same pictures."""

from __future__ import annotations

import logging

import latent_parts as parts
import numpy as np
import pytest
import torch

import septet

diffusers = pytest.importorskip("diffusers")
ldm = pytest.importorskip("diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion")

PROMPTS = ["a red apple", "painting of the cat eating a burger"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return parts.make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def networks():
    """The networks of septet and their twins of diffusers, by component name."""
    ours = {
        "vqvae": parts.seeded(septet.AutoencoderKL, **parts.VAE),
        "bert": parts.seeded(septet.LDMBertModel, **parts.BERT),
        "unet": parts.seeded(septet.UNet2DConditionModel, **parts.UNET),
    }
    theirs = {
        "vqvae": diffusers.AutoencoderKL(**parts.VAE),
        "bert": ldm.LDMBertModel(ldm.LDMBertConfig(**parts.BERT)),
        "unet": diffusers.UNet2DConditionModel(**parts.UNET),
    }
    for name, network in theirs.items():
        parts.frozen(network).load_state_dict(ours[name].state_dict())
    return ours, theirs


def make(library, networks, tokenizer, scheduler="DDIMScheduler", **options):
    config = {**parts.LDM_SCHEDULER, **options}
    if scheduler == "PNDMScheduler":
        config = {k: v for k, v in config.items() if k != "clip_sample"} | {"skip_prk_steps": True}
    if scheduler == "DDPMScheduler":
        config.pop("set_alpha_to_one")
    pipeline = library.LDMTextToImagePipeline(
        tokenizer=tokenizer, scheduler=getattr(library, scheduler)(**config), **networks
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def ours(networks, tokenizer):
    return make(septet, networks[0], tokenizer)


@pytest.fixture(scope="module")
def theirs(networks, tokenizer):
    return make(diffusers, networks[1], tokenizer)


def images(pipeline, prompt=PROMPTS, seed=5, **call):
    """Draw with the global generator: diffusers takes the noise of steps from no other."""
    call = {"num_inference_steps": 4, "output_type": "np", **call}
    with torch.random.fork_rng():
        return pipeline(prompt, generator=torch.manual_seed(seed), **call).images


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "PNDMScheduler", "DDPMScheduler"])
@pytest.mark.parametrize("guidance_scale", [1.0, 6.0, 0.5])
def test_same_seed_same_images(scheduler, guidance_scale, networks, tokenizer):
    results = [
        images(make(library, parts, tokenizer, scheduler), guidance_scale=guidance_scale)
        for library, parts in zip((septet, diffusers), networks, strict=True)
    ]
    assert results[0].shape == (2, 64, 64, 3)
    np.testing.assert_allclose(*results, rtol=0, atol=1e-4)


def test_eta_draws_from_the_given_generator(ours, theirs):
    call = {"eta": 0.7, "guidance_scale": 4.0, "num_inference_steps": 4, "output_type": "np"}
    mine = ours(PROMPTS, generator=torch.Generator().manual_seed(5), **call).images
    np.testing.assert_allclose(mine, images(theirs, **call), rtol=0, atol=1e-4)
    assert np.abs(mine - images(ours, **{**call, "eta": 0.0})).max() > 1e-3


def test_components_of_diffusers_work_too(ours, networks, tokenizer):
    foreign = septet.LDMTextToImagePipeline(
        tokenizer=tokenizer,
        scheduler=diffusers.DDIMScheduler(**parts.LDM_SCHEDULER),
        **networks[1],
    )
    foreign.set_progress_bar_config(disable=True)
    for scale in (1.0, 6.0):
        pair = [images(pipe, guidance_scale=scale) for pipe in (foreign, ours)]
        np.testing.assert_allclose(*pair, rtol=0, atol=1e-4)


def test_size_and_latents(ours, theirs):
    latents = torch.randn(2, 4, 6, 10, generator=torch.Generator().manual_seed(0))
    call = {"latents": latents, "height": 48, "width": 80, "guidance_scale": 3.0}
    pair = [images(pipe, **call) for pipe in (ours, theirs)]
    assert pair[0].shape == (2, 48, 80, 3)
    np.testing.assert_allclose(*pair, rtol=0, atol=1e-4)


def test_images_of_a_prompt_follow_each_other(ours):
    repeated = images(ours, num_images_per_prompt=2, guidance_scale=2.0)
    spelled_out = images(ours, [PROMPTS[0]] * 2 + [PROMPTS[1]] * 2, guidance_scale=2.0)
    np.testing.assert_allclose(repeated, spelled_out, rtol=0, atol=1e-5)


def test_negative_prompt_is_the_other_end_of_guidance(ours):
    """Guidance is linear in both predictions: scale 0 leaves the negative prompt alone."""
    negative = images(ours, guidance_scale=0.0, negative_prompt="the green cat")
    alone = images(ours, ["the green cat"] * 2, guidance_scale=1.0)
    np.testing.assert_allclose(negative, alone, rtol=0, atol=1e-5)


def test_prompt_embeds_instead_of_prompts(ours, networks, tokenizer):
    ids = tokenizer(
        [*PROMPTS, ""], padding="max_length", max_length=77, return_tensors="pt"
    ).input_ids
    embeds = networks[1]["bert"](ids)[0]
    from_embeds = images(
        ours,
        None,
        prompt_embeds=embeds[:2],
        negative_prompt_embeds=embeds[2:],
        guidance_scale=5.0,
    )
    np.testing.assert_allclose(from_embeds, images(ours, guidance_scale=5.0), rtol=0, atol=1e-4)


def test_latent_output_leaves_out_the_decoder(ours):
    latents = images(ours, output_type="latent")
    assert latents.shape == (2, 4, 8, 8)
    decoded = ours.vqvae.decode(latents / ours.vqvae.config.scaling_factor).sample
    pictures = (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(pictures, images(ours), rtol=0, atol=1e-6)


def test_one_prompt_as_a_string(ours):
    result = ours("a red apple", num_inference_steps=2)
    assert [image.size for image in result.images] == [(64, 64)]
    assert isinstance(ours("a red apple", num_inference_steps=2, return_dict=False), tuple)


def test_philox_seeds_make_images_independent_of_the_batch(ours):
    both = ours(
        PROMPTS, num_inference_steps=3, eta=1.0, generator=septet.PhiloxSeeds([7, 8]),
        output_type="np",
    ).images  # fmt: skip
    second = ours(
        PROMPTS[1], num_inference_steps=3, eta=1.0, generator=septet.PhiloxSeeds([8]),
        output_type="np",
    ).images  # fmt: skip
    np.testing.assert_allclose(both[1:], second, rtol=0, atol=1e-5)


def test_callback_sees_and_replaces_latents(ours):
    seen = []

    def zero_in_the_end(pipeline, index, timestep, tensors):
        seen.append((index, timestep, tuple(tensors["latents"].shape)))
        return {"latents": tensors["latents"] * (index < 3)}

    latents = images(ours, output_type="latent", callback_on_step_end=zero_in_the_end)
    assert [index for index, _, _ in seen] == [0, 1, 2, 3]
    assert not latents.any()


def test_long_prompts_are_cut_with_a_warning(ours, theirs, caplog):
    long = "a " * 100 + "cat"
    with caplog.at_level(logging.WARNING):
        mine = images(ours, long)
    assert "103 tokens, of which only 77 are used" in caplog.text
    np.testing.assert_allclose(mine, images(theirs, long), rtol=0, atol=1e-4)


BAD = [
    ({"prompt": None}, "exactly one of prompt and prompt_embeds"),
    ({"prompt": 3}, "prompt must be a string or a list of strings"),
    ({"prompt": []}, "prompt must be a string or a list of strings"),
    ({"prompt": ["a", 3]}, "prompt must be a string or a list of strings"),
    ({"prompt_embeds": torch.zeros(1, 77, 16)}, "exactly one of prompt and prompt_embeds"),
    ({"negative_prompt": ["a", "b"]}, "negative_prompt must be one string or 1, .* got 2"),
    ({"height": 60}, "height must be a positive multiple of 8, got 60"),
    ({"width": 0}, "width must be a positive multiple of 8, got 0"),
    ({"guidance_scale": float("nan")}, "guidance_scale must be a number"),
    ({"eta": float("nan")}, "eta must be a finite number"),
    ({"num_inference_steps": 0}, "num_inference_steps"),
    ({"num_images_per_prompt": 0}, "num_images_per_prompt must be an integer of at least 1"),
    ({"latents": torch.zeros(1, 4, 8, 9)}, r"latents must be \[1, 4, 8, 8\], got \[1, 4, 8, 9\]"),
    ({"output_type": "gif"}, "output_type must be one of .*'latent'"),
    ({"generator": [torch.Generator()] * 2}, "generator"),
    (
        {"prompt": None, "prompt_embeds": torch.zeros(1, 77, 20)},
        "prompt_embeds must have width 16 to fit unet.config.cross_attention_dim, got width 20",
    ),
    (
        {"guidance_scale": 2.0, "negative_prompt_embeds": torch.zeros(1, 76, 16)},
        r"negative_prompt_embeds must match prompt_embeds \[1, 77, 16\], got \[1, 76, 16\]",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_arguments(call, message, ours):
    with pytest.raises(ValueError, match=message):
        ours(**{"prompt": "a", **call})


def test_text_encoder_must_fit_the_network(networks, tokenizer):
    unet = septet.UNet2DConditionModel(**{**parts.UNET, "cross_attention_dim": 24})
    with pytest.raises(ValueError, match=r"bert must have the width 24 of .* of width 16"):
        make(septet, {**networks[0], "unet": unet}, tokenizer)


# -- folders -----------------------------------------------------------------------------------


def test_saved_folders_are_read_by_both(ours, theirs, tmp_path):
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = [
        septet.DiffusionPipeline.from_pretrained(tmp_path / "theirs"),
        septet.LatentDiffusionPipeline.from_pretrained(tmp_path / "ours"),
        diffusers.LDMTextToImagePipeline.from_pretrained(tmp_path / "ours"),
    ]
    expected = images(ours, guidance_scale=3.0)
    for pipeline in loaded:
        pipeline.set_progress_bar_config(disable=True)
        result = images(pipeline, guidance_scale=3.0)
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-4)


def test_stable_diffusion_folder(networks, tmp_path):
    """Other component names, a CLIP text encoder, and parts that septet does not have."""
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPTextConfig(
        vocab_size=100, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, projection_dim=16, bos_token_id=98, eos_token_id=99,
    )  # fmt: skip
    clip = parts.seeded(transformers.CLIPTextModel, config)
    tokenizer = make_clip_tokenizer(tmp_path / "vocabulary")
    scheduler = diffusers.PNDMScheduler(
        beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    theirs = diffusers.StableDiffusionPipeline(
        vae=networks[1]["vqvae"], text_encoder=clip, tokenizer=tokenizer,
        unet=networks[1]["unet"], scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(tmp_path / "sd")
    ours = septet.DiffusionPipeline.from_pretrained(tmp_path / "sd")
    ours.set_progress_bar_config(disable=True)
    assert isinstance(ours, septet.LatentDiffusionPipeline)
    call = {"guidance_scale": 7.5, "negative_prompt": ["ab", "b"], "num_images_per_prompt": 2}
    pair = [images(pipe, ["ab a", "b"], **call) for pipe in (ours, theirs)]
    assert pair[0].shape == (4, 64, 64, 3)
    np.testing.assert_allclose(*pair, rtol=0, atol=1e-4)


def make_clip_tokenizer(folder):
    import json

    from transformers import CLIPTokenizer

    folder.mkdir(parents=True)
    tokens = ["a", "b", "a</w>", "b</w>", "ab</w>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    vocabulary |= {"<|startoftext|>": 98, "<|endoftext|>": 99}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77
    )


# -- without text --------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_unconditional_latent_diffusion(eta, networks, tmp_path):
    twins = [
        parts.seeded(library.UNet2DModel, **parts.UNCONDITIONAL_UNET)
        for library in (septet, diffusers)
    ]
    twins[1].load_state_dict(twins[0].state_dict())
    theirs = diffusers.LDMPipeline(
        networks[1]["vqvae"], twins[1], diffusers.DDIMScheduler(**parts.LDM_SCHEDULER)
    )
    theirs.save_pretrained(tmp_path)
    ours = septet.DiffusionPipeline.from_pretrained(tmp_path)
    for pipe in (ours, theirs):
        pipe.set_progress_bar_config(disable=True)
    call = {"batch_size": 2, "num_inference_steps": 4, "eta": eta, "output_type": "np"}
    mine = ours(generator=torch.Generator().manual_seed(1), **call).images
    with torch.random.fork_rng():
        reference = theirs(generator=torch.manual_seed(1), **call).images
    assert mine.shape == (2, 64, 64, 3)
    np.testing.assert_allclose(mine, reference, rtol=0, atol=1e-4)
