"""The networks of Grad-TTS against those of its authors."""

from __future__ import annotations

import pytest
import torch

import septet
import stored
from grad_tts_oracles import NAMES, load_networks, text_encoder, unet
from septet.testing.tolerances import relative_error

# The authors' own networks differ by 6e-6 (single) and 6e-5 (multi) with another convolution.
TOLERANCE = 1e-5


@pytest.fixture(params=NAMES)
def oracle(request):
    return stored.Oracle(request.param)


def estimate(decoder, tensors, **changes):
    names = ("x", "t", "mu", "mask")
    arguments = {name: tensors[f"input.est.{name}"] for name in names} | changes
    return decoder(*(arguments[name] for name in names), tensors.get("input.spk"))


def test_text_encoder(oracle):
    encoder, _ = load_networks(oracle)
    tensors = oracle.tensors
    encoded = encoder(tensors["input.x"], tensors["input.x_lengths"])
    assert torch.equal(encoded.mask, tensors["output.x_mask"])
    assert relative_error(encoded.mu, tensors["output.mu_x"]) <= TOLERANCE
    assert relative_error(encoded.log_durations, tensors["output.logw"]) <= TOLERANCE


@pytest.mark.parametrize("backend", ["fused", "eager"])
def test_decoder(oracle, backend):
    _, decoder = load_networks(oracle)
    with septet.use_backend(backend):
        score = estimate(decoder, oracle.tensors)
    assert relative_error(score, oracle.tensors["output.estimator"]) <= TOLERANCE


def test_prepared_decoder(oracle):
    _, decoder = load_networks(oracle)
    tensors = oracle.tensors
    mu, mask = tensors["input.est.mu"], tensors["input.est.mask"]
    prepared = decoder.prepare(torch.tensor([0.9, 0.25]), mu, mask, tensors.get("input.spk"))
    sample = tensors["input.est.x"]
    for row, time in enumerate((0.9, 0.25)):
        expected = estimate(decoder, tensors, t=torch.tensor(time))
        assert relative_error(prepared(sample, row), expected) <= 1e-6
        assert torch.equal(prepared(sample, torch.tensor(row)), prepared(sample, row))
    assert len(prepared) == 2


@pytest.mark.parametrize("name", ["grad_tts_ljspeech", "grad_tts_libritts"])
def test_published_keys(name):
    layout = stored.layout(name)
    with torch.device("meta"):
        encoder, decoder = text_encoder(layout["config"]), unet(layout["config"])
    shapes = {f"encoder.{key}": tensor for key, tensor in encoder.state_dict().items()}
    for key, tensor in decoder.state_dict().items():
        shapes[key if key.startswith("spk_emb") else f"decoder.estimator.{key}"] = tensor
    assert {key: list(tensor.shape) for key, tensor in shapes.items()} == layout["keys"]


def test_defaults_are_the_published_ones():
    layout = stored.layout("grad_tts_ljspeech")
    assert septet.models.GradTTSTextEncoderConfig().to_dict() == text_encoder_config(layout)
    with torch.device("meta"):
        assert unet(layout["config"]).config == septet.models.UNetGradTTSConfig().to_dict()


def text_encoder_config(layout):
    with torch.device("meta"):
        return text_encoder(layout["config"]).config


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_float64(name):
    oracle = stored.Oracle(name)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        encoder, decoder = (net.to(dtype).requires_grad_(True) for net in load_networks(oracle))
        tensors = {
            key: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for key, tensor in oracle.tensors.items()
        }
        encoded = encoder(tensors["input.x"], tensors["input.x_lengths"])
        loss = encoded.mu.square().sum() + encoded.log_durations.square().sum()
        (loss + estimate(decoder, tensors).square().sum()).backward()
        gradients.append([p.grad for net in (encoder, decoder) for p in net.parameters()])
    # biases of keys and of what is normalised next have no gradient but rounding
    rounding = 1e-7 * max(expected.abs().max() for expected in gradients[1])
    for ours, expected in zip(*gradients, strict=True):
        assert (ours - expected).abs().max() <= 1e-4 * expected.abs().max() + rounding


def test_durations_send_no_gradient_into_the_encoder():
    encoder, _ = load_networks(stored.Oracle("grad_tts_single"))
    encoder.requires_grad_(True)
    encoder(torch.tensor([[1, 2, 3]]), torch.tensor([3])).log_durations.sum().backward()
    reached = {name for name, p in encoder.named_parameters() if p.grad is not None}
    assert reached == {name for name, _ in encoder.named_parameters() if "proj_w" in name}


def test_padding_does_not_change_the_encoding():
    encoder, _ = load_networks(stored.Oracle("grad_tts_single"))
    ids = torch.arange(9)[None]
    alone = encoder(ids, torch.tensor([9]))
    padded = encoder(torch.nn.functional.pad(ids, (0, 4), value=7), torch.tensor([9]))
    assert relative_error(padded.mu[:, :, :9], alone.mu) <= 1e-6
    assert not padded.mu[:, :, 9:].any()


def test_dropout_in_training_only():
    encoder, _ = load_networks(stored.Oracle("grad_tts_single"))
    arguments = torch.tensor([[1, 2, 3]]), torch.tensor([3])
    assert torch.equal(encoder(*arguments).mu, encoder(*arguments).mu)
    encoder.train()
    assert not torch.equal(encoder(*arguments).mu, encoder(*arguments).mu)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(2, 8, 8)}, "sample must have the shape of mu"),
        ({"mu": torch.zeros(2, 8, 10)}, "T a multiple of 4"),
        ({"mu": torch.zeros(2, 80, 12)}, r"mu must have shape \[B, 8, T\]"),
        ({"mask": torch.zeros(2, 12)}, "mask must have shape"),
        ({"t": torch.zeros(3)}, "time must be"),
    ],
)
def test_wrong_shapes_are_refused(changes, message):
    oracle = stored.Oracle("grad_tts_single")
    with pytest.raises(ValueError, match=message):
        estimate(load_networks(oracle)[1], oracle.tensors, **changes)


def test_speakers_are_checked():
    for name, wrong in (("grad_tts_single", torch.tensor([0, 1])), ("grad_tts_multi", None)):
        oracle = stored.Oracle(name)
        with pytest.raises(ValueError, match="speaker_ids must"):
            estimate(load_networks(oracle)[1], oracle.tensors | {"input.spk": wrong})


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("GradTTSTextEncoder", {"n_heads": 5}, "n_heads must divide"),
        ("GradTTSTextEncoder", {"n_spks": 2}, "n_spks must be 1"),
        ("GradTTSTextEncoder", {"kernel_size": 4}, "kernel_size must be odd"),
        ("GradTTSTextEncoder", {"n_vocab": 1 << 40}, "n_vocab"),
        ("GradTTSTextEncoder", {"layers": 4}, "unknown configuration key 'layers'"),
        ("UNetGradTTSModel", {"dim": 12}, "multiple of 8"),
        ("UNetGradTTSModel", {"dim_mults": (2, 4)}, "begin with 1"),
        ("UNetGradTTSModel", {"n_feats": 82}, "n_feats must be a multiple of 4"),
        ("UNetGradTTSModel", {"n_spks": 0}, "n_spks"),
    ],
)
def test_odd_configurations_are_refused(kind, config, message):
    with pytest.raises(ValueError, match=message):
        getattr(septet, kind)(**config)
