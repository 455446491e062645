"""The vocoder: against stored runs, in batches of different lengths, and its arguments."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny_networks
from bddm_oracles import Oracle
from septet import BDDMPipeline, BDDMScheduler, DDPMScheduler, DiffWaveModel, PhiloxSeeds
from septet.pipelines import bddm
from septet.testing.tolerances import relative_error

TOLERANCE = 1e-5
TINY = {
    **tiny_networks.DIFFWAVE,
    "upsample_factors": (4, 2),
    "group_size": 2,
    "sampling_rate": 8000,
    "fmax": 4000.0,
}
HOP = 16


@pytest.fixture(scope="module")
def pipe() -> BDDMPipeline:
    torch.manual_seed(0)
    model = DiffWaveModel(**TINY).eval().requires_grad_(False)
    torch.nn.init.normal_(model.final_conv[2].conv.weight, std=0.1)
    pipeline = BDDMPipeline(model, BDDMScheduler(schedule=[0.001, 0.05, 0.4]))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class Replayed:
    """Stands in for the pipeline's draws."""

    def __init__(self, noise: list[Tensor]) -> None:
        self.noise = iter(noise)

    def __call__(self, *_args: object, **_options: object) -> Tensor:
        return next(self.noise)


@pytest.mark.parametrize("run", ["n3.ddpm", "n5.ddim", "n12.ddpm", "n12.ddim"])
def test_runs_equal_the_authors(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = Oracle("bddm_sampling")
    pipeline = BDDMPipeline(oracle.score_network(), BDDMScheduler())
    draws = Replayed(list(oracle.part(f"noise.{run}.").values()))
    monkeypatch.setattr(bddm, "randn_tensor", draws)
    monkeypatch.setattr("septet.sampling.randn_leading", draws)
    states = []

    def watch(_pipe: Any, _row: int, _timestep: float, tensors: dict[str, Tensor]) -> None:
        states.append(tensors["sample"])

    name, method = run.split(".")
    output = pipeline(
        oracle["input.mel"],
        schedule=oracle.config["betas"].get(name, "lj-12"),
        method=method,
        callback_on_step_end=watch,
        callback_on_step_end_tensor_inputs=["sample"],
    )
    expected = list(oracle.part(f"step.{run}.").values())
    assert len(states) == len(expected)
    for state, step in zip(states, expected, strict=True):
        assert relative_error(state, step) < TOLERANCE
    assert torch.equal(output.audios, states[-1])
    assert next(draws.noise, None) is None


@pytest.mark.parametrize("method", ["ddpm", "ddim"])
@pytest.mark.parametrize("kind", ["philox", "list"])
def test_a_batch_equals_the_single_runs(pipe: BDDMPipeline, kind: str, method: str) -> None:
    frames = [3, 9, 5]
    mels = [torch.randn(4, count, generator=torch.Generator().manual_seed(count))
            for count in frames]  # fmt: skip

    def generators(seeds: list[int]) -> Any:
        if kind == "philox":
            return PhiloxSeeds(seeds, offset=8)
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    output = pipe(mels, generator=generators([1, 2, 3]), method=method)
    assert output.audios.shape == (3, 1, 9 * HOP)
    assert output.lengths == tuple(count * HOP for count in frames)
    for index, mel in enumerate(mels):
        alone = pipe(mel, generator=generators([index + 1]), method=method).audios
        own = output.audios[index : index + 1, :, : output.lengths[index]]
        assert relative_error(own, alone) < TOLERANCE
        assert (output.audios[index, :, output.lengths[index] :] == 0).all()


def test_philox_streams_go_on_behind_the_longest_sample(pipe: BDDMPipeline) -> None:
    seeds = PhiloxSeeds([1, 2])
    pipe([torch.zeros(4, 2), torch.zeros(4, 5)], generator=seeds)
    assert seeds.offset == 3 * 5 * HOP  # the start and two of three steps draw


def test_seed_decides(pipe: BDDMPipeline) -> None:
    mel = torch.randn(2, 4, 6)
    first, second, third = (
        pipe(mel, generator=torch.Generator().manual_seed(seed)).audios for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_forms_of_input_and_output(pipe: BDDMPipeline) -> None:
    mel = torch.randn(4, 6)
    expected = pipe(mel, generator=PhiloxSeeds([5])).audios
    for form in (mel[None], [mel], mel.numpy(), [mel.numpy()], mel.double()):
        assert torch.equal(pipe(form, generator=PhiloxSeeds([5])).audios, expected)
    array = pipe(mel, generator=PhiloxSeeds([5]), output_type="np", return_dict=False)[0]
    assert isinstance(array, np.ndarray)
    assert np.array_equal(array, expected.numpy())
    assert pipe(mel).sampling_rate == 8000


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-6), (torch.float16, 1e-2), (torch.bfloat16, 8e-2)],
)
def test_other_types(pipe: BDDMPipeline, dtype: torch.dtype, tolerance: float) -> None:
    """Up to ten units in the last place of the type, float32's noise in each of them."""
    mels = [torch.randn(4, 5), torch.randn(4, 9)]
    expected = pipe(mels, generator=PhiloxSeeds([1, 2])).audios
    other = BDDMPipeline(copy.deepcopy(pipe.diffwave), pipe.scheduler).to(dtype)
    other.set_progress_bar_config(disable=True)
    audios = other(mels, generator=PhiloxSeeds([1, 2])).audios
    assert audios.dtype == dtype
    assert relative_error(audios.float(), expected) < tolerance


