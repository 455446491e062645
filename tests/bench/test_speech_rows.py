"""The speech rows: what they need, and what can be said of them without the originals."""

from __future__ import annotations

import pytest
import torch

import tiny_networks
from septet.bench import originals, report, rows, speech_rows
from septet.bench.originals import ENVIRONMENT
from septet.bench.records import Latency, Record
from septet.bench.speech_original import with_weight_norm
from septet.cli.main import main
from septet.models import DiffWaveModel
from septet.testing.timing import Timing

NAMES = ["bddm.run/12-steps/3s", "grad-tts.run/10-steps/5s"]


def test_rows_are_listed_without_the_originals(monkeypatch, tmp_path):
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    assert [row.name for row in rows.select("speech")] == NAMES
    assert rows.select("speech")[0].case["audio_s"] == pytest.approx(2.995, abs=1e-3)


def test_a_missing_original_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setenv(ENVIRONMENT, "elsewhere")  # so that it is put back afterwards
    assert main(["bench", "--suite", "speech", "--originals", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    for name, package in zip(NAMES, ("diffusers 0.0.4", "grad-tts 0.0.4"), strict=True):
        folder = tmp_path / package.replace(" ", "-")
        assert f"{name} skipped: {package} is not in {folder}: python tools/" in err


def test_an_installed_original_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    for original in (originals.DIFFUSERS, originals.GRAD_TTS):
        assert original.obstacle() is not None
        file = original.folder / original.file
        file.parent.mkdir(parents=True)
        file.touch()
        assert original.obstacle() is None


def test_weights_become_those_of_the_published_network():
    network = DiffWaveModel(**tiny_networks.DIFFWAVE)
    folded = network.state_dict()
    plain = {key for key in folded if "fc_t" in key or "final_conv.2" in key or "bias" in key}
    expected = {key: folded[key] for key in plain}
    for key in folded.keys() - plain:
        lengths = [len(folded[key]), *[1] * (folded[key].ndim - 1)]
        expected |= {f"{key}_g": torch.empty(lengths), f"{key}_v": folded[key]}
    split = with_weight_norm(network.state_dict(), expected)
    assert {key: value.shape for key, value in split.items()} == {
        key: value.shape for key, value in expected.items()
    }
    # the network folds them again while it loads
    loaded = DiffWaveModel(**tiny_networks.DIFFWAVE)
    loaded.load_state_dict(split)
    for key, value in network.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[key], value)


def test_durations_make_the_length(tmp_path):
    speech_rows._write_grad_tts(tmp_path)
    encoder = speech_rows.GradTTSTextEncoder.from_pretrained(tmp_path / "text_encoder")
    ids = speech_rows._ids(encoder.config.n_vocab)[None]
    with torch.no_grad():
        durations = encoder(ids, torch.tensor([ids.shape[1]])).log_durations.exp().ceil()
    assert durations.sum() == 432


def test_real_time_factor_stands_in_the_table():
    record = Record({"run_id": "a"}, "speech", {"name": "x", "audio_s": 4.0}, "septet",
                    Latency.of(Timing((3.0,))))  # fmt: skip
    assert "0.75 RTF" in report._cells(record)
