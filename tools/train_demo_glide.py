"""Train the demo's GLIDE: captioned emoji of 16x16 pixels, and an upsampler to 64x64.

``base`` and ``upsampler`` know nothing of each other and may run side by side. A run can be
stopped at any moment (Ctrl-C) and taken up again with --resume. The folder that ``export`` writes
is read by septet.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from byte_pairs import learn_byte_pairs
from emoji_data import PHRASES
from septet import GLIDEPipeline, GLIDEScheduler
from septet.cli.emoji_judge import Emoji, load_emoji, shrink
from septet.models import GlideSuperResolutionUNet, GlideTextToImageUNet
from septet.text import GlideTokenizer
from training import (
    Training,
    add_noise,
    add_options,
    check_resume,
    load_averaged,
    spread_timesteps,
    train,
    warmup_then_cosine,
)

ROOT = Path(__file__).parents[1]
STEPS = {"base": 5000, "upsampler": 4500}
BATCH = {"base": 32, "upsampler": 8}
RATE = {"base": 1.5e-3, "upsampler": 1e-3}
DROPPED_CAPTIONS = {"base": 0.1, "upsampler": 0.5}
LARGEST_SHIFT = 4
#: At most so much more counts an error of the noise where little but noise is seen.
LARGEST_WEIGHT = 20.0
BOUND_WEIGHT = 0.1

TEXT_CONFIG: dict[str, Any] = {"text_ctx": 12, "norm_num_groups": 8, "dropout": 0.0}
CONFIG: dict[str, dict[str, Any]] = {
    "base": {
        **TEXT_CONFIG,
        "sample_size": 16,
        "model_channels": 40,
        "channel_mult": (1, 2),
        "num_res_blocks": 1,
        "attention_resolutions": (2,),
        "num_head_channels": 16,
        "xf_width": 96,
        "xf_layers": 2,
        "xf_heads": 4,
    },
    "upsampler": {
        **TEXT_CONFIG,
        "sample_size": 64,
        "upscale_factor": 4,
        "model_channels": 16,
        "channel_mult": (1, 2, 3),
        "num_res_blocks": 1,
        "attention_resolutions": (),
        "num_head_channels": 16,
        "xf_width": 32,
        "xf_layers": 1,
        "xf_heads": 2,
    },
}


def make_networks(tokenizer: GlideTokenizer) -> dict[str, nn.Module]:
    """Make both networks with random weights."""
    classes = {"base": GlideTextToImageUNet, "upsampler": GlideSuperResolutionUNet}
    return {name: make(**CONFIG[name], n_vocab=tokenizer.n_vocab) for name, make in classes.items()}


def make_schedulers() -> dict[str, GLIDEScheduler]:
    """Make both samplers.

    The base network's is the authors'. The upsampler's is the first half of theirs: later the
    picture is lost in noise and only the small one counts, and there a network of this size gets
    brightness and hues wrong, since an error of the noise is as much larger in the picture.
    """
    upsampler = GLIDEScheduler(
        num_train_timesteps=500, beta_end=0.01, beta_schedule="linear", sampler="ddim"
    )
    return {"base": GLIDEScheduler(), "upsampler": upsampler}


@dataclass(frozen=True)
class Process:
    """The columns of all training steps that the loss needs, ``[num_train_timesteps]`` each.

    Attributes:
        alphas_cumprod: The products of alphas.
        mean_weights: What an error of the predicted noise does to the mean of the step.
        low: The smallest log variance of a step.
        high: The largest.
        loss_weights: How much an error of the predicted noise counts.
    """

    alphas_cumprod: Tensor
    mean_weights: Tensor
    low: Tensor
    high: Tensor
    loss_weights: Tensor

    @classmethod
    def make(cls, scheduler: GLIDEScheduler) -> Process:
        """Read them from the sampler's table, with as many steps as in training."""
        ddpm = GLIDEScheduler.from_config(scheduler.config, sampler="ddpm")
        steps = ddpm.config.num_train_timesteps
        ddpm.set_timesteps(steps)
        rows = ddpm.table().rows[::-1]
        alphas = ddpm.alphas_cumprod.double()
        noise_ratio = (1 - alphas) / alphas
        pred_original = torch.tensor([row.pred_original for row in rows]).double()
        return cls(
            alphas_cumprod=alphas.float(),
            mean_weights=(pred_original * noise_ratio.sqrt()).float(),
            low=torch.tensor([row.log_variance_low for row in rows]),
            high=torch.tensor([row.log_variance_high for row in rows]),
            loss_weights=(1 + noise_ratio).clamp(max=LARGEST_WEIGHT).float(),
        )

    def noise_towards(self, clean: Tensor, start: Tensor) -> Tensor:
        """Return the noise of a run that starts from pure noise and ends at a picture.

        Where the last timestep holds a trace of the picture, that noise is not quite the start.
        Left out, the network would learn to see the trace, which is missing when it draws (Lin et
        al. 2024), and everything would turn grey.

        Args:
            clean: ``[B, C, H, W]``, the pictures.
            start: The same shape, standard normal.
        """
        trace = self.alphas_cumprod[-1]
        return (start - trace.sqrt() * clean) / (1 - trace).sqrt()

    def loss(self, noise: Tensor, output: Tensor, timesteps: Tensor) -> Tensor:
        """Return the error of the noise, and how badly the variance suits it.

        The second part is the divergence of the step that the network describes from the true
        one (Nichol and Dhariwal 2021, section 3.1); it teaches the variance only.

        Args:
            noise: ``[B, C, H, W]``, the true noise.
            output: ``[B, 2 * C, H, W]``, of the network.
            timesteps: ``[B]``.
        """
        predicted, fraction = output.chunk(2, dim=1)
        error = predicted - noise

        def at(column: Tensor) -> Tensor:
            return column[timesteps].reshape(-1, 1, 1, 1)

        low, high = at(self.low), at(self.high)
        log_variance = low + (fraction + 1) / 2 * (high - low)
        shift = at(self.mean_weights) * error.detach()
        bound = log_variance - low - 1 + (low - log_variance).exp()
        bound = 0.5 * (bound + shift**2 * (-log_variance).exp())
        return (at(self.loss_weights) * error**2).mean() + BOUND_WEIGHT * bound.mean()


