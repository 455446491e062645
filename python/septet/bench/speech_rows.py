"""Whole runs of BDDM and Grad-TTS at full size, against the originals themselves."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from septet.bench.originals import DIFFUSERS, GRAD_TTS, Original
from septet.bench.rows import Candidate, Loaded, Row, SeparateWorkload
from septet.models import DiffWaveModel, GradTTSTextEncoder, UNetGradTTSModel
from septet.nn.linear_attention import RezeroAttention
from septet.pipelines import BDDMPipeline, GradTTSPipeline
from septet.schedulers import BDDMScheduler, GradTTSScheduler
from septet.schedulers.noise_schedule import NoiseSchedule

_RATE, _HOP = 22050, 256
#: 3.0 seconds for the vocoder.
_VOCODER_FRAMES = 258
#: 5.0 seconds of speech: so many phonemes of so many frames each.
_TOKENS, _FRAMES_PER_TOKEN = 108, 4
_SCHEDULE = "lj-12"
_GRAD_TTS_STEPS = 10
_SEED = 0
_WEIGHTS = "diffusion_pytorch_model.safetensors"

Load = Callable[[Path], Loaded]


def rows() -> list[Row]:
    """Return a row per pipeline."""
    steps = len(NoiseSchedule.published(_SCHEDULE))
    frames = _TOKENS * _FRAMES_PER_TOKEN
    return [
        _row("bddm", steps, _VOCODER_FRAMES, DIFFUSERS, _write_bddm, _load_bddm, _original_bddm),
        _row(
            "grad-tts", _GRAD_TTS_STEPS, frames, GRAD_TTS, _write_grad_tts, _load_grad_tts,
            _original_grad_tts,
        ),
    ]  # fmt: skip


def _row(
    model: str,
    steps: int,
    frames: int,
    original: Original,
    write_weights: Callable[[Path], None],
    load: Load,
    load_original: Load,
) -> Row:
    audio = frames * _HOP / _RATE
    facts = {
        "model": model, "weights": "random", "dtype": "float32", "steps": steps,
        "audio_s": round(audio, 3),
    }  # fmt: skip
    candidates = (
        Candidate(original.name, load_original, is_baseline=True, calls=1),
        Candidate("septet", load, calls=1),
    )
    workload = SeparateWorkload(candidates, write_weights, "the original in float32")
    name = f"{model}.run/{steps}-steps/{audio:.0f}s"
    return Row("speech", name, facts, lambda: workload, original.obstacle)


def _mel() -> Tensor:
    return torch.randn(1, 80, _VOCODER_FRAMES, generator=torch.Generator().manual_seed(_SEED))


def _repeatable(run: Callable[[], Tensor]) -> Loaded:
    def call() -> list[Tensor]:
        torch.manual_seed(_SEED)
        return [run()]

    return Loaded(call, call)


def _write_bddm(folder: Path) -> None:
    torch.manual_seed(_SEED)
    model = DiffWaveModel()
    # zero at first, which would hide all the others; as large as predicts noise of unit variance
    last: Any = model.final_conv[2]
    torch.nn.init.normal_(last.conv.weight, std=0.05)
    model.save_pretrained(folder)


def _load_bddm(folder: Path) -> Loaded:
    pipeline = BDDMPipeline(DiffWaveModel.from_pretrained(folder), BDDMScheduler())
    schedule, mel = NoiseSchedule.published(_SCHEDULE), _mel()
    return _repeatable(
        lambda: pipeline(mel, schedule=schedule, generator=torch.Generator().manual_seed(1))[0]
    )


def _original_bddm(folder: Path) -> Loaded:
    from septet.bench.speech_original import bddm

    network = DiffWaveModel.from_pretrained(folder)
    names = (
        "in_channels", "res_channels", "skip_channels", "out_channels", "num_res_layers",
        "dilation_cycle", "diffusion_step_embed_dim_in", "diffusion_step_embed_dim_mid",
        "diffusion_step_embed_dim_out",
    )  # fmt: skip
    config = {name: network.config[name] for name in names}
    pipeline = bddm(network.state_dict(), config, NoiseSchedule.published(_SCHEDULE))
    mel = _mel()
    return _repeatable(
        lambda: pipeline(mel, generator=torch.Generator().manual_seed(1), torch_device="cpu")
    )


def _write_grad_tts(folder: Path) -> None:
    torch.manual_seed(_SEED)
    decoder, encoder = UNetGradTTSModel(), GradTTSTextEncoder()
    for module in decoder.modules():
        if isinstance(module, RezeroAttention):
            module.fn.g.data.fill_(0.01)  # zero at first; more lets it grow without bounds
    last: Any = encoder.proj_w.proj
    torch.nn.init.zeros_(last.weight)
    # durations are rounded up
    torch.nn.init.constant_(last.bias, math.log(_FRAMES_PER_TOKEN - 0.5))
    decoder.save_pretrained(folder / "unet")
    encoder.save_pretrained(folder / "text_encoder")


def _ids(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randint(0, size, (_TOKENS,), generator=generator)


def _load_grad_tts(folder: Path) -> Loaded:
    encoder = GradTTSTextEncoder.from_pretrained(folder / "text_encoder")
    ids = _ids(encoder.config.n_vocab).tolist()
    pipeline = GradTTSPipeline(
        UNetGradTTSModel.from_pretrained(folder / "unet"),
        encoder,
        GradTTSScheduler(),
        tokenizer=lambda _: ids,
    )
    return _repeatable(lambda: pipeline("", _GRAD_TTS_STEPS, temperature=1.5, length_scale=1.0)[0])


def _original_grad_tts(folder: Path) -> Loaded:
    from septet.bench.speech_original import grad_tts

    network = grad_tts(*(load_file(folder / part / _WEIGHTS) for part in ("text_encoder", "unet")))
    ids = _ids(GradTTSTextEncoder.config_class().n_vocab)[None]
    lengths = torch.tensor([_TOKENS])
    return _repeatable(
        lambda: network(ids, lengths, n_timesteps=_GRAD_TTS_STEPS, temperature=1.5)[1]
    )
