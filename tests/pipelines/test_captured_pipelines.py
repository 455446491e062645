"""Every pipeline's steps can be captured: same bits as without, and no wait for the device."""

from __future__ import annotations

import glide_parts
import latent_parts
import pytest
import torch
from test_bddm_pipeline import TINY as DIFFWAVE
from test_grad_tts import make as make_grad_tts
from test_grad_tts import texts

import septet
from captured import Watched
from stored import Oracle


def image_pipeline(name, unet):
    return getattr(septet, name)(unet, septet.DDPMScheduler())


def latent_diffusion(folder):
    parts = {
        "vqvae": latent_parts.seeded(septet.AutoencoderKL, **latent_parts.VAE),
        "bert": latent_parts.seeded(septet.LDMBertModel, **latent_parts.BERT),
        "unet": latent_parts.seeded(septet.UNet2DConditionModel, **latent_parts.UNET),
    }
    scheduler = septet.DDIMScheduler(**latent_parts.LDM_SCHEDULER)
    tokenizer = latent_parts.make_tokenizer(folder)
    return septet.LatentDiffusionPipeline(tokenizer=tokenizer, scheduler=scheduler, **parts)


def latent_unconditional():
    unet = latent_parts.seeded(septet.UNet2DModel, **latent_parts.UNCONDITIONAL_UNET)
    vae = latent_parts.seeded(septet.AutoencoderKL, **latent_parts.VAE)
    scheduler = septet.DDIMScheduler(**latent_parts.LDM_SCHEDULER)
    return septet.LDMPipeline(vae, unet, scheduler)


def bddm():
    network = latent_parts.seeded(septet.DiffWaveModel, **DIFFWAVE)
    torch.nn.init.normal_(network.final_conv[2].conv.weight, std=0.1)
    return septet.BDDMPipeline(network, septet.BDDMScheduler(schedule=[0.001, 0.05, 0.4]))


SEEDS = [3, 4]
STEPS = {"num_inference_steps": 4, "output_type": "pt"}


def draw_images(pipeline, **call):
    return pipeline(batch_size=2, generator=septet.PhiloxSeeds(SEEDS), **STEPS, **call)[0]


def inpaint(pipeline):
    image = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:] = 1
    call = {"inpaint_image": image, "inpaint_mask": mask, "num_inference_steps_upscale": 3}
    return draw_for_prompts(pipeline, **call)


def draw_for_prompts(pipeline, **call):
    prompts = ["a red apple", "the cat"]
    return pipeline(prompts, generator=septet.PhiloxSeeds(SEEDS), **STEPS, **call)[0]


def vocode(pipeline):
    mel = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0))
    return pipeline(mel, generator=septet.PhiloxSeeds(SEEDS), output_type="pt")[0]


def speak(pipeline, **call):
    words = texts(Oracle("grad_tts_single"))
    seeds = septet.PhiloxSeeds(range(len(words)))
    return pipeline(words, generator=seeds, **STEPS, **call).mel_spectrograms


#: Pipeline, call, and how many steps are captured.
RUNS = {
    "ddpm": (lambda unet, _: image_pipeline("DDPMPipeline", unet), draw_images, 1),
    "ddim": (
        lambda unet, _: image_pipeline("DDIMPipeline", unet),
        lambda pipeline: draw_images(pipeline, eta=0.5),
        1,
    ),
    "pndm": (lambda unet, _: image_pipeline("PNDMPipeline", unet), draw_images, 1),
    "latent-diffusion": (
        lambda _, folder: latent_diffusion(folder),
        lambda pipeline: draw_for_prompts(pipeline, guidance_scale=3.0, eta=0.3),
        1,
    ),
    "latent-unconditional": (lambda *_: latent_unconditional(), draw_images, 1),
    "glide": (
        lambda *_: glide_parts.pipeline(),
        lambda pipeline: draw_for_prompts(pipeline, num_inference_steps_upscale=3),
        2,
    ),
    "glide-inpaint": (lambda *_: glide_parts.pipeline(inpaint=True), inpaint, 2),
    "bddm": (lambda *_: bddm(), vocode, 1),
    "grad-tts": (lambda *_: make_grad_tts(Oracle("grad_tts_single")), speak, 1),
    "grad-tts-stochastic": (
        lambda *_: make_grad_tts(Oracle("grad_tts_single")),
        lambda pipeline: speak(pipeline, stochastic=True),
        1,
    ),
}


def listed(value):
    return value if isinstance(value, list) else [value]


@pytest.mark.parametrize("name", RUNS)
def test_captured_steps_give_the_same_bits_and_never_wait(name, unet, tmp_path):
    make, call, count = RUNS[name]
    pipeline = make(unet, tmp_path / "tokenizer")
    pipeline.set_progress_bar_config(disable=True)
    expected = listed(call(pipeline))
    assert expected
    graphs = pipeline.step_graphs = Watched()
    for _ in range(2):
        results = listed(call(pipeline))
        assert graphs.reason is None
        assert graphs.captures == count
        for a, b in zip(results, expected, strict=True):
            assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))


def test_moving_a_pipeline_forgets_its_graphs(unet):
    pipeline = image_pipeline("DDIMPipeline", unet)
    pipeline.set_progress_bar_config(disable=True)
    graphs = pipeline.step_graphs = Watched()
    draw_images(pipeline)
    assert len(graphs) == 1
    pipeline.to("cpu")
    assert len(graphs) == 0
