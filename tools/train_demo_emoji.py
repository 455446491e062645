"""Train the demo's text-to-image system: a small Latent Diffusion of captioned emoji.

First comes ``autoencoder``. Then ``unet`` trains text encoder and UNet together, on latents
computed once; meanwhile ``decoder`` may go on with the autoencoder's other half, since latents
depend on the encoder only. A run can be stopped at any moment (Ctrl-C) and taken up again with
--resume. The folder that ``export`` writes is read by septet and by diffusers.
"""

from __future__ import annotations

import argparse
import string
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertTokenizer

from emoji_data import PHRASES
from septet.checkpoints import write_index, write_json
from septet.cli.emoji_judge import Emoji, load_emoji, shrink
from septet.models import AutoencoderKL, LDMBertModel, UNet2DConditionModel
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
NUM_TRAIN_TIMESTEPS = 1000
MAX_TOKENS = 77
DROPPED_CAPTIONS = 0.1

AUTOENCODER_BATCH = 8
AUTOENCODER_RATE = 2e-3
HUE_WEIGHT = 1.0
ANCHOR_WEIGHT = 0.2
ANCHOR_SPREAD = 3.0
EDGE_WEIGHT = 0.5
KL_WEIGHT = 5e-4
LARGEST_SHIFT = 2
UNET_BATCH = 64
UNET_RATE = 1.5e-3

AUTOENCODER_CONFIG: dict[str, Any] = {
    "sample_size": 64,
    "latent_channels": 16,
    "block_out_channels": [16, 32, 48, 64],
    "layers_per_block": 1,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "norm_num_groups": 4,
}
TEXT_CONFIG: dict[str, Any] = {
    "max_position_embeddings": MAX_TOKENS,
    "d_model": 96,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "head_dim": 24,
    "encoder_ffn_dim": 384,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "pad_token_id": 0,
}
UNET_CONFIG: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 16,
    "out_channels": 16,
    "block_out_channels": [80, 96],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 96,
    # The number of heads, whatever diffusers calls it: 16 channels each.
    "attention_head_dim": [5, 6],
    "norm_num_groups": 8,
}
SCHEDULER_CONFIG: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": NUM_TRAIN_TIMESTEPS,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


def make_tokenizer(captions: tuple[str, ...]) -> BertTokenizer:
    """Make a word-piece tokenizer of the captions' words, and of letters for other words."""
    text = " ".join([*PHRASES, *captions]).replace("{}", " ")
    letters = string.ascii_lowercase + string.digits + "-',.!?"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = sorted(set(text.replace("-", " ").split()) - set(letters))
    tokens = [*special, *letters, *(f"##{letter}" for letter in letters), *words]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return BertTokenizer(vocab=vocabulary, model_max_length=MAX_TOKENS)


def autoencoder_loss(training: Training[nn.Module], pixels: Tensor) -> Tensor:
    """Return how far decoded pictures are from real ones, and latents from what they should be.

    Args:
        training: Of an autoencoder.
        pixels: ``[N, 3, 64, 64]`` in [-1, 1].
    """
    generator = training.generator
    choice = torch.randint(len(pixels), (AUTOENCODER_BATCH,), generator=generator)
    shifts = torch.randint(-LARGEST_SHIFT, LARGEST_SHIFT + 1, (2,), generator=generator).tolist()
    images = pixels[choice].roll(shifts, dims=(2, 3))
    posterior = training.model.encode(images).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator)
    decoded = training.model.decode(posterior.mean + posterior.std * noise).sample
    values = F.l1_loss(decoded, images)
    red, green, blue = (decoded - images).unbind(dim=1)
    hues = (red - green).square().mean() + (blue - (red + green) / 2).square().mean()
    # Three channels of the latents are to be the picture at 8x8, about as wide as the others get.
    # Left to itself, the encoder finds brightness soon and hues only after thousands of steps.
    anchor = ANCHOR_SPREAD * (shrink(images, 8) - pixels.mean())
    anchoring = F.mse_loss(posterior.mean[:, :3], anchor)
    edges = sum((decoded.diff(dim=d) - images.diff(dim=d)).abs().mean() for d in (2, 3))
    code = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
    return (
        values
        + HUE_WEIGHT * hues
        + EDGE_WEIGHT * edges
        + ANCHOR_WEIGHT * anchoring
        + KL_WEIGHT * code
    )


@dataclass(frozen=True)
class Examples:
    """What the UNet learns from.

    Attributes:
        means: ``[N, C, H, W]``, the means of the pictures' latents, scaled to unit variance.
        stds: ``[N, C, H, W]``, their standard deviations.
        input_ids: ``[N, P, 77]``, the captions in P phrasings.
        no_caption: ``[77]``, the empty caption.
        alphas_cumprod: ``[num_train_timesteps]``.
    """

    means: Tensor
    stds: Tensor
    input_ids: Tensor
    no_caption: Tensor
    alphas_cumprod: Tensor

    @classmethod
    @torch.no_grad()
    def make(cls, emoji: Emoji, autoencoder: nn.Module, tokenizer: BertTokenizer) -> Examples:
        """Encode all pictures and captions to train on.

        Args:
            emoji: Pictures and captions.
            autoencoder: A trained one.
            tokenizer: Of the captions.
        """
        posterior = autoencoder.encode(emoji.pixels[emoji.is_train] * 2 - 1).latent_dist
        captions = emoji.captions_of(emoji.is_train)
        phrases = [phrase.format(caption) for caption in captions for phrase in PHRASES]
        ids = torch.tensor(
            tokenizer(
                ["", *phrases], padding="max_length", max_length=MAX_TOKENS, truncation=True
            ).input_ids
        )
        scale = find_scaling_factor(autoencoder, emoji.pixels[emoji.is_train])
        return cls(
            means=posterior.mean * scale,
            stds=posterior.std * scale,
            input_ids=ids[1:].reshape(len(captions), len(PHRASES), MAX_TOKENS),
            no_caption=ids[0],
            alphas_cumprod=alphas_cumprod(),
        )


