"""The Grad-TTS pipeline against stored runs of its authors' code, and what a call promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import septet
from grad_tts_oracles import NAMES, load_networks
from septet.pipelines import grad_tts
from septet.pipelines.grad_tts_alignment import align
from septet.testing.tolerances import relative_error
from stored import Oracle

# Ten times what the authors' own results change with another convolution.
TOLERANCES = {"grad_tts_single": 6e-5, "grad_tts_multi": 6e-4}
RUNS = [(name, run) for name in NAMES for run in range(len(Oracle(name).config["runs"]))]
# In the ninth step of this run two keys of a linear attention, near 4e7, almost tie. Rounding in
# any float32 code but the authors' lets the other one win, also with their formulas and torch's
# convolutions (2.8e-3). In float64 it is held to 1e-5 like all others.
TIES_IN_FLOAT32 = {("grad_tts_multi", 1)}


class Ids:
    """A tokenizer for texts that are digits already, separated by spaces."""

    def __call__(self, text):
        return [int(part) for part in text.split()]

    def save_pretrained(self, folder):
        raise NotImplementedError


def make(oracle, **components):
    encoder, decoder = load_networks(oracle)
    tokenizer = components.pop("tokenizer", Ids())
    pipeline = septet.GradTTSPipeline(
        decoder, encoder, septet.GradTTSScheduler(), tokenizer, **components
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def texts(oracle):
    ids, lengths = oracle.tensors["input.x"], oracle.tensors["input.x_lengths"]
    return [
        " ".join(map(str, row[:count]))
        for row, count in zip(ids.tolist(), lengths.tolist(), strict=True)
    ]


@pytest.fixture
def pipeline():
    return make(Oracle("grad_tts_single"))


@pytest.fixture
def speak(pipeline):
    def call(text="1 2 3", **arguments):
        arguments = {"num_inference_steps": 2, "output_type": "pt", **arguments}
        arguments.setdefault("generator", torch.Generator().manual_seed(0))
        return pipeline(text, **arguments)

    return call


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(("name", "run"), RUNS)
def test_runs_of_the_authors(name, run, dtype, monkeypatch):
    oracle = Oracle(name)
    steps, stochastic, temperature, length_scale = oracle.config["runs"][run]
    noises = (oracle.tensors[f"noise.run{run}.{index:03d}"].to(dtype) for index in range(100))
    monkeypatch.setattr(grad_tts, "_first_noise", lambda *_: next(noises))
    monkeypatch.setattr("septet.sampling.randn_leading", lambda *_, **__: next(noises))
    output = make(oracle).to(dtype)(
        texts(oracle),
        steps,
        temperature,
        length_scale,
        oracle.config["spk"],
        stochastic,
        output_type="pt",
    )
    stored = {
        key.removeprefix(f"output.run{run}."): tensor
        for key, tensor in oracle.tensors.items()
        if key.startswith(f"output.run{run}.")
    }
    assert output.lengths == stored["y_lengths"].tolist()
    longest = max(output.lengths)
    assert torch.equal(output.alignments.float(), stored["attn"][:, 0, :, :longest])
    assert relative_error(output.prior_means, stored["encoder_outputs"]) <= 1e-5
    tolerance = 1e-5 if dtype == torch.float64 else TOLERANCES[name]
    if dtype == torch.float64 or (name, run) not in TIES_IN_FLOAT32:
        error = relative_error(output.mel_spectrograms, stored["decoder_outputs"])
        assert error <= tolerance


@pytest.mark.parametrize("name", NAMES)
def test_durations(name):
    oracle = Oracle(name)
    for run, (_, _, _, length_scale) in enumerate(oracle.config["runs"]):
        alignment = align(
            oracle.tensors["output.logw"],
            oracle.tensors["output.x_mask"],
            length_scale=length_scale,
            multiple=4,
        )
        assert torch.equal(alignment.durations, oracle.tensors[f"output.run{run}.w_ceil"][:, 0])
        assert torch.equal(alignment.path, oracle.tensors[f"output.run{run}.attn"][:, 0])
        assert torch.equal(alignment.mask, oracle.tensors[f"output.run{run}.y_mask"])


def test_a_broken_network_cannot_ask_for_hours():
    for value in (50.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="predicts"):
            align(torch.full((1, 1, 3), value), torch.ones(1, 1, 3), length_scale=1.0, multiple=4)


def test_noise_is_drawn_in_the_authors_order():
    mu = torch.zeros(2, 20, 3).transpose(1, 2)  # as their product of transposed matrices is
    torch.manual_seed(7)
    expected = torch.randn_like(mu)
    noise = grad_tts._first_noise(mu.contiguous(), torch.Generator().manual_seed(7), "original")
    assert torch.equal(noise, expected)
    other = grad_tts._first_noise(mu, torch.Generator().manual_seed(7), "contiguous")
    assert torch.equal(other, torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(7)))
    assert not torch.equal(noise, other)


def test_generators_per_text(speak):
    seeds = [torch.Generator().manual_seed(seed) for seed in (4, 5)]
    both = speak(["1 2 3", "1 2 3"], generator=seeds).mel_spectrograms
    alone = speak("1 2 3", generator=torch.Generator().manual_seed(5)).mel_spectrograms
    torch.testing.assert_close(both[1:], alone)
    assert not torch.allclose(both[0], both[1])


def test_philox_seeds(speak):
    first, second = (
        speak(["1 2 3", "3 1"], generator=septet.PhiloxSeeds([1, 2]), stochastic=True)
        for _ in range(2)
    )
    assert torch.equal(first.mel_spectrograms, second.mel_spectrograms)


def test_temperature_divides_the_noise(speak):
    # diffusers 0.1 ignored it
    cold, colder = (speak(temperature=t, num_inference_steps=1) for t in (1e5, 1e6))
    warm = speak(temperature=1.0, num_inference_steps=1)
    assert relative_error(cold.mel_spectrograms, colder.mel_spectrograms) < 1e-3
    assert relative_error(warm.mel_spectrograms, colder.mel_spectrograms) > 0.1


def test_output_types(speak):
    tensors, arrays = speak(output_type="pt"), speak(output_type="np")
    assert isinstance(arrays.mel_spectrograms, np.ndarray)
    np.testing.assert_array_equal(tensors.mel_spectrograms.numpy(), arrays.mel_spectrograms)
    np.testing.assert_array_equal(tensors.alignments.numpy(), arrays.alignments)
    assert arrays.audios is None
    mel, audios, lengths, *_ = speak(return_dict=False)
    assert torch.equal(mel, tensors["mel_spectrograms"])
    assert (audios, lengths) == (None, tensors.lengths)


def test_a_batch_is_silent_after_a_text(speak):
    output = speak(["1 2 3 4 5 6 7", "2"])
    short, long = min(output.lengths), max(output.lengths)
    assert short < long == output.mel_spectrograms.shape[2]
    assert not output.mel_spectrograms[1, :, short:].any()


def test_callbacks(pipeline, speak):
    seen = []

    def callback(given, step, time, tensors):
        assert given is pipeline
        seen.append((step, time, sorted(tensors)))
        if step == 1:
            given._interrupt = True
        return {"latents": torch.zeros_like(tensors["latents"])}

    names = ("latents", "model_output")
    output = speak(
        num_inference_steps=4,
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=names,
    )
    assert seen == [(0, 0.875, sorted(names)), (1, 0.625, sorted(names))]
    assert not output.mel_spectrograms.any()


@pytest.mark.parametrize("mels", [8, 80])
def test_hifigan_as_vocoder(mels):
    settings = {**Oracle("hifigan").constructor, "num_mels": mels}
    vocoder = septet.HiFiGANModel(**settings).eval().requires_grad_(False)
    oracle = Oracle("grad_tts_single")
    if mels == 80:
        with pytest.raises(ValueError, match="vocoder must take spectrograms of 8 mel bins"):
            make(oracle, vocoder=vocoder)
        return
    output = make(oracle, vocoder=vocoder)(["1 2 3 4", "5"], 1, output_type="pt")
    for index, (audio, length) in enumerate(zip(output.audios, output.lengths, strict=True)):
        expected = vocoder(output.mel_spectrograms[index : index + 1, :, :length])[0]
        assert torch.equal(audio, expected)
        assert audio.shape == (length * vocoder.hop_length,)


class LoudVocoder(septet.DiffusionPipeline):
    """A pipeline that adds noise to the first bin."""

    sampling_rate = 80

    def __call__(self, mels, generator=None, output_type="np", gain=1.0):
        assert output_type == "pt"
        lengths = [mel.shape[1] for mel in mels]
        noise = septet.randn_tensor((len(mels), 1, max(lengths)), generator)
        for audio, mel in zip(noise, mels, strict=True):
            audio[0, : mel.shape[1]] += gain * mel[0]
        return type("Output", (), {"audios": noise, "lengths": lengths})


@pytest.mark.parametrize(
    "generators",
    [
        lambda: torch.Generator().manual_seed(0),
        lambda: [torch.Generator().manual_seed(seed) for seed in (0, 1)],
        lambda: septet.PhiloxSeeds([0, 1]),
    ],
)
def test_a_pipeline_as_vocoder_goes_on_with_the_generator(generators):
    pipeline = make(Oracle("grad_tts_single"), vocoder=LoudVocoder())
    generator = generators()
    output = pipeline(
        ["1 2 3", "2"], 1, generator=generator, output_type="pt", vocoder_options={"gain": 0.0}
    )
    assert [audio.shape[0] for audio in output.audios] == output.lengths
    assert output.sampling_rate == 80
    again, frames = generators(), max(output.lengths)
    first = (2, 8, -(-frames // 4) * 4)
    if isinstance(again, septet.PhiloxSeeds):
        again.advance(8 * first[2])
    else:
        grad_tts._first_noise(torch.empty(first), again, "original")
    expected = septet.randn_tensor((2, 1, frames), again)
    for audio, noise in zip(output.audios, expected, strict=True):
        assert torch.equal(audio, noise[0, : len(audio)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": []}, "text must be"),
        ({"text": None}, "text must be"),
        ({"text": ["1 2", "40"]}, "ids from 0 to 29.* got 40 for text 1"),
        ({"text": ""}, "got none for text 0"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"temperature": 0}, "temperature"),
        ({"length_scale": -1.0}, "length_scale"),
        ({"length_scale": math.nan}, "length_scale"),
        ({"speaker_id": 1}, "speaker_id"),
        ({"speaker_id": [0, 0]}, "speaker_id must be one number or one per text"),
        ({"stochastic": 1}, "stochastic"),
        ({"noise_layout": "modern"}, "noise_layout"),
        ({"output_type": "pil"}, "output_type"),
        ({"generator": [torch.Generator()] * 2}, "generator"),
        ({"callback_on_step_end": 3}, "callback_on_step_end"),
        (
            {"callback_on_step_end_tensor_inputs": ["pred_original_sample"]},
            "callback_on_step_end_tensor_inputs",
        ),
    ],
)
def test_refusals(speak, arguments, message):
    with pytest.raises(ValueError, match=message):
        speak(**arguments)


def test_texts_are_refused_by_number():
    pipeline = make(Oracle("grad_tts_single"), tokenizer=septet.GradTTSTokenizer())
    for text in ("", "  ", "😀"):
        with pytest.raises(ValueError, match="text 0 cannot be read: text must hold something"):
            pipeline([text, "a"])
    with pytest.raises(ValueError, match="text 0 cannot be read: text must be a string"):
        pipeline([5])


def test_speakers():
    pipeline = make(Oracle("grad_tts_multi"))
    torch.manual_seed(0)

    def mel(**arguments):
        generator = torch.Generator().manual_seed(0)
        return pipeline("1 2", 1, generator=generator, output_type="pt", **arguments)[0]

    assert torch.equal(mel(), mel(speaker_id=0))
    assert not torch.equal(mel(), mel(speaker_id=4))
    with pytest.raises(ValueError, match="speaker_id must be an integer from 0 to 4, got 5"):
        mel(speaker_id=5)


def test_mismatched_components_are_refused():
    single, multi = Oracle("grad_tts_single"), Oracle("grad_tts_multi")
    scheduler = septet.GradTTSScheduler()
    with pytest.raises(ValueError, match="text_encoder must have as many mel bins as unet"):
        septet.GradTTSPipeline(load_networks(multi)[1], load_networks(single)[0], scheduler, Ids())
    encoder, decoder = load_networks(single)
    with pytest.raises(ValueError, match="scheduler must be a GradTTSScheduler"):
        septet.GradTTSPipeline(decoder, encoder, septet.DDPMScheduler(), Ids())
    with pytest.raises(ValueError, match="tokenizer must be callable"):
        septet.GradTTSPipeline(decoder, encoder, scheduler, None)
    with pytest.raises(ValueError, match="vocoder must be"):
        septet.GradTTSPipeline(decoder, encoder, scheduler, Ids(), decoder)
