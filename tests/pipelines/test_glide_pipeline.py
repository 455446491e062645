"""GLIDE's pipeline against the authors' notebooks re-enacted, and all its arguments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from glide_parts import TINY, networks, original_run, pipeline, randomised, tokenizer
from PIL import Image

import septet
from septet import GLIDEPipeline, GLIDEScheduler, GlideSuperResolutionUNet
from septet.text import GlideTokenizer

# float32 rounding, through up to ten evaluations of the networks
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def pipe():
    return pipeline()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def run(pipe, prompt="a red cube", **options):
    options = {
        "num_inference_steps": 4,
        "num_inference_steps_upscale": 3,
        "generator": seeded(),
        "output_type": "pt",
        **options,
    }
    return pipe(prompt, **options).images


def as_sample(images):
    return images * 2 - 1


# -- the original's images ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompts", "guidance", "steps", "steps_up", "eta"),
    [
        (["a red cube"], 3.0, "4", "3", 0.0),
        (["a red cube", "😀"], 4.5, "3,2", [2, 2], 0.0),
        (["", "a text that is longer than all"], 3.0, "ddim4", "3", 0.6),
        (["a red cube", "ab"], 1.0, "3", "2", 0.0),
    ],
)
@pytest.mark.parametrize("backend", ["fused", "eager"])
def test_seeds_give_the_originals_images(pipe, prompts, guidance, steps, steps_up, eta, backend):
    small, large = original_run(
        pipe,
        prompts,
        7,
        guidance=guidance,
        steps=steps,
        steps_up=steps_up,
        temperature=0.9,
        eta=eta,
    )
    options = {
        "guidance_scale": guidance,
        "num_inference_steps": steps,
        "num_inference_steps_upscale": steps_up,
        "eta": eta,
        "upsample_temp": 0.9,
    }
    with septet.use_backend(backend):
        generator = seeded(7)
        got = as_sample(run(pipe, prompts, **options, generator=generator))
        base = as_sample(run(pipe, prompts, **options, base_only=True, generator=seeded(7)))
    assert (base - small.clamp(-1, 1)).abs().max() <= TOLERANCE
    assert (got - large.clamp(-1, 1)).abs().max() <= TOLERANCE
    # nothing in them is flat or clipped away
    assert got.std() > 0.1


def test_a_generator_goes_on_where_the_originals_would(pipe):
    """Noise that the last step and DDIM with eta 0 do not use is drawn all the same."""
    generator, theirs = seeded(7), seeded(7)
    run(pipe, num_inference_steps=2, num_inference_steps_upscale="2", generator=generator)
    for shape in [(2, 3, 8, 8)] * 3 + [(1, 3, 16, 16)] * 3:
        torch.randn(shape, generator=theirs)
    assert torch.equal(generator.get_state(), theirs.get_state())


def halves(size):
    mask = torch.zeros(1, 1, size, size)
    mask[..., : size // 2, :] = 1
    return mask


def test_inpainting_is_the_notebooks(pipe):
    pipe = pipeline(inpaint=True)
    assert pipe.upscale_scheduler.config.sampler == "ddpm"
    image = torch.rand(1, 3, 16, 16, generator=seeded()) * 1.8 - 0.9
    options = {"num_inference_steps": "4", "num_inference_steps_upscale": "3"}
    got = run(
        pipe,
        ["a", "b"],
        inpaint_image=image,
        inpaint_mask=halves(8),
        generator=seeded(5),
        **options,
    )
    small_image = torch.nn.functional.interpolate(
        image, (8, 8), mode="bicubic", align_corners=False, antialias=True
    )
    known = [(small_image, halves(8)), (image, halves(16))]
    _, large = original_run(
        pipe,
        ["a", "b"],
        5,
        guidance=3.0,
        steps="4",
        steps_up="3",
        temperature=0.997,
        known=known,
    )
    assert (as_sample(got) - large.clamp(-1, 1)).abs().max() <= TOLERANCE
    kept = as_sample(got)[:, :, :8]
    assert (kept - image[:, :, :8]).abs().max() <= TOLERANCE


def test_inpainting_networks_without_an_image_know_nothing():
    pipe = pipeline(inpaint=True)
    nothing = {"inpaint_image": torch.zeros(1, 3, 16, 16), "inpaint_mask": torch.zeros(1, 1, 8, 8)}
    assert torch.equal(run(pipe), run(pipe, **nothing))


def test_inpainting_takes_pil_images():
    pipe = pipeline(inpaint=True)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    mask = Image.fromarray((halves(8)[0, 0].numpy() * 255).astype(np.uint8))
    got = run(pipe, inpaint_image=Image.fromarray(pixels), inpaint_mask=mask)
    expected = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    assert (got - expected)[:, :, :8].abs().max() <= TOLERANCE
    assert (got - expected)[:, :, 8:].abs().max() > 0.1


# -- batches and generators ---------------------------------------------------------------------


def test_images_of_the_first_prompt_come_first(pipe):
    generators = [seeded(i) for i in range(4)]
    together = run(
        pipe, ["a red cube", "a hedgehog"], num_images_per_prompt=2, generator=generators
    )
    for index, prompt in enumerate(["a red cube"] * 2 + ["a hedgehog"] * 2):
        alone = run(pipe, prompt, generator=seeded(index))
        torch.testing.assert_close(together[[index]], alone, rtol=1e-4, atol=1e-5)


def test_philox_images_do_not_depend_on_the_batch(pipe):
    together = run(pipe, ["a", "b"], generator=septet.PhiloxSeeds([3, 4]))
    for index, prompt in enumerate("ab"):
        alone = run(pipe, prompt, generator=septet.PhiloxSeeds([3 + index]))
        torch.testing.assert_close(together[[index]], alone, rtol=1e-4, atol=1e-5)


def test_prompt_and_guidance_matter(pipe):
    images = run(pipe)
    assert torch.equal(run(pipe), images)
    for changed in (run(pipe, "another"), run(pipe, guidance_scale=9.0), run(pipe, "A red cube 2")):
        assert (changed - images).abs().max() > 1e-3
    assert torch.equal(run(pipe, "A RED Cube"), images)


def test_27_steps_are_the_authors(pipe):
    for steps, expected in ((27, 997), ("27", 999), ("fast27", 997)):
        run(pipe, num_inference_steps_upscale=steps, num_inference_steps=2)
        assert pipe.upscale_scheduler.timesteps[0] == expected
        assert len(pipe.upscale_scheduler.timesteps) == 27


def test_ddim_for_the_base_network(pipe):
    other = GLIDEPipeline(**{**pipe.components, "text_scheduler": GLIDEScheduler(sampler="ddim")})
    first = run(other, base_only=True, generator=seeded(1))
    assert (run(other, base_only=True, generator=seeded(1), eta=1.0) - first).abs().max() > 1e-3
    assert (run(pipe, base_only=True, generator=seeded(1)) - first).abs().max() > 1e-3


def test_a_ddim_scheduler_upsamples_as_in_2022(pipe):
    """Leading timesteps, the noise derived again from the clamped estimate, no respaced betas."""
    scheduler = septet.DDIMScheduler(num_train_timesteps=100)
    other = GLIDEPipeline(**{**pipe.components, "upscale_scheduler": scheduler})
    image = torch.rand(1, 3, 8, 8) * 2 - 1
    got = as_sample(
        other.upscale(image, "a", 4, upsample_temp=0.9, generator=seeded(), output_type="pt").images
    )
    bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 100, dtype=torch.float64), dim=0)
    low_res = ((image + 1) * 127.5).round() / 127.5 - 1
    tokens, mask = pipe.tokenizer(["a"], 12)
    x = torch.randn(1, 3, 16, 16, generator=seeded()) * 0.9
    for t in (75, 50, 25, 0):
        now, then = bar[t].item(), bar[t - 25].item() if t else 1.0
        epsilon = pipe.upscale_unet(x, t, low_res, tokens, mask).sample[:, :3]
        x0 = ((x - (1 - now) ** 0.5 * epsilon) / now**0.5).clamp(-1, 1)
        x = then**0.5 * x0 + (1 - then) ** 0.5 * (x - now**0.5 * x0) / (1 - now) ** 0.5
    assert (got - x.clamp(-1, 1)).abs().max() <= TOLERANCE
    with pytest.raises(ValueError, match="only a GLIDEScheduler knows other respacings"):
        other.upscale(image, "a", "fast27")


def test_upscale_is_the_second_stage(pipe):
    seen = {}

    def look(pipeline, row, _timestep, tensors):
        if pipeline.stage == "base" and row == 3:
            seen.update(small=tensors["sample"].clone(), state=generator.get_state())

    generator = seeded()
    names = {"callback_on_step_end_tensor_inputs": ("sample",)}
    images = run(pipe, generator=generator, callback_on_step_end=look, **names)
    generator.set_state(seen["state"])
    again = pipe.upscale(seen["small"], "a red cube", 3, generator=generator, output_type="pt")
    assert torch.equal(again.images, images)


def test_half_precision_samples_in_float32(pipe):
    expected = run(pipe)
    half = pipeline().to(torch.bfloat16)
    got = run(half)
    assert got.dtype == torch.float32
    assert (got - expected).abs().mean() < 0.03


# -- what comes back, and on the way --------------------------------------------------------------


def test_output_types(pipe):
    tensors = run(pipe)
    assert tensors.shape == (1, 3, 16, 16)
    pixels = run(pipe, output_type="np")
    np.testing.assert_array_equal(pixels, tensors.permute(0, 2, 3, 1).numpy())
    (image,) = run(pipe, output_type="pil")
    assert (image.mode, image.size) == ("RGB", (16, 16))
    (small,) = pipe("a", num_inference_steps=2, base_only=True, return_dict=False)[0]
    assert small.size == (8, 8)


def test_callbacks_see_both_stages(pipe):
    seen = []

    def look(pipeline, row, timestep, tensors):
        seen.append((pipeline.stage, row, timestep, tuple(tensors["latents"].shape[1:])))
        assert tensors["pred_original_sample"].abs().max() <= 1

    names = ("latents", "pred_original_sample")
    run(pipe, callback_on_step_end=look, callback_on_step_end_tensor_inputs=names)
    base = [("base", i, t, (3, 8, 8)) for i, t in enumerate((999, 666, 333, 0))]
    large = [("upscale", i, t, (3, 16, 16)) for i, t in enumerate((999, 500, 0))]
    assert seen == base + large


@pytest.mark.parametrize(("stage", "size"), [("base", 8), ("upscale", 16)])
def test_interruption(pipe, stage, size):
    seen = []

    def stop(pipeline, row, _timestep, _tensors):
        seen.append(row)
        pipeline._interrupt = pipeline.stage == stage

    images = run(pipe, callback_on_step_end=stop)
    assert images.shape[-1] == size
    assert len(seen) == (1 if stage == "base" else 5)


# -- bad arguments ------------------------------------------------------------------------------

IMAGE, MASK = torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 8, 8)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"prompt": 3}, "prompt must be a string or a list of strings, got 3"),
        ({"prompt": ["a", None]}, "prompt must be a string or a list of strings"),
        ({"prompt": []}, "prompt must be a string or a list of strings"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt must be an integer"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a number"),
        ({"guidance_scale": "3"}, "guidance_scale must be a number"),
        ({"num_inference_steps": 1001}, "does not fit"),
        ({"num_inference_steps": "ddim999"}, "does not fit"),
        ({"num_inference_steps": None}, "respacing must be a number"),
        ({"num_inference_steps_upscale": "1,2,"}, "respacing must be a number"),
        ({"eta": 2.0}, "eta must be a number from 0 to 1"),
        ({"upsample_temp": -1}, "upsample_temp must be a number"),
        ({"base_only": 1}, "base_only must be true or false"),
        ({"output_type": "jpg"}, "output_type must be one of"),
        ({"generator": [seeded()] * 2}, "generator is a list of length 2, but the batch size is 1"),
        ({"generator": septet.PhiloxSeeds([1, 2])}, "2 Philox seeds"),
        ({"callback_on_step_end": 1}, "callback_on_step_end must be callable"),
        ({"callback_on_step_end_tensor_inputs": ("x",)}, "must be among"),
        ({"inpaint_image": IMAGE, "inpaint_mask": MASK}, "text_unet does not inpaint"),
        ({"inpaint_image": IMAGE}, "must be given together"),
    ],
)
def test_bad_arguments(pipe, options, match):
    options = {"prompt": "a", **options}
    with pytest.raises(ValueError, match=match):
        run(pipe, options.pop("prompt"), **options)


@pytest.mark.parametrize(
    ("image", "mask", "match"),
    [
        (
            torch.zeros(1, 1, 16, 16),
            MASK,
            r"inpaint_image must be a PIL image or a tensor of shape",
        ),
        (IMAGE, torch.zeros(8, 8), "inpaint_mask must be a PIL image or a tensor of shape"),
        (torch.zeros(2, 3, 16, 16), MASK, "one image or one per sample, got 2 for 1"),
        (IMAGE, torch.zeros(3, 1, 8, 8), "one mask or one per sample, got 3 for 1"),
        ("image.png", MASK, "inpaint_image must be a PIL image"),
    ],
)
def test_bad_images(image, mask, match):
    with pytest.raises(ValueError, match=match):
        run(pipeline(inpaint=True), inpaint_image=image, inpaint_mask=mask)


@pytest.mark.parametrize(
    ("image", "prompt", "match"),
    [
        (torch.zeros(1, 3, 16, 16), "a", r"image must have shape \[B, 3, 8, 8\], got"),
        (torch.zeros(1, 1, 8, 8), "a", "image must be a PIL image or a tensor of shape"),
        (torch.zeros(2, 3, 8, 8), ["a", "b", "c"], "one text or one per image, got 3 for 2"),
    ],
)
def test_bad_images_to_enlarge(pipe, image, prompt, match):
    with pytest.raises(ValueError, match=match):
        pipe.upscale(image, prompt)


def test_components_must_suit(pipe):
    parts = pipe.components
    wrong = randomised(GlideSuperResolutionUNet(**TINY, upscale_factor=2), 0)
    for change, match in (
        ({"upscale_unet": wrong}, "enlarges images of 4 pixels, but text_unet makes images of 8"),
        ({"upscale_unet": networks()[0]}, "must be a GlideSuperResolutionUNet"),
        ({"text_unet": networks()[1]}, "must be a GlideTextToImageUNet"),
        (
            {"tokenizer": GlideTokenizer.bundled()},
            "tokenizer must have the 257 tokens of text_unet",
        ),
        ({"text_scheduler": 3}, "text_scheduler must be a scheduler, got int"),
        ({"upscale_scheduler": "ddim"}, "upscale_scheduler must be a scheduler, got str"),
    ):
        with pytest.raises(ValueError, match=match):
            GLIDEPipeline(**{**parts, **change})


def test_small_images_only():
    pipe = GLIDEPipeline(networks()[0], septet.DDPMScheduler(), tokenizer())
    assert isinstance(pipe.text_scheduler, GLIDEScheduler)
    assert pipe("a", num_inference_steps=2, base_only=True, output_type="np").images.shape[1] == 8
    with pytest.raises(ValueError, match="base_only must be True"):
        pipe("a")
    with pytest.raises(ValueError, match="upscale needs an upscale_unet"):
        pipe.upscale(torch.zeros(1, 3, 8, 8))
