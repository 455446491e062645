"""Speech of the commands: files, pictures, messages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from septet.audio import read_wav
from septet.cli import speech_demo
from septet.cli.main import main
from septet.cli.speech import load_voice, symbol_names, voice_folder
from septet.cli.speech_picture import speech_picture
from septet.text import GradTTSTokenizer

VOICE = str(voice_folder("grad_tts"))


def test_run_speaks_like_the_pipeline(tmp_path, capsys):
    call = ["run", "--text", "Hello.", "--steps", "2", "--temperature", "2", "--seed", "3"]
    path = tmp_path / "new" / "hello.wav"
    assert main([*call, "--length-scale", "1.5", "--output", str(path)]) == 0
    assert capsys.readouterr().out.split() == [str(path), str(path.with_suffix(".png"))]
    waveform, rate = read_wav(path)
    generator = torch.Generator().manual_seed(3)
    expected = load_voice()("Hello.", 2, 2.0, 1.5, generator=generator)
    assert rate == expected.sampling_rate == 8000
    clamped = expected.audios[0].clamp(-1, 1)
    torch.testing.assert_close(waveform[0], clamped, rtol=0, atol=1.1 / 32768)
    with Image.open(path.with_suffix(".png")) as picture:
        assert picture.width == 4 * expected.lengths[0]


def test_run_with_a_batch_and_folders(tmp_path):
    call = ["run", "--model", VOICE, "--vocoder", str(voice_folder("vocoder")), "--text", "yes"]
    assert main([*call, "--steps", "1", "--batch", "2", "--output", str(tmp_path / "out")]) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["0000.png", "0000.wav", "0001.png", "0001.wav"]
    first, second = (read_wav(tmp_path / "out" / name)[0] for name in names[1::2])
    assert not torch.equal(first, second), "the readings have noise of their own"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model", VOICE, "--text", "a"], 2, "--vocoder is needed"),
        (["--model", VOICE, "--vocoder", str(voice_folder("vocoder"))], 2, "--text is needed"),
        (["--model", VOICE, "--vocoder", VOICE, "--text", "a"], 2, "--vocoder must be"),
        (["--text", ""], 2, "text 0 cannot be read"),
        (["--text", "a", "--height", "8"], 2, "--height does not go with a GradTTSPipeline"),
        (["--text", "a", "--prompt", "a"], 2, "--prompt does not go with a GradTTSPipeline"),
        (["--text", "a", "--temperature", "0"], 2, "temperature"),
        (["--prompt", "a", "--vocoder", "x"], 2, "--vocoder does not go with"),
        (["--text", "a", "--vocoder", "/nowhere"], 1, "model_index.json"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    assert main(["run", *arguments]) == code
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_demo_speaks(tmp_path, capsys):
    assert speech_demo.run_speech_demo(tmp_path, text="You are no longer muted.") == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row[3] == "10+12"
    assert 1 < float(row[5]) < 3
    assert read_wav(tmp_path / "speech.wav")[0].abs().max() > 0.05
    assert (tmp_path / "speech.png").exists()


def test_demo_fails_where_the_sound_is_not_what_was_to_be_said(tmp_path, monkeypatch, capsys):
    def noise(_vocoder, mels, generator, _options):
        return [torch.randn(100 * mel.shape[1], generator=generator) for mel in mels]

    monkeypatch.setattr("septet.pipelines.grad_tts.vocode", noise)
    assert main(["demo", "--only", "speech", "--output", str(tmp_path)]) == 1
    assert "from its spectrogram, more than 1.2" in capsys.readouterr().err


def test_picture_shows_who_speaks_when():
    mel = np.zeros((3, 5), dtype=np.float32)
    mel[0, 0] = 1  # the lowest note, at the start
    alignment = np.zeros((2, 5), dtype=np.float32)
    alignment[0, :2] = alignment[1, 2:] = 1
    sheet = np.asarray(speech_picture(mel, alignment, ["", "T"], "a"))
    assert sheet.shape[1] == 5 * 4
    brightness = sheet.astype(int).sum(axis=2)
    below = 16 + 3 * 3
    notes, rows = brightness[16:below], brightness[-4:]
    assert notes[6:, :4].min() > 500 > notes[:6].max()
    assert notes[:, 4:].max() < 50
    assert rows[:2, :8].min() > 500 > rows[:2, 8:].max()
    assert rows[2:, 8:].min() > 500 > rows[2:, :8].max()
    labels = brightness[below:-4] < 300
    assert labels[:, 8:].any()
    assert not labels[:, :8].any(), "blanks have no label"


def test_picture_refuses_another_number_of_symbols():
    with pytest.raises(ValueError, match=r"alignment must be \[1, 5\], got \[2, 5\]"):
        speech_picture(np.zeros((3, 5), np.float32), np.zeros((2, 5), np.float32), ["a"], "a")


def test_symbol_names():
    tokenizer = GradTTSTokenizer(strip_punctuation=True)
    named = [name for name in symbol_names(tokenizer("hello, x9q")) if name]
    assert named[:5] == ["HH", "AH", "L", "OW", ","]
