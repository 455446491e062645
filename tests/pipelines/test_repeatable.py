"""Every pipeline gives the same bits with 1 and 2 threads, and again and again."""

from __future__ import annotations

import pytest
import torch

import septet
from septet.bench.model_rows import DDPM_CIFAR10
from septet.cli.speech import load_voice, voice_folder
from septet.cli.text_demo import load_asset


def draw_digits(kind, generator, **options):
    scheduler = load_asset("digits").scheduler
    pipe = getattr(septet, kind)(load_asset("digits").unet, scheduler)
    pipe.set_progress_bar_config(disable=True)
    result = pipe(2, num_inference_steps=4, generator=generator, output_type="np", **options)
    return [result.images]


def draw_with_wide_layers(generator):
    """Layers of 128 and 256 channels on 32x32 pixels, which threads share among them."""
    config = DDPM_CIFAR10 | {
        "block_out_channels": (128, 256),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipe = septet.DDIMPipeline(septet.UNet2DModel(**config).eval(), septet.DDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    return [pipe(1, num_inference_steps=2, generator=generator, output_type="np").images]


def draw_emoji(generator):
    options = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "np"}
    return [load_asset("emoji")(["red apple", "a guitar"], generator=generator, **options).images]


def draw_latents_alone(generator):
    parts = load_asset("emoji")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = septet.UNet2DModel(
            sample_size=8,
            in_channels=parts.vqvae.config.latent_channels,
            out_channels=parts.vqvae.config.latent_channels,
            block_out_channels=(64, 128),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )
    pipe = septet.LDMPipeline(parts.vqvae, unet.eval(), parts.scheduler)
    pipe.set_progress_bar_config(disable=True)
    return [pipe(2, num_inference_steps=3, generator=generator, output_type="np").images]


def draw_glide(generator):
    options = {"num_inference_steps": 3, "num_inference_steps_upscale": 3, "output_type": "np"}
    return [load_asset("glide")("a red apple", generator=generator, **options).images]


def vocode(generator):
    pipe = septet.BDDMPipeline.from_pretrained(voice_folder("vocoder"))
    pipe.set_progress_bar_config(disable=True)
    mel = torch.randn(1, 64, 48, generator=generator) - 4
    return list(pipe(mel, generator=generator).audios)


def speak(generator):
    pipe = load_voice()
    output = pipe("Good morning.", num_inference_steps=3, generator=generator)
    return [output.mel_spectrograms, *output.audios]


def speak_with_wide_layers(generator):
    """A text encoder of the published width, whose sums torch shares among threads, and HiFi-GAN.

    The text is long enough for that too.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = septet.GradTTSTextEncoder(n_layers=1).eval()
        vocoder = septet.HiFiGANModel(
            upsample_rates=(2, 2),
            upsample_kernel_sizes=(4, 4),
            upsample_initial_channel=256,
            resblock_kernel_sizes=(3,),
            resblock_dilation_sizes=((1,),),
        )
        ids = torch.randint(0, 149, (1, 151))
    with torch.inference_mode():
        output = encoder(ids, torch.tensor([151]))
        return [output.mu, output.log_durations, vocoder.eval()(output.mu)]


PIPELINES = {
    "DDPM": lambda generator: draw_digits("DDPMPipeline", generator),
    "DDIM": lambda generator: draw_digits("DDIMPipeline", generator, eta=0.5),
    "PNDM": lambda generator: draw_digits("PNDMPipeline", generator),
    "DDIM, wide": draw_with_wide_layers,
    "Latent Diffusion": draw_emoji,
    "LDM": draw_latents_alone,
    "GLIDE": draw_glide,
    "BDDM": vocode,
    "Grad-TTS": speak,
    "Grad-TTS, wide": speak_with_wide_layers,
}


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", PIPELINES)
def test_bits_depend_on_neither_threads_nor_run(name):
    found = []
    for count in (1, 2, 1):
        torch.set_num_threads(count)
        outputs = PIPELINES[name](torch.Generator().manual_seed(0))
        found.append([torch.as_tensor(output) for output in outputs])
    for other in found[1:]:
        for ours, theirs in zip(found[0], other, strict=True):
            assert ours.isfinite().all()
            assert ours.std() > 0, "nothing to compare"
            assert torch.equal(ours, theirs)
