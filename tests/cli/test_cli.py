"""The ``septet`` command, called in process: exit codes, messages, files."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import septet
from septet.cli import demo, run
from septet.cli.files import grid, save_png
from septet.cli.judge import JudgeReport
from septet.cli.main import main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint of 16x16 grey images with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = septet.UNet2DModel(
            sample_size=16, in_channels=1, out_channels=1, block_out_channels=(4, 4),
            layers_per_block=1, norm_num_groups=2, attention_head_dim=4,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
        )  # fmt: skip
    folder = tmp_path_factory.mktemp("checkpoint")
    septet.DDPMPipeline(unet.eval(), septet.DDPMScheduler()).save_pretrained(folder)
    return folder


def test_run_writes_one_file_per_image(checkpoint, tmp_path, capsys):
    command = ["run", "--model", str(checkpoint), "--steps", "3", "--batch", "2"]
    assert main([*command, "--output", str(tmp_path / "pictures")]) == 0
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == ["0000.png", "0001.png"]
    assert "0001.png" in capsys.readouterr().out
    with Image.open(tmp_path / "pictures" / "0001.png") as picture:
        assert (picture.size, picture.mode) == ((16, 16), "L")


def test_run_is_reproducible_and_seeded(checkpoint, tmp_path):
    def pixels(seed):
        path = tmp_path / "image.png"
        call = ["run", "--model", str(checkpoint), "--steps", "3", "--seed", seed]
        assert main([*call, "--output", str(path)]) == 0
        with Image.open(path) as picture:
            return np.asarray(picture)

    assert np.array_equal(pixels("1"), pixels("1"))
    assert not np.array_equal(pixels("1"), pixels("2"))


@pytest.mark.parametrize("scheduler", ["ddpm", "ddim", "pndm"])
def test_run_agrees_with_the_pipeline(checkpoint, tmp_path, scheduler):
    call = ["run", "--model", str(checkpoint), "--scheduler", scheduler, "--steps", "5"]
    assert main([*call, "--seed", "4", "--output", str(tmp_path / "a.png")]) == 0
    pipeline = getattr(septet, f"{scheduler.upper()}Pipeline").from_pretrained(checkpoint)
    generator = torch.Generator().manual_seed(4)
    expected = pipeline(num_inference_steps=5, generator=generator).images[0]
    with Image.open(tmp_path / "a.png") as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(expected))


def test_run_writes_a_grid_into_one_file(checkpoint, tmp_path):
    call = [
        "run",
        "--model",
        str(checkpoint),
        "--steps",
        "2",
        "--batch",
        "5",
        "--dtype",
        "bfloat16",
    ]
    assert (
        main([*call, "--scheduler", "ddim", "--eta", "0.5", "--output", str(tmp_path / "g.png")])
        == 0
    )
    with Image.open(tmp_path / "g.png") as picture:
        assert picture.size == (3 * 18, 2 * 18)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "COMMAND"),
        (["fly"], 2, "fly"),
        (["run"], 2, "--model is needed"),
        (["run", "--model", "{}", "--prompt", "a"], 2, "--prompt does not go with a DDPMPipeline"),
        (["run", "--model", "{}", "--height", "64"], 2, "--height does not go with"),
        (["run", "--model", "{}", "--steps", "0"], 2, "at least 1"),
        (["run", "--model", "{}", "--steps", "many"], 2, "many"),
        (["run", "--model", "{}", "--steps", "2000"], 2, "num_inference_steps"),
        (["run", "--model", "{}", "--steps", "3", "--eta", "0.5"], 2, "--eta"),
        (["run", "--model", "{}", "--scheduler", "ddim", "--eta", "nan"], 2, "eta"),
        (["run", "--model", "{}", "--scheduler", "euler"], 2, "euler"),
        (["run", "--model", "{}", "--dtype", "int8"], 2, "int8"),
        (["run", "--model", "{}", "--device", "abacus"], 2, "abacus"),
        (["run", "--model", "{}", "--seed", "-1"], 2, "seed"),
        (["run", "--model", "{}", "--variant", "fp16"], 1, "fp16"),
        (["run", "--model", "{}/nowhere"], 1, "model_index.json"),
        (["demo", "--model", "{}/nowhere"], 1, "model_index.json"),
    ],
)
def test_mistakes_end_in_one_line(
    checkpoint, tmp_path, monkeypatch, capsys, arguments, code, message
):
    monkeypatch.chdir(tmp_path)
    assert main([part.format(checkpoint) for part in arguments]) == code
    captured = capsys.readouterr()
    last = captured.err.strip().splitlines()[-1]
    assert last.startswith("septet")
    assert message in last
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(tmp_path, capsys):
    assert main(["run", "--debug", "--model", str(tmp_path / "nowhere")]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_output_that_cannot_be_written(checkpoint, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    call = ["run", "--model", str(checkpoint), "--steps", "2"]
    assert main([*call, "--output", str(tmp_path / "file" / "a.png")]) == 1
    assert "file" in capsys.readouterr().err


def test_help_and_version(capsys):
    assert main(["--help"]) == 0
    assert main(["--version"]) == 0
    assert septet.__version__ in capsys.readouterr().out


def test_interrupt(monkeypatch, checkpoint, tmp_path, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "write_images", interrupted)
    call = ["run", "--model", str(checkpoint), "--steps", "2", "--output", str(tmp_path / "x")]
    assert main(call) == 130
    assert "interrupted" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_pictures_appear_complete_or_not_at_all(tmp_path):
    class Broken:
        def save(self, path, **_):
            path.write_bytes(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_png(Broken(), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_grid_places_every_image():
    pixels = np.arange(1, 4, dtype=np.float32).reshape(3, 1, 1, 1) / 10
    got = grid(np.broadcast_to(pixels, (3, 2, 3, 1)), scale=2)
    assert got.shape == (1, 2 * 6, 2 * 8, 1)
    corners = got[0, [1, 4, 1, 7], [1, 6, 9, 1], 0]
    np.testing.assert_allclose(corners, [0.1, 0.1, 0.2, 0.3])
    assert got[0, 0, 0, 0] == got[0, 8, 12, 0] == 0.5


def test_env(capsys):
    assert main(["env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"septet: {septet.__version__}" in lines
    assert f"torch: {torch.__version__}" in lines
    assert main(["env", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["septet"] == septet.__version__
    assert set(report["libraries"]) == {"_C", "_C_cuda"}


def report(recognised=0.9, counts=(10,) * 10):
    return JudgeReport(100, recognised, counts, 0.1, 0.9, 0.98, 0.12)


@pytest.fixture
def judged(monkeypatch):
    """Let the demo judge by a fixed report, and quickly."""
    reports = [report(), report(), report()]
    monkeypatch.setattr(demo, "judge", lambda images: reports.pop(0))
    monkeypatch.setattr(demo, "_FEW_STEPS", 4)
    return reports


def run_demo(checkpoint, output, batch=100):
    call = ["demo", "--only", "digits", "--model", str(checkpoint), "--ddpm-steps", "2"]
    return main([*call, "--batch", str(batch), "--output", str(output)])


def test_demo_passes(checkpoint, tmp_path, judged, capsys):
    assert run_demo(checkpoint, tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "ddpm.png", "ddim.png", "pndm.png", "real.png"
    }  # fmt: skip
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()[1:]}
    assert rows["DDPM"][1] == "2"
    assert rows["PNDM"][-3:] == ["90.0%", "10/10", "0.100"]
    assert rows["real"][-3:] == ["90.0%", "10/10", "0.120"]
    with Image.open(tmp_path / "out" / "ddim.png") as picture:
        assert picture.size == (10 * 66, 10 * 66)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (report(recognised=0.8), "DDIM: only 80.0% recognised"),
        (report(counts=(0, *(11,) * 9)), "DDIM: no 0"),
    ],
)
def test_demo_fails_on_bad_digits(checkpoint, tmp_path, judged, capsys, bad, message):
    judged[1] = bad
    assert run_demo(checkpoint, tmp_path) == 1
    assert message in capsys.readouterr().err


def test_demo_does_not_ask_a_few_digits_for_every_class(checkpoint, tmp_path, judged):
    judged[0] = report(counts=(0, *(1,) * 9))
    assert run_demo(checkpoint, tmp_path, batch=9) == 0


@pytest.mark.slow
def test_demo_judges_noise_as_noise(checkpoint, tmp_path, capsys):
    assert run_demo(checkpoint, tmp_path, batch=20) == 1
    assert "recognised" in capsys.readouterr().err


def test_module_runs_as_a_command(tmp_path):
    command = [sys.executable, "-m", "septet", "run", "--model", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("septet: error:")
    assert len(done.stderr.splitlines()) == 1
