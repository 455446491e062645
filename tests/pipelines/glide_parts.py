"""Tiny GLIDE components, and the sampling of the authors' notebooks in plain torch."""

from __future__ import annotations

from typing import Any

import torch

import tiny_networks
from septet import GLIDEPipeline, GLIDEScheduler, GlideSuperResolutionUNet, GlideTextToImageUNet
from septet.text import GlideTokenizer
from septet.text.byte_pair import byte_characters

TINY = {**tiny_networks.GLIDE, "text_ctx": 12, "n_vocab": 257}


def tokenizer() -> GlideTokenizer:
    """Return one that knows bytes only."""
    tokens = [*byte_characters(), "<end>"]
    return GlideTokenizer({token: index for index, token in enumerate(tokens)}, [])


def randomised(unet: Any, seed: int) -> Any:
    """Give all weights random values, so that no block is the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in unet.parameters():
            weights.copy_(torch.randn(weights.shape, generator=generator) * 0.15)
    return unet.eval().requires_grad_(False)


def networks(*, inpaint: bool = False) -> tuple[Any, Any]:
    extra = 4 if inpaint else 0
    base = GlideTextToImageUNet(**TINY, in_channels=3 + extra)
    large = {**TINY, "sample_size": 16, "upscale_factor": 2}
    upsampler = GlideSuperResolutionUNet(**large, in_channels=6 + extra)
    return randomised(base, 1), randomised(upsampler, 2)


def pipeline(**options: Any) -> GLIDEPipeline:
    base, upsampler = networks(**options)
    pipe = GLIDEPipeline(base, GLIDEScheduler(), tokenizer(), upsampler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


# -- the original, from its text ----------------------------------------------------------------


def original_process(scheduler: Any, respacing: Any) -> dict[str, Any]:
    """Return the tables of guided-diffusion for a respacing, in float64."""
    scheduler.set_timesteps(respacing)
    steps = scheduler.timesteps.tolist()[::-1]
    kept = scheduler._cumprod[torch.tensor(steps)]
    one = torch.ones(1, dtype=torch.float64)
    betas = 1 - kept / torch.cat([one, kept[:-1]])
    bar = torch.cumprod(1 - betas, dim=0)
    previous = torch.cat([one, bar[:-1]])
    variance = betas * (1 - previous) / (1 - bar)
    low = torch.cat([variance[1:2], variance[1:]]).log()
    return {"steps": steps, "betas": betas, "bar": bar, "previous": previous, "low": low}


def original_sampling(
    model: Any,
    process: dict[str, Any],
    start: torch.Tensor,
    generator: torch.Generator,
    *,
    ddim: bool,
    eta: float = 0.0,
    denoised_fn: Any = lambda x: x,
) -> torch.Tensor:
    """Run p_sample_loop or ddim_sample_loop of guided-diffusion."""
    x = start
    for index in reversed(range(len(process["steps"]))):
        beta, bar, previous, low = (
            process[key][index].item() for key in ("betas", "bar", "previous", "low")
        )
        epsilon, value = model(x, process["steps"][index]).chunk(2, dim=1)
        x0 = denoised_fn((1 / bar) ** 0.5 * x - (1 / bar - 1) ** 0.5 * epsilon).clamp(-1, 1)
        noise = torch.randn(x.shape, generator=generator)
        if ddim:
            epsilon = ((1 / bar) ** 0.5 * x - x0) / (1 / bar - 1) ** 0.5
            sigma = eta * ((1 - previous) / (1 - bar)) ** 0.5 * (1 - bar / previous) ** 0.5
            x = previous**0.5 * x0 + (1 - previous - sigma**2) ** 0.5 * epsilon
            x = x + (index > 0) * sigma * noise
        else:
            mean = beta * previous**0.5 / (1 - bar) * x0
            mean = mean + (1 - previous) * (1 - beta) ** 0.5 / (1 - bar) * x
            high = torch.log(torch.tensor(beta)).item()
            log_variance = (value + 1) / 2 * high + (1 - (value + 1) / 2) * low
            x = mean + (index > 0) * (log_variance / 2).exp() * noise
    return x


def original_run(
    pipe: GLIDEPipeline,
    prompts: list[str],
    seed: int,
    *,
    guidance: float,
    steps: Any,
    steps_up: Any,
    temperature: float,
    eta: float = 0.0,
    known: Any = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the notebooks text2im and inpaint: the doubled batch, then the upsampler."""
    generator = torch.Generator().manual_seed(seed)
    base, upsampler = pipe.text_unet, pipe.upscale_unet
    batch = len(prompts)
    tokens, mask = pipe.tokenizer(prompts + [""] * batch, 12)
    images: list[dict[str, Any]] = [{}, {}]
    fill: Any = [lambda x: x] * 2
    if known is not None:
        for stage, (image, where) in enumerate(known):
            repeats = 2 * batch if stage == 0 else batch
            where = where.repeat(repeats, 1, 1, 1)
            image = image.repeat(repeats, 1, 1, 1) * where
            images[stage] = {"inpaint_image": image, "inpaint_mask": where}
            fill[stage] = lambda x, i=image, w=where: x * (1 - w) + i * w

    def guided(x: torch.Tensor, timestep: int) -> torch.Tensor:
        half = x[:batch]
        output = base(torch.cat([half, half]), timestep, tokens, mask, **images[0]).sample
        epsilon, rest = output[:, :3], output[:, 3:]
        cond, uncond = epsilon.chunk(2)
        epsilon = uncond + guidance * (cond - uncond)
        return torch.cat([torch.cat([epsilon, epsilon]), rest], dim=1)

    start = torch.randn(2 * batch, 3, 8, 8, generator=generator)
    process = original_process(GLIDEScheduler(), steps)
    small = original_sampling(guided, process, start, generator, ddim=False, denoised_fn=fill[0])[
        :batch
    ]
    low_res = ((small + 1) * 127.5).round() / 127.5 - 1
    start = torch.randn(batch, 3, 16, 16, generator=generator) * temperature
    process = original_process(GLIDEScheduler(beta_schedule="linear"), steps_up)

    def plain(x: torch.Tensor, timestep: int) -> torch.Tensor:
        output = upsampler(x, timestep, low_res, tokens[:batch], mask[:batch], **images[1])
        return output.sample

    large = original_sampling(
        plain, process, start, generator, ddim=known is None, eta=eta, denoised_fn=fill[1]
    )
    return small, large