def alphas_cumprod() -> Tensor:
    """Return the products of alphas of Latent Diffusion's schedule, ``[num_train_timesteps]``."""
    low, high = SCHEDULER_CONFIG["beta_start"] ** 0.5, SCHEDULER_CONFIG["beta_end"] ** 0.5
    betas = torch.linspace(low, high, NUM_TRAIN_TIMESTEPS, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()


def unet_loss(training: Training[nn.Module], examples: Examples) -> Tensor:
    """Return the mean square error of the predicted noise, some captions left out."""
    generator = training.generator
    choice = torch.randint(len(examples.means), (UNET_BATCH,), generator=generator)
    phrase = torch.randint(len(PHRASES), (UNET_BATCH,), generator=generator)
    dropped = torch.rand(UNET_BATCH, 1, generator=generator) < DROPPED_CAPTIONS
    ids = torch.where(dropped, examples.no_caption, examples.input_ids[choice, phrase])
    means, stds = examples.means[choice], examples.stds[choice]
    latents = means + stds * torch.randn(means.shape, generator=generator)
    noise = torch.randn(means.shape, generator=generator)
    timesteps = spread_timesteps(UNET_BATCH, NUM_TRAIN_TIMESTEPS, generator)
    noisy = add_noise(latents, noise, examples.alphas_cumprod[timesteps])
    states = training.model["bert"](ids)[0]
    prediction = training.model["unet"](noisy, timesteps, states).sample
    return F.mse_loss(prediction, noise)


def make_text_to_image(vocabulary_size: int) -> nn.ModuleDict:
    """Make text encoder and UNet with random weights."""
    bert = LDMBertModel(vocab_size=vocabulary_size, **TEXT_CONFIG)
    return nn.ModuleDict({"bert": bert, "unet": UNet2DConditionModel(**UNET_CONFIG)})


@torch.no_grad()
def find_scaling_factor(autoencoder: nn.Module, pixels: Tensor) -> float:
    """Return what gives the latents of pictures, ``[N, 3, 64, 64]`` in [0, 1], unit variance."""
    posterior = autoencoder.encode(pixels * 2 - 1).latent_dist
    return float((posterior.mean.var() + posterior.var.mean()).rsqrt())


def export(
    parts: nn.ModuleDict, autoencoder: nn.Module, tokenizer: BertTokenizer, folder: Path
) -> None:
    """Write the weights in half precision, with all else, as diffusers lays a pipeline out."""
    for name, network in {"vqvae": autoencoder, **parts}.items():
        deepcopy(network).half().save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / "tokenizer")
    # transformers keeps the vocabulary in tokenizer.json only; this is for other readers.
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    (folder / "tokenizer" / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    (folder / "scheduler").mkdir(exist_ok=True)
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER_CONFIG)
    components = {
        "bert": "LDMBertModel",
        "scheduler": "DDIMScheduler",
        "tokenizer": "BertTokenizer",
        "unet": "UNet2DConditionModel",
        "vqvae": "AutoencoderKL",
    }
    write_index(folder, "LDMTextToImagePipeline", components)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("stage", choices=("autoencoder", "decoder", "unet", "export"))
    add_options(
        parser,
        steps=9000,
        work=ROOT / "build/training/emoji",
        output=ROOT / "python/septet/assets/emoji",
    )
    arguments = parser.parse_args()
    stage: str = arguments.stage
    paths = {name: arguments.work / f"{name}.pt" for name in ("autoencoder", "decoder", "unet")}
    if stage != "export":
        check_resume(parser, paths[stage], resume=arguments.resume)
    torch.manual_seed(arguments.seed)
    emoji = load_emoji()
    pixels = emoji.pixels[emoji.is_train]
    tokenizer = make_tokenizer(emoji.captions_of(emoji.is_train))
    autoencoder = AutoencoderKL(**AUTOENCODER_CONFIG)
    if stage != "autoencoder":
        load_averaged(autoencoder, paths["autoencoder"])
    if stage == "export":
        factor = find_scaling_factor(autoencoder, pixels)
        autoencoder = AutoencoderKL(**AUTOENCODER_CONFIG, scaling_factor=factor)
        latest = "decoder" if paths["decoder"].exists() else "autoencoder"
        load_averaged(autoencoder, paths[latest])
        parts = load_averaged(make_text_to_image(len(tokenizer)), paths["unet"])
        export(parts, autoencoder, tokenizer, arguments.output)
        print(f"exported to {arguments.output}")
        return
    if stage == "unet":
        model, rate = make_text_to_image(len(tokenizer)), UNET_RATE
        examples = Examples.make(emoji, autoencoder, tokenizer)
        loss = partial(unet_loss, examples=examples)
    else:
        model, rate = autoencoder, AUTOENCODER_RATE
        autoencoder.encoder.requires_grad_(stage == "autoencoder")
        autoencoder.quant_conv.requires_grad_(stage == "autoencoder")
        loss = partial(autoencoder_loss, pixels=pixels * 2 - 1)
    model.train().to(memory_format=torch.channels_last)
    training = Training.start(model, seed=arguments.seed)
    if arguments.resume:
        training.load(paths[stage])

    def advance() -> dict[str, float]:
        value = loss(training)
        training.descend(value, rate * warmup_then_cosine(training.step, arguments.steps))
        return {"loss": float(value.detach())}

    limits = {"num_steps": arguments.steps, "seconds": 60 * arguments.minutes}
    train(training, advance, paths[stage], **limits)


if __name__ == "__main__":
    main()
