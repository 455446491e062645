"""Grad-TTS and HiFi-GAN from the files of their authors and of diffusers in 2022."""

from __future__ import annotations

import json

import pytest
import torch

from grad_tts_oracles import NAMES, load_networks, unet
from septet import (
    CheckpointError,
    DiffusionPipeline,
    GradTTSPipeline,
    GradTTSScheduler,
    GradTTSTextEncoder,
    GradTTSTokenizer,
    HiFiGANModel,
    UNetGradTTSModel,
)
from septet.checkpoints.weight_norm import fold_weight_norm
from stored import Oracle

IDS = "{AA AA0 B}"


def states_equal(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture(params=NAMES)
def oracle(request):
    return Oracle(request.param)


@pytest.fixture
def authors_file(oracle, tmp_path):
    path = tmp_path / "grad-tts.pt"
    torch.save(oracle.weights(), path)
    return path


def test_networks_from_the_authors_file(oracle, authors_file):
    encoder, decoder = load_networks(oracle)
    loaded = GradTTSTextEncoder.from_single_file(authors_file)
    assert states_equal(loaded, encoder)
    assert loaded.config == {**encoder.config, "p_dropout": 0.1}
    settings = {"n_feats": oracle.constructor["n_feats"]}
    loaded_decoder = UNetGradTTSModel.from_single_file(authors_file, config=settings)
    assert states_equal(loaded_decoder, decoder)
    expected = dict(decoder.config)
    if oracle.constructor["n_spks"] == 1:
        expected["spk_emb_dim"] = 64  # not in the weights, and not used
    assert dict(loaded_decoder.config) == expected


def test_pipeline_from_the_authors_file(oracle, authors_file):
    pipeline = GradTTSPipeline.from_single_file(authors_file)
    assert states_equal(pipeline.unet, load_networks(oracle)[1])
    assert (pipeline.scheduler.config.beta_start, pipeline.scheduler.config.beta_end) == (0.05, 20)
    assert pipeline.unet.config.pe_scale == 1000
    old = GradTTSPipeline.from_single_file(authors_file, pe_scale=1, dtype=torch.float64)
    assert old.unet.config.pe_scale == 1
    assert old.dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("encoder.emb.weight"), "'emb.weight' must have 2 axes"),
        (lambda w: w.pop("encoder.proj_m.bias"), "lacks 'proj_m.bias'"),
        (lambda w: w.update({"encoder.x": torch.zeros(1)}), "holds unexpected 'x'"),
        (
            lambda w: w.update({"encoder.emb.weight": torch.zeros(3)}),
            r"'emb.weight' must have 2 axes, found shape \[3\]",
        ),
        (
            lambda w: w.update({"decoder.estimator.mlp.0.weight": torch.zeros(4, 0)}),
            "dim must be",
        ),
    ],
)
def test_damaged_authors_files(tmp_path, change, message):
    weights = Oracle("grad_tts_single").weights()
    change(weights)
    torch.save(weights, tmp_path / "grad-tts.pt")
    with pytest.raises(CheckpointError, match=message):
        GradTTSPipeline.from_single_file(tmp_path / "grad-tts.pt")


@pytest.fixture
def folder_of_2022(oracle, tmp_path):
    """A folder as fusing/grad-tts-libri-tts: pickled weights, old names, dead weights."""
    encoder, decoder = load_networks(oracle)
    index = {
        "_class_name": "GradTTS",
        "_diffusers_version": "0.0.4",
        "_module": "grad_tts",
        "noise_scheduler": ["diffusers", "GradTTSScheduler"],
        "text_encoder": ["grad_tts", "TextEncoder"],
        "tokenizer": ["grad_tts", "GradTTSTokenizer"],
        "unet": ["diffusers", "UNetGradTTSModel"],
    }
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    weights = dict(decoder.state_dict())
    for name in ("norm1.weight", "conv1.bias", "temb_proj.weight", "nin_shortcut.weight"):
        weights[f"mid_block1.{name}"] = torch.zeros(2)
    weights["mid.block_1.conv1.weight"] = torch.zeros(1)
    weights["downs.0.3.op.weight"] = weights["downs.0.3.conv.weight"]
    parts = {
        "text_encoder": ("TextEncoder", encoder.config, encoder.state_dict()),
        "unet": ("UNetGradTTSModel", decoder.config, weights),
    }
    for name, (class_name, config, tensors) in parts.items():
        (tmp_path / name).mkdir()
        entries = {"_class_name": class_name, "_diffusers_version": "0.0.4", **config}
        (tmp_path / name / "config.json").write_text(json.dumps(entries))
        torch.save(tensors, tmp_path / name / "diffusion_model.pt")
    (tmp_path / "noise_scheduler").mkdir()
    (tmp_path / "noise_scheduler" / "scheduler_config.json").write_text(
        json.dumps({"_class_name": "GradTTSScheduler", "beta_start": 0.05, "beta_end": 20})
    )
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "dict_file.txt").write_text("A  AA\n", encoding="latin-1")
    return tmp_path


