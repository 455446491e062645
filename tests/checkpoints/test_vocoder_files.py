"""The vocoder's files: our folders, those of 2022, and the authors' pickles."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bddm_oracles import Oracle
from septet import BDDMPipeline, BDDMScheduler, DiffusionPipeline, PhiloxSeeds
from septet.checkpoints.conversions import conversion
from septet.errors import CheckpointError
from septet.models import DiffWaveModel, GALRModel
from stored import layout


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle("bddm_schedule_net")


def run(pipe: BDDMPipeline, mel: Tensor) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    audios: Tensor = pipe(mel, generator=PhiloxSeeds([1])).audios
    return audios


def save_authors(path: Path, oracle: Oracle, **changes: Any) -> Path:
    """Write what the authors' trainer saves: both networks in half precision, and settings."""
    config = {"T": 200, "beta_0": 0.0001, "beta_T": 0.02, "lr": 1e-5, "exp_dir": "./exp"}
    weights = {key: value.half() for key, value in oracle.part("weights.").items()}
    content = {
        "config": Namespace(**config),
        "model_state_dict": weights,
        "score_net_training_step": 3,
        "schedule_net_training_step": 4,
    }
    torch.save(content | changes, path)
    return path


def test_authors_file_with_both_networks(oracle: Oracle, tmp_path: Path) -> None:
    path = save_authors(tmp_path / "DiffWave_GALR.pkl", oracle)
    pipe = BDDMPipeline.from_single_file(path, config={"dilation_cycle": 3})
    assert {k: pipe.diffwave.config[k] for k in oracle.config["net"]} == oracle.config["net"]
    assert dict(pipe.schedule_network.config) == oracle.config["galr"]
    assert pipe.scheduler.config.num_train_timesteps == 200
    expected = DiffWaveModel(**oracle.config["net"])
    expected.load_state_dict(
        {
            key: value.half().float()
            for key, value in oracle.part("weights.").items()
            if not key.startswith("schedule_net.")
        }
    )
    for key, value in expected.state_dict().items():
        assert torch.allclose(pipe.diffwave.state_dict()[key], value, rtol=1e-6, atol=0)


def test_authors_file_with_one_network(oracle: Oracle, tmp_path: Path) -> None:
    weights = {k: v for k, v in oracle.part("weights.").items() if "schedule_net" not in k}
    torch.save({"model_state_dict": weights}, tmp_path / "DiffWave.pkl")
    pipe = BDDMPipeline.from_single_file(tmp_path / "DiffWave.pkl", config={"dilation_cycle": 3})
    assert pipe.schedule_network is None
    expected = BDDMPipeline(oracle.score_network(), BDDMScheduler())
    mel = oracle["input.ref_spec"]
    assert torch.equal(run(pipe, mel), run(expected, mel))
    for name in ("dtype", "torch_dtype"):
        half = BDDMPipeline.from_single_file(
            tmp_path / "DiffWave.pkl", config={"dilation_cycle": 3}, **{name: torch.float16}
        )
        assert half.dtype == torch.float16
    with pytest.raises(CheckpointError, match="no schedule network"):
        GALRModel.from_single_file(tmp_path / "DiffWave.pkl")


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("run",)


@pytest.mark.parametrize(
    "changes",
    [
        {"config": Namespace(anything=Evil())},
        {"config": Evil()},
        {"model_state_dict": {"a": Evil()}},
        {"model_state_dict": {"a": 3}},
        {"model_state_dict": {"init_conv.0.conv.weight_g": torch.ones(2, 1, 1)}},
        {"model_state_dict": {}},
    ],
)
def test_other_content_is_refused(
    oracle: Oracle, tmp_path: Path, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = save_authors(tmp_path / "DiffWave.pkl", oracle, **changes)
    with pytest.raises(CheckpointError, match=r"DiffWave\.pkl"):
        BDDMPipeline.from_single_file(path)
    assert capsys.readouterr().out == ""


def test_folder_of_2022(tmp_path: Path) -> None:
    """The layout of fusing/diffwave-vocoder-ljspeech."""
    early = Oracle("diffwave_early")
    schedule = early.config["schedules"]["n12"]
    for folder, config in (
        ("diffwave", {"_class_name": "DiffWave", "_diffusers_version": "0.0.3",
                      "_module": "pipeline_bddm.py", **early.config["net"]}),
        ("noise_scheduler", {"_class_name": "DDPMScheduler", "timesteps": 12,
                             "trained_betas": schedule["beta"],
                             "timestep_values": schedule["ts"], "beta_start": 0.0001,
                             "beta_end": 0.02, "beta_schedule": "linear",
                             "variance_type": "fixed_small", "clip_predicted_image": False,
                             "tensor_format": "pt"}),
    ):  # fmt: skip
        (tmp_path / folder).mkdir()
        name = "config.json" if folder == "diffwave" else "scheduler_config.json"
        (tmp_path / folder / name).write_text(json.dumps(config))
    torch.save(early.part("weights."), tmp_path / "diffwave/diffusion_model.pt")
    index = {
        "_class_name": "BDDM",
        "_diffusers_version": "0.0.3",
        "_module": "pipeline_bddm.py",
        "diffwave": ["pipeline_bddm", "DiffWave"],
        "noise_scheduler": ["diffusers", "DDPMScheduler"],
    }
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    pipe = DiffusionPipeline.from_pretrained(tmp_path)
    assert isinstance(pipe, BDDMPipeline)
    scheduler = BDDMScheduler()  # the published schedule is its default
    assert torch.equal(pipe.scheduler.timesteps, scheduler.timesteps)
    expected = BDDMPipeline(early.score_network(), scheduler)
    mel = early["input.mel"]
    assert torch.allclose(run(pipe, mel), run(expected, mel), rtol=1e-5)


@pytest.mark.parametrize("searches", [True, False])
def test_own_folder(oracle: Oracle, tmp_path: Path, searches: bool) -> None:
    network = oracle.schedule_network() if searches else None
    scheduler = BDDMScheduler(schedule=[0.01, 0.2])
    pipe = BDDMPipeline(oracle.score_network(), scheduler, network)
    pipe.save_pretrained(tmp_path)
    again = DiffusionPipeline.from_pretrained(tmp_path)
    assert isinstance(again, BDDMPipeline)
    assert (again.schedule_network is not None) == searches
    assert torch.equal(run(again, oracle["input.ref_spec"]), run(pipe, oracle["input.ref_spec"]))


def test_published_joint_layout() -> None:
    """Keys and shapes of DiffWave_GALR.pkl become exactly those of the two networks."""
    published = layout("bddm_diffwave_galr")
    weights = {key: torch.ones(shape) for key, shape in published["keys"].items()}
    for model_class in (DiffWaveModel, GALRModel):
        known = conversion(model_class.__name__)
        tensors = known.keys(weights, Path("DiffWave_GALR.pkl"))
        config = known.infer(tensors, Path("DiffWave_GALR.pkl"))
        assert {k: v for k, v in published["config"].items() if k in config}.items() <= (
            config.items()
        )
        with torch.device("meta"):
            model = model_class.from_config(config)
        shapes = {key: value.shape for key, value in model.state_dict().items()}
        assert shapes == {key: value.shape for key, value in tensors.items()}
