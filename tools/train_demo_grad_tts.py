"""Train the demo's Grad-TTS: small networks, one speaker, 23 minutes of speech.

A run can be stopped at any moment (Ctrl-C) and taken up again with --resume; whenever it ends it
exports the averaged weights as a folder that septet reads. First run tools/speech_data.py.
"""

from __future__ import annotations

import argparse
import math
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from monotonic_alignment import alignment_path, log_prior, most_likely_durations
from septet.audio import log_mel_spectrogram
from septet.checkpoints import write_index, write_json
from septet.models import GradTTSTextEncoder, UNetGradTTSModel
from septet.text import GradTTSTokenizer
from speech_data import MEL, OUTPUT, Clip, load_clips
from training import Training, add_options, check_resume, spread, train, warmup_then_cosine

ROOT = Path(__file__).parents[1]
BATCH_SIZE = 8
LEARNING_RATE = 6e-4
WARMUP_STEPS = 500
#: Until then only the text encoder learns: it is cheap, and the decoder builds on its alignment.
DECODER_FROM = 1500
#: Frames of the segments that the decoder sees, 1.6 s.
SEGMENT_FRAMES = 128
#: Longer recordings are left out, and shorter ones never drawn more often than this many frames.
MOST_FRAMES, FEWEST_FRAMES = 1000, 80
#: Half the bits for the decoder's products; the weights and the optimizer keep all of them.
USE_BFLOAT16 = True
#: No noise level below this: the score of almost clean speech is of no use and without bound.
SMALLEST_TIME = 1e-5

ENCODER_CONFIG: dict[str, Any] = {
    "n_vocab": GradTTSTokenizer.vocab_size,
    "n_feats": MEL.num_mels,
    "n_channels": 96,
    "filter_channels": 384,
    "filter_channels_dp": 128,
    "n_heads": 2,
    "n_layers": 4,
    "kernel_size": 3,
    "p_dropout": 0.1,
    "window_size": 4,
}
DECODER_CONFIG: dict[str, Any] = {"dim": 32, "dim_mults": [1, 2, 4], "n_feats": MEL.num_mels}
SCHEDULER_CONFIG: dict[str, Any] = {
    "_class_name": "GradTTSScheduler",
    "beta_start": 0.05,
    "beta_end": 20.0,
}