@dataclass(frozen=True)
class Examples:
    """What a network learns from.

    Attributes:
        pixels: ``[N, 3, 64, 64]`` in [-1, 1].
        tokens: ``[N, P, text_ctx]``, the captions in P phrasings.
        mask: The same shape, False for padding.
        no_tokens: ``[text_ctx]``, the empty caption.
    """

    pixels: Tensor
    tokens: Tensor
    mask: Tensor
    no_tokens: Tensor

    @classmethod
    def make(cls, emoji: Emoji, tokenizer: GlideTokenizer) -> Examples:
        """Take all pictures and captions to train on."""
        captions = emoji.captions_of(emoji.is_train)
        length = TEXT_CONFIG["text_ctx"]
        phrases = [phrase.format(caption) for caption in captions for phrase in PHRASES]
        tokens, mask = tokenizer(["", *phrases], length)
        shape = (len(captions), len(PHRASES), length)
        pixels = emoji.pixels[emoji.is_train] * 2 - 1
        return cls(pixels, tokens[1:].reshape(shape), mask[1:].reshape(shape), tokens[0])

    def draw(
        self, count: int, dropped: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw pictures at random, and their captions in a random phrasing.

        Args:
            count: How many.
            dropped: Share of captions that are left out.
            generator: Source of the choices.

        Returns:
            ``[count, 3, 64, 64]``, and tokens and mask ``[count, text_ctx]``.
        """
        choice = torch.randint(len(self.pixels), (count,), generator=generator)
        phrase = torch.randint(len(PHRASES), (count,), generator=generator)
        told = torch.rand(count, 1, generator=generator) >= dropped
        tokens = torch.where(told, self.tokens[choice, phrase], self.no_tokens)
        return self.pixels[choice], tokens, self.mask[choice, phrase] & told


def loss_of(
    training: Training[nn.Module], stage: str, examples: Examples, process: Process
) -> Tensor:
    """Return the loss of one batch of a stage."""
    generator = training.generator
    pixels, tokens, mask = examples.draw(BATCH[stage], DROPPED_CAPTIONS[stage], generator)
    conditions: tuple[Tensor, ...] = ()
    small = shrink(pixels, CONFIG["base"]["sample_size"])
    if stage == "upsampler":
        # How a picture is enlarged depends neither on where things are nor on left and right.
        reach = LARGEST_SHIFT + 1
        shifts = torch.randint(1 - reach, reach, (2,), generator=generator).tolist()
        pixels = pixels.roll(shifts, dims=(2, 3))
        if torch.rand((), generator=generator) < 0.5:
            pixels = pixels.flip(3)
        conditions = (shrink(pixels, CONFIG["base"]["sample_size"]),)
    clean = small if stage == "base" else pixels
    timesteps = spread_timesteps(len(clean), len(process.low), generator)
    noise = process.noise_towards(clean, torch.randn(clean.shape, generator=generator))
    noisy = add_noise(clean, noise, process.alphas_cumprod[timesteps])
    output = training.model(noisy, timesteps, *conditions, tokens, mask).sample
    return process.loss(noise, output, timesteps)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("stage", choices=("base", "upsampler", "export"))
    add_options(
        parser,
        steps=0,
        work=ROOT / "build/training/glide",
        output=ROOT / "python/septet/assets/glide",
    )
    arguments = parser.parse_args()
    stage: str = arguments.stage
    paths = {name: arguments.work / f"{name}.pt" for name in CONFIG}
    if stage != "export":
        check_resume(parser, paths[stage], resume=arguments.resume)
    torch.manual_seed(arguments.seed)
    emoji = load_emoji()
    captions = emoji.captions_of(emoji.is_train)
    tokenizer = learn_byte_pairs([phrase.format(c) for c in captions for phrase in PHRASES])
    networks, schedulers = make_networks(tokenizer), make_schedulers()
    if stage == "export":
        for name, network in networks.items():
            load_averaged(network, paths[name])
        GLIDEPipeline(
            networks["base"].half(),
            schedulers["base"],
            tokenizer,
            networks["upsampler"].half(),
            schedulers["upsampler"],
        ).save_pretrained(arguments.output)
        print(f"exported to {arguments.output}")
        return
    model = networks[stage].train().to(memory_format=torch.channels_last)
    training = Training.start(model, seed=arguments.seed)
    if arguments.resume:
        training.load(paths[stage])
    num_steps = arguments.steps or STEPS[stage]
    examples = Examples.make(emoji, tokenizer)
    process = Process.make(schedulers[stage])

    def advance() -> dict[str, float]:
        value = loss_of(training, stage, examples, process)
        training.descend(value, RATE[stage] * warmup_then_cosine(training.step, num_steps))
        return {"loss": float(value.detach())}

    train(training, advance, paths[stage], num_steps=num_steps, seconds=60 * arguments.minutes)


if __name__ == "__main__":
    main()