def test_folder_of_2022(oracle, folder_of_2022):
    pipeline = DiffusionPipeline.from_pretrained(folder_of_2022)
    assert isinstance(pipeline, GradTTSPipeline)
    encoder, decoder = load_networks(oracle)
    assert states_equal(pipeline.unet, decoder)
    assert states_equal(pipeline.text_encoder, encoder)
    assert pipeline.scheduler.config.beta_end == 20
    assert pipeline.vocoder is None
    assert pipeline.tokenizer.symbol_ids("a") == GradTTSTokenizer().symbol_ids("{AA}")


def test_round_trip(tmp_path):
    oracle = Oracle("grad_tts_single")
    encoder, decoder = load_networks(oracle)
    vocoder = HiFiGANModel(**{**Oracle("hifigan").constructor, "num_mels": 8}).eval()
    vocoder.requires_grad_(False)
    saved = GradTTSPipeline(
        decoder, encoder, GradTTSScheduler(), GradTTSTokenizer(strip_punctuation=True), vocoder
    )
    saved.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path)
    assert isinstance(loaded, GradTTSPipeline)
    assert loaded.tokenizer.config.strip_punctuation
    for name in ("unet", "text_encoder", "vocoder"):
        assert states_equal(getattr(loaded, name), getattr(saved, name))
        assert getattr(loaded, name).config == getattr(saved, name).config
    silent = GradTTSPipeline(decoder, encoder, GradTTSScheduler(), GradTTSTokenizer())
    silent.save_pretrained(tmp_path / "silent")
    assert GradTTSPipeline.from_pretrained(tmp_path / "silent").vocoder is None


def test_a_pipeline_may_be_a_component(tmp_path):
    encoder, decoder = load_networks(Oracle("grad_tts_single"))
    parts = (decoder, encoder, GradTTSScheduler(), GradTTSTokenizer())
    inner, outer = GradTTSPipeline(*parts), GradTTSPipeline(*parts)
    outer.vocoder = inner  # any pipeline will do to be saved and loaded
    outer.save_pretrained(tmp_path)
    loaded = GradTTSPipeline.from_pretrained(tmp_path, dtype=torch.float64)
    assert isinstance(loaded.vocoder, GradTTSPipeline)
    assert states_equal(loaded.vocoder.unet, decoder.double())
    loaded.to(torch.float32)
    assert loaded.vocoder.unet.dtype == torch.float32


@pytest.mark.parametrize("link", [False, True])
def test_a_folder_inside_itself_is_refused(tmp_path, link):
    encoder, decoder = load_networks(Oracle("grad_tts_single"))
    GradTTSPipeline(decoder, encoder, GradTTSScheduler(), GradTTSTokenizer()).save_pretrained(
        tmp_path
    )
    index = json.loads((tmp_path / "model_index.json").read_text())
    index["vocoder"] = ["septet", "GradTTSPipeline"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    if link:
        (tmp_path / "vocoder").symlink_to(tmp_path)
    with pytest.raises(CheckpointError, match="'vocoder' must be a folder of its own"):
        GradTTSPipeline.from_pretrained(tmp_path)


@pytest.fixture
def hifigan_files(tmp_path):
    oracle = Oracle("hifigan")
    torch.save({"generator": oracle.weights()}, tmp_path / "hifigan.pt")
    training = {"segment_size": 8192, "fmax": 8000, "num_gpus": 0, "dist_config": {"a": 1}}
    config = {**oracle.constructor, **training, "num_mels": 80, "sampling_rate": 22050}
    (tmp_path / "hifigan-config.json").write_text(json.dumps(config))
    return tmp_path


def test_hifigan_of_the_authors(hifigan_files):
    path, config = hifigan_files / "hifigan.pt", hifigan_files / "hifigan-config.json"
    model = HiFiGANModel.from_single_file(path, config=config)
    oracle = Oracle("hifigan")
    expected = fold_weight_norm(oracle.weights())
    assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())
    with pytest.raises(CheckpointError, match="config must be given"):
        HiFiGANModel.from_single_file(path)
    torch.save({"generator": 5}, path)
    with pytest.raises(CheckpointError, match="expected a mapping from names to tensors"):
        HiFiGANModel.from_single_file(path, config=config)


def test_an_incomplete_weight_norm_is_refused(hifigan_files):
    weights = Oracle("hifigan").weights()
    del weights["conv_pre.weight_g"]
    torch.save({"generator": weights}, hifigan_files / "hifigan.pt")
    with pytest.raises(CheckpointError, match=r"hifigan.pt: .*lacks its magnitude"):
        HiFiGANModel.from_single_file(
            hifigan_files / "hifigan.pt", config=hifigan_files / "hifigan-config.json"
        )


def test_published_unet_dumps_keep_their_own_names():
    # nothing that the network needs is mistaken for a dead weight
    from septet.checkpoints.grad_tts import decoder_keys

    settings = Oracle("grad_tts_multi").constructor
    weights = unet(settings).state_dict()
    assert decoder_keys(weights, None).keys() == weights.keys()