class Networks(nn.Module):
    """The two networks, as one to train, average and save."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder = GradTTSTextEncoder(**ENCODER_CONFIG)
        self.unet = UNetGradTTSModel(**DECODER_CONFIG)
        self.unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@dataclass(frozen=True)
class Example:
    """One recording: ``ids [L]`` of its text and ``mel [C, T]``."""

    ids: Tensor
    mel: Tensor


@dataclass(frozen=True)
class Batch:
    """Padded recordings: ``ids [B, L]``, ``mel [B, C, T]`` and their lengths ``[B]``."""

    ids: Tensor
    num_symbols: Tensor
    mel: Tensor
    num_frames: Tensor


def make_examples(clips: list[Clip], folder: Path, tokenizer: GradTTSTokenizer) -> list[Example]:
    """Compute what can be learned from; recordings too long or too fast to align are left out."""
    examples = []
    for clip in clips:
        mel = log_mel_spectrogram(clip.waveform(folder), MEL)
        ids = torch.tensor(tokenizer(clip.text))
        if len(ids) <= mel.shape[1] <= MOST_FRAMES:
            examples.append(Example(ids, mel))
    return examples


def draw_batch(examples: list[Example], generator: torch.Generator) -> Batch:
    """Draw recordings, longer ones more often, since they hold more speech."""
    weights = torch.tensor([float(max(e.mel.shape[1], FEWEST_FRAMES)) for e in examples])
    # of one length each, or most of a batch would be padding
    pivot = torch.multinomial(weights, 1, generator=generator)
    distance = (weights.log() - weights[pivot].log()).abs()
    near = weights * (distance < math.log(1.5))
    replace = int((near > 0).sum()) < BATCH_SIZE
    chosen = torch.multinomial(near, BATCH_SIZE, replace, generator=generator).tolist()
    picked = [examples[index] for index in chosen]
    return Batch(
        nn.utils.rnn.pad_sequence([e.ids for e in picked], batch_first=True),
        torch.tensor([len(e.ids) for e in picked]),
        nn.utils.rnn.pad_sequence([e.mel.T for e in picked], batch_first=True).transpose(1, 2),
        torch.tensor([e.mel.shape[1] for e in picked]),
    )


def losses(
    networks: Networks, batch: Batch, generator: torch.Generator, *, with_decoder: bool
) -> dict[str, Tensor]:
    """Return the losses of Grad-TTS (Popov et al. 2021, section 3.4).

    Unlike the authors', the prior loss counts all frames, not only the segment's: they are cheap.
    """
    encoded = networks.text_encoder(batch.ids, batch.num_symbols)
    durations = most_likely_durations(
        log_prior(encoded.mu.detach(), batch.mel), batch.num_symbols, batch.num_frames
    )
    target = torch.log(durations[:, None] + 1e-8) * encoded.mask
    duration_error = (encoded.log_durations - target).square().sum()
    length = batch.mel.shape[2]
    mu = encoded.mu @ alignment_path(durations, length)
    mask = (torch.arange(length) < batch.num_frames[:, None])[:, None].float()
    prior_error = 0.5 * ((batch.mel - mu).square() + math.log(2 * math.pi)) * mask
    result = {
        "duration": duration_error / batch.num_symbols.sum(),
        "prior": prior_error.sum() / (mask.sum() * MEL.num_mels),
    }
    if with_decoder:
        segments = cut_segments(torch.stack([batch.mel, mu]), batch.num_frames, generator)
        result["diffusion"] = diffusion_loss(networks.unet, *segments, generator)
    return result


def cut_segments(
    tensors: Tensor, num_frames: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut a segment out of every recording, at a random place.

    Args:
        tensors: ``[2, B, C, T]``, spectrograms and their prior means.
        num_frames: ``[B]``.
        generator: Chooses the places.

    Returns:
        ``mel [B, C, S]``, ``mu [B, C, S]`` and ``mask [B, 1, S]``, S a multiple of 4.
    """
    size = -(-min(int(num_frames.max()), SEGMENT_FRAMES) // 4) * 4
    pieces, masks = [], []
    for index, count in enumerate(num_frames.tolist()):
        start = int(torch.randint(max(count - size, 0) + 1, (), generator=generator))
        stop = min(start + size, count)
        padding = (0, size - (stop - start))
        pieces.append(nn.functional.pad(tensors[:, index, :, start:stop], padding))
        masks.append(nn.functional.pad(torch.ones(1, stop - start), padding))
    mel, mu = torch.stack(pieces, dim=1)
    return mel, mu, torch.stack(masks)


def diffusion_loss(
    unet: UNetGradTTSModel, mel: Tensor, mu: Tensor, mask: Tensor, generator: torch.Generator
) -> Tensor:
    """Return the mean squared error of the noise that the score implies (eq. 13 and 14)."""
    time = spread(len(mel), generator).clamp(SMALLEST_TIME, 1)
    start, end = SCHEDULER_CONFIG["beta_start"], SCHEDULER_CONFIG["beta_end"]
    integral = (start * time + 0.5 * (end - start) * time**2)[:, None, None]
    keep = torch.exp(-0.5 * integral)
    std = torch.sqrt(1 - torch.exp(-integral))
    noise = torch.randn(mel.shape, generator=generator) * mask
    noisy = (mel * keep + mu * (1 - keep) + std * noise) * mask
    with torch.autocast("cpu", torch.bfloat16, enabled=USE_BFLOAT16):
        score = unet(noisy, time, mu, mask)
    error: Tensor = (score.float() * std + noise).square().sum() / (mask.sum() * mel.shape[1])
    return error


def export(networks: Networks, folder: Path) -> None:
    """Write the weights in half precision, with tokenizer, scheduler and index."""
    halves = deepcopy(networks).half()
    halves.text_encoder.save_pretrained(folder / "text_encoder")
    halves.unet.save_pretrained(folder / "unet")
    GradTTSTokenizer(strip_punctuation=True).save_pretrained(folder / "tokenizer")
    (folder / "scheduler").mkdir(exist_ok=True)
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER_CONFIG)
    components = {
        "text_encoder": "GradTTSTextEncoder",
        "unet": "UNetGradTTSModel",
        "tokenizer": "GradTTSTokenizer",
        "scheduler": "GradTTSScheduler",
        "vocoder": None,
    }
    write_index(folder, "GradTTSPipeline", components)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_options(parser, steps=6_000, work=ROOT / "build/training/grad_tts")
    parser.add_argument("--data", type=Path, default=OUTPUT, help="folder of the prepared data")
    arguments = parser.parse_args()
    checkpoint = arguments.work / "checkpoint.pt"
    check_resume(parser, checkpoint, resume=arguments.resume)
    torch.manual_seed(arguments.seed)
    training = Training.start(Networks(), seed=arguments.seed, ema_restart=DECODER_FROM)
    if arguments.resume:
        training.load(checkpoint)
        torch.manual_seed(arguments.seed + training.step)  # for dropout
    clips = [clip for clip in load_clips(arguments.data) if not clip.held_out]
    examples = make_examples(clips, arguments.data, GradTTSTokenizer(strip_punctuation=True))
    num_weights = sum(weight.numel() for weight in training.model.parameters())
    print(f"{len(examples)} recordings, {num_weights} weights")

    def advance() -> dict[str, float]:
        batch = draw_batch(examples, training.generator)
        with_decoder = training.step >= DECODER_FROM
        parts = losses(training.model, batch, training.generator, with_decoder=with_decoder)
        networks = [training.model.text_encoder, training.model.unet]
        share = warmup_then_cosine(training.step, arguments.steps, WARMUP_STEPS)
        training.descend(sum(parts.values()), LEARNING_RATE * share, networks)
        return {name: float(part.detach()) for name, part in parts.items()}

    limits = {"num_steps": arguments.steps, "seconds": 60 * arguments.minutes}
    train(training, advance, checkpoint, **limits)
    output = arguments.output or arguments.work / "export"
    export(training.averaged, output)
    print(f"step {training.step}: checkpoint {checkpoint}, exported to {output}")


if __name__ == "__main__":
    main()