def test_callback_can_stop_and_replace(pipe: BDDMPipeline) -> None:
    rows = []

    def stop(pipeline: BDDMPipeline, row: int, _timestep: float, tensors: dict[str, Tensor]) -> Any:
        rows.append(row)
        pipeline._interrupt = row == 1
        return {"latents": torch.zeros_like(tensors["latents"])}

    output = pipe(torch.randn(4, 6), callback_on_step_end=stop)
    assert rows == [0, 1]
    assert (output.audios == 0).all()


def test_scheduler_of_2022_is_converted() -> None:
    betas = [0.001, 0.1, 0.3]
    early = DDPMScheduler(num_train_timesteps=3, trained_betas=betas, clip_sample=False)
    pipeline = BDDMPipeline(DiffWaveModel(**TINY), early)
    assert isinstance(pipeline.scheduler, BDDMScheduler)
    assert pipeline.scheduler.timesteps.tolist() == [2.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mel_spectrogram": torch.zeros(4)}, r"mel_spectrogram must be floats of shape \[4, fr"),
        ({"mel_spectrogram": torch.zeros(5, 6)}, "mel_spectrogram must be floats"),
        ({"mel_spectrogram": torch.zeros(1, 1, 4, 6)}, "mel_spectrogram must be floats"),
        ({"mel_spectrogram": torch.zeros(4, 0)}, "mel_spectrogram must be floats"),
        ({"mel_spectrogram": torch.zeros(4, 6).int()}, "mel_spectrogram must be floats"),
        ({"mel_spectrogram": [torch.zeros(1, 4, 6)]}, "mel_spectrogram must be floats"),
        ({"mel_spectrogram": []}, "at least one"),
        ({"mel_spectrogram": "speech"}, "mel_spectrogram must be floats"),
        ({"output_type": "pil"}, "output_type must be one of"),
        ({"schedule": [0.5, 0.1]}, "increase"),
        ({"num_inference_steps": 4}, "num_inference_steps must be one of"),
        ({"method": "x"}, "method must be one of"),
        ({"generator": PhiloxSeeds([1, 2])}, "generator holds 2 Philox seeds"),
        ({"callback_on_step_end": 3}, "callback_on_step_end must be callable"),
    ],
)
def test_bad_arguments(pipe: BDDMPipeline, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe(**{"mel_spectrogram": torch.zeros(4, 6), **arguments})


def test_bad_components() -> None:
    with pytest.raises(ValueError, match="diffwave must be a DiffWaveModel"):
        BDDMPipeline(torch.nn.Identity(), BDDMScheduler())
    with pytest.raises(ValueError, match="schedule_network must be a GALRModel"):
        BDDMPipeline(DiffWaveModel(**TINY), BDDMScheduler(), torch.nn.Identity())
