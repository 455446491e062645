"""Case rows of ``septet::step``: the seven samplers, every option, and awkward shapes."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from septet.ops.step import step
from septet.ops.table import CURRENT_OUTPUT, NoiseKind, StepRow
from septet.testing.cases import OpCase
from septet.testing.references.step import step as reference

IMAGE = (2, 3, 9, 7)

# Coefficients as the samplers make them half-way through a schedule; the values need not be exact.
DDPM = StepRow(
    x0_sample=1.0,
    x0_output=-0.6,
    x0_divisor=0.8,
    x0_clip=1.0,
    pred_original=0.02,
    base=0.98,
    output=0.0,
    noise_kind=NoiseKind.CONSTANT,
    noise=0.1,
)
DDIM = StepRow(
    x0_sample=1.0, x0_output=-0.6, x0_divisor=0.8, pred_original=0.82, base=0.0, output=0.57
)
DDIM_CLIPPED = StepRow(
    x0_sample=1.0,
    x0_output=-0.6,
    x0_divisor=0.8,
    x0_clip=1.0,
    pred_original=0.35,
    base=0.7,
    output=0.0,
    noise_kind=NoiseKind.CONSTANT,
    noise=0.05,
)
PLMS = StepRow(
    base=1.03,
    output=-0.08,
    write_slot=2,
    read_slots=(CURRENT_OUTPUT, 0, 1, 2),
    weights=(55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
RUNGE_KUTTA_FIRST = StepRow(base=1.01, output=-0.04, write_slot=0, save_slot=5)
RUNGE_KUTTA_LAST = StepRow(
    base=1.01,
    output=-0.04,
    base_slot=5,
    read_slots=(0, 3, 4, CURRENT_OUTPUT),
    weights=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
)
GLIDE = StepRow(
    guidance_scale=3.0,
    x0_sample=1.25,
    x0_output=-0.75,
    x0_clip=1.0,
    pred_original=0.03,
    base=0.97,
    output=0.0,
    noise_kind=NoiseKind.LEARNED_RANGE,
    noise=1.0,
    log_variance_low=-9.5,
    log_variance_high=-4.2,
)
LEARNED = StepRow(output=-0.1, base=1.0, noise_kind=NoiseKind.LEARNED, noise=1.0)
V_PREDICTION = StepRow(x0_sample=0.8, x0_output=-0.6, pred_original=0.82, base=0.34, output=0.46)
ZERO_SNR = StepRow(
    x0_sample=1.0, x0_output=-1.0, x0_divisor=0.0, x0_clip=1.0, pred_original=0.1, output=0.99
)
BDDM = StepRow(base=1.005, output=-0.012, noise_kind=NoiseKind.CONSTANT, noise=0.06)
GRAD_TTS_ODE = StepRow(base=1.05, output=0.05, prior_mean=-0.05)
GRAD_TTS_SDE = StepRow(
    base=1.05,
    output=0.1,
    prior_mean=-0.05,
    noise_kind=NoiseKind.CONSTANT,
    noise=-math.sqrt(0.1),
)

Options = Callable[[torch.Generator, torch.dtype, tuple[int, ...]], dict[str, Any]]


def _draw(generator: torch.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=generator).to(dtype)


def _twice(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], 2 * shape[1], *shape[2:])


def _noise(g: torch.Generator, dtype: torch.dtype, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"noise": _draw(g, shape, dtype)}


def _slots(g: torch.Generator, dtype: torch.dtype, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"slots": _draw(g, (6, *shape), dtype)}


def _stored(g: torch.Generator, dtype: torch.dtype, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"stored": [_draw(g, shape, dtype) for _ in range(6)]}


def _learned(g: torch.Generator, dtype: torch.dtype, shape: tuple[int, ...]) -> dict[str, Any]:
    output = _draw(g, _twice(shape), dtype)
    output[:, shape[1] :] = output[:, shape[1] :].abs()
    return {"model_output": output, "noise": _draw(g, shape, dtype)}


def _glide(g: torch.Generator, dtype: torch.dtype, shape: tuple[int, ...]) -> dict[str, Any]:
    return {
        "model_output": _draw(g, _twice(shape), dtype),
        "uncond_output": _draw(g, _twice(shape), dtype),
        "noise": _draw(g, shape, dtype),
    }


def _guided(g: torch.Generator, dtype: torch.dtype, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"uncond_output": _draw(g, shape, dtype), "pred_original_sample": True}


def _threshold(g: torch.Generator, dtype: torch.dtype, shape: tuple[int, ...]) -> dict[str, Any]:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return {"threshold": 1 + torch.rand(shape[0], generator=g).to(wide)}


def _grad_tts(g: torch.Generator, dtype: torch.dtype, shape: tuple[int, ...]) -> dict[str, Any]:
    mask = torch.ones(shape[0], 1, *shape[2:], dtype=dtype)
    mask[..., -2:] = 0
    return {"mu": _draw(g, shape, dtype), "mask": mask, "noise": _draw(g, shape, dtype)}


def _seeds(increment: int, threads: int) -> Options:
    def options(g: torch.Generator, dtype: torch.dtype, shape: tuple[int, ...]) -> dict[str, Any]:
        pairs = [[2**40 + 11 * i, 8 * i] for i in range(shape[0] if threads == 0 else 1)]
        return {
            "philox": torch.tensor(pairs, dtype=torch.int64),
            "philox_increment": increment,
            "philox_threads": threads,
            "row": 1,
        }

    return options


def _counter(g: torch.Generator, dtype: torch.dtype, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"counter": torch.tensor([1]), "row": 0}


def _captured(g: torch.Generator, dtype: torch.dtype, shape: tuple[int, ...]) -> dict[str, Any]:
    """Make what changes in a captured step: the row, and the noise by it."""
    return {**_seeds(64, 0)(g, dtype, shape), **_counter(g, dtype, shape)}


def _original(g: torch.Generator, dtype: torch.dtype, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"pred_original_sample": True}


def _case(
    name: str,
    row: StepRow,
    options: Options | None = None,
    shape: tuple[int, ...] = IMAGE,
    channels_last: bool = False,
    dtypes: tuple[torch.dtype, ...] | None = None,
) -> OpCase:
    def inputs(dtype: torch.dtype) -> dict[str, Any]:
        g = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        arguments: dict[str, Any] = {
            "sample": _draw(g, shape, dtype),
            "model_output": _draw(g, shape, dtype),
            # The first row would scale everything by 100: a wrong row cannot hide.
            "table": torch.tensor([StepRow(output=100.0).as_list(), row.as_list()], dtype=wide),
            "row": 1,
        }
        if options is not None:
            arguments.update(options(g, dtype, shape))
        if channels_last:
            for key, value in arguments.items():
                if isinstance(value, Tensor) and value.dim() == 4 and key != "mask":
                    arguments[key] = value.contiguous(memory_format=torch.channels_last)
                elif key == "slots":
                    arguments[key] = torch.stack([s.permute(0, 2, 3, 1) for s in value]).permute(
                        0, 1, 4, 2, 3
                    )
        return arguments

    sample_inputs = inputs(torch.float32)
    changed = ("slots",) if "slots" in sample_inputs else ()
    extra: dict[str, Any] = {} if dtypes is None else {"dtypes": dtypes}
    return OpCase(
        "step",
        name,
        step,
        reference,
        inputs,
        changed,
        # curand's own logarithm and sine are part of torch's noise layout
        bitwise=not sample_inputs.get("philox_threads"),
        single="philox" in sample_inputs,
        **extra,
    )


_NO_DOUBLE = (torch.float32, torch.float16, torch.bfloat16)

CASES = [
    _case("ddpm", DDPM, _noise),
    _case("ddpm_channels_last", DDPM, _noise, channels_last=True),
    _case("ddim", DDIM, _original),
    _case("ddim_clipped_eta", DDIM_CLIPPED, _noise),
    _case("plms", PLMS, _slots),
    _case("plms_channels_last", PLMS, _slots, channels_last=True),
    _case("runge_kutta_first", RUNGE_KUTTA_FIRST, _slots),
    _case("runge_kutta_last", RUNGE_KUTTA_LAST, _slots),
    _case("plms_stored", PLMS, _stored),
    _case("plms_stored_channels_last", PLMS, _stored, channels_last=True),
    _case("runge_kutta_first_stored", RUNGE_KUTTA_FIRST, _stored),
    _case("runge_kutta_last_stored", RUNGE_KUTTA_LAST, _stored, shape=(2, 8, 21)),
    _case("glide", GLIDE, _glide),
    _case("glide_channels_last", GLIDE, _glide, channels_last=True),
    _case("latent_diffusion", DDIM, _guided, shape=(2, 4, 8, 8)),
    _case("learned_variance", LEARNED, _learned),
    _case("v_prediction", V_PREDICTION),
    _case("zero_terminal_snr", ZERO_SNR, _original),
    _case("dynamic_threshold", DDIM, _threshold),
    _case("dynamic_threshold_channels_last", DDIM, _threshold, channels_last=True),
    _case("bddm", BDDM, _noise, shape=(2, 1, 1031)),
    _case("grad_tts_ode", GRAD_TTS_ODE, _grad_tts, shape=(2, 8, 21)),
    _case("grad_tts_sde", GRAD_TTS_SDE, _grad_tts, shape=(2, 8, 21)),
    _case("mask_channels_last", GRAD_TTS_SDE, _grad_tts, channels_last=True),
    _case("device_counter", DDIM, _counter),
    _case("philox_per_sample", DDPM, _seeds(64, 0)),
    _case("philox_per_sample_channels_last", DDPM, _seeds(64, 0), channels_last=True),
    _case("philox_whole_packs", DDPM, _seeds(64, 0), shape=(2, 3, 8, 8)),
    _case("philox_device_counter", DDPM, _captured, shape=(2, 3, 8, 8)),
    _case("philox_torch_layout", DDPM, _seeds(4, 256), shape=(3, 5, 67), dtypes=_NO_DOUBLE),
    _case("one_element", DDPM, _noise, shape=(1, 1, 1, 1)),
    _case("one_channel", DDPM, _noise, shape=(3, 1, 5, 5)),
    _case("vector", DDIM, shape=(7,)),
    _case("empty_batch", DDPM, _noise, shape=(0, 3, 8, 8)),
    _case("whole_tiles", DDPM, _noise, shape=(2, 4, 16, 16)),
    _case("several_threads", DDPM, _noise, shape=(3, 3, 111, 111)),
    _case("several_threads_without_options", DDIM, shape=(3, 3, 111, 111)),
    _case("several_threads_philox", DDPM, _seeds(0, 0), shape=(3, 3, 51, 51)),
]
