"""Mapped weights: what is the file's can be given back, what was written to cannot."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from septet import memory
from septet.models import UNet2DConditionModel, UNet2DModel
from septet.models import base as models_base
from septet.nn import Conv2d
from septet.ops import use_convolution
from septet.testing.tolerances import relative_error

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux tells pages of a file apart"
)
LAYER = "mid_block.resnets.0.conv1.weight"
CONFIG = {
    "sample_size": 16,
    "block_out_channels": (32, 256),
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "add_attention": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("mapped")
    UNet2DModel(**CONFIG).save_pretrained(path)
    return path


@pytest.fixture
def image():
    return torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def _file(folder):
    (file,) = folder.glob("*.safetensors")
    return file


def _run(model, image):
    with torch.no_grad(), use_convolution("auto"):
        return model(image, 10).sample


def test_large_convolutions_stay_mapped_and_all_else_is_aligned(folder):
    model = UNet2DModel.from_pretrained(folder)
    mapped = {key for key, value in model.state_dict().items() if memory.is_mapped(value)}
    assert LAYER in mapped
    layers = {f"{n}.weight" for n, m in model.named_modules() if type(m) is Conv2d}
    assert mapped < layers
    for key, value in model.state_dict().items():
        assert key in mapped or value.data_ptr() % 64 == 0


def test_weights_and_results_are_those_of_the_file_before_and_after_packing(folder, image):
    model, expected = UNet2DModel.from_pretrained(folder), load_file(_file(folder))
    unmapped = UNet2DModel.from_config(model.config).eval().requires_grad_(False)
    unmapped.load_state_dict(expected)
    assert torch.equal(_run(model, image), _run(unmapped, image))
    for key, value in model.state_dict().items():
        assert torch.equal(value, expected[key]), key
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(_run(twin, image), _run(unmapped, image))


def _kilobytes_of(path):
    """Tell how much of a mapped file is in memory (proc_pid_smaps(5))."""
    total, is_it = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match("[0-9a-f]+-[0-9a-f]+ ", line):
            is_it = line.endswith(str(path))
        elif is_it and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


@pytest.mark.parametrize("choice", ["auto", "direct", "torch"])
def test_what_has_been_packed_is_given_back(folder, image, choice):
    model = UNet2DModel.from_pretrained(folder)
    size = sum(v.nbytes for v in model.state_dict().values() if memory.is_mapped(v)) / 1024
    for value in model.state_dict().values():
        value.sum()
    assert _kilobytes_of(_file(folder)) > size
    with torch.no_grad(), use_convolution(choice):
        model(image, 10)
    assert _kilobytes_of(_file(folder)) < 0.1 * size


TEXT_CONFIG = {
    "sample_size": 8,
    "block_out_channels": (32, 256),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 1024,
    "attention_head_dim": 4,
}


def test_a_large_network_leaves_what_runs_once_for_all_steps_in_its_file(tmp_path, monkeypatch):
    torch.manual_seed(0)
    UNet2DConditionModel(**TEXT_CONFIG).save_pretrained(tmp_path)
    copied = UNet2DConditionModel.from_pretrained(tmp_path)
    monkeypatch.setattr(models_base, "_LARGE_BYTES", 0)
    model = UNet2DConditionModel.from_pretrained(tmp_path)
    layer = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    assert memory.is_mapped(model.get_parameter(layer))
    assert not memory.is_mapped(copied.get_parameter(layer))
    size = sum(v.nbytes for v in model.state_dict().values() if memory.is_mapped(v)) / 1024
    assert size > 4 * 1024
    latents, text = torch.randn(1, 4, 8, 8), torch.randn(1, 7, 1024)

    def run(network):
        prepared = network.prepare(torch.tensor([10, 5]), text)
        return [network(latents, 10, text).sample, prepared(latents, 1)]

    with torch.no_grad(), use_convolution("auto"):
        for result, expected in zip(run(model), run(copied), strict=True):
            assert relative_error(result, expected) < 1e-6
        assert _kilobytes_of(_file(tmp_path)) < 0.1 * size
        before = run(model)[0]
        for network in (model, copied):
            network.get_parameter(layer)[0] = 9
        assert relative_error(run(model)[0], before) > 1e-6
        assert relative_error(run(model)[0], run(copied)[0]) < 1e-6
    model.requires_grad_(True)
    model(latents, 10, text).sample.sum().backward()
    assert model.get_parameter(layer).grad is not None


def test_writing_to_a_mapped_weight_changes_the_model_and_not_the_file(folder, image):
    before = _file(folder).read_bytes()
    model = UNet2DModel.from_pretrained(folder)
    weight = model.get_parameter(LAYER)
    with torch.no_grad():
        weight[3:7] *= 2
    changed = weight.clone()
    _run(model, image)
    memory.release(weight)
    assert torch.equal(weight, changed)
    # past torch's count of versions
    weight.numpy()[0] = 5.0
    memory.release(weight)
    assert (weight[0] == 5.0).all()
    assert torch.equal(weight[1:], changed[1:])
    assert _file(folder).read_bytes() == before


def test_memory_of_its_own_is_never_given_back():
    tensor = torch.arange(1 << 20, dtype=torch.float32)
    assert not memory.is_mapped(tensor)
    memory.release(tensor)
    assert torch.equal(tensor, torch.arange(1 << 20, dtype=torch.float32))


def test_saving_over_the_mapped_file_keeps_both(folder, image, tmp_path):
    UNet2DModel.from_pretrained(folder).save_pretrained(tmp_path)
    model = UNet2DModel.from_pretrained(tmp_path)
    result = _run(model, image)
    model.save_pretrained(tmp_path)
    assert torch.equal(_run(UNet2DModel.from_pretrained(tmp_path), image), result)
    _file(tmp_path).unlink()
    expected = load_file(_file(folder))
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


def test_a_pickled_weight_does_not_drag_the_file_along(folder):
    weight = UNet2DModel.from_pretrained(folder).get_parameter(LAYER)
    assert len(pickle.dumps(weight)) < 1.1 * weight.nbytes


def test_a_mapped_model_trains(folder, image):
    model = UNet2DModel.from_pretrained(folder).train().requires_grad_(True)
    before = model.get_parameter(LAYER).detach().clone()
    model(image, 10).sample.square().mean().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert not torch.equal(model.get_parameter(LAYER), before)


PEAK = """
import json, re, sys, torch
from pathlib import Path
from septet.models import UNet2DConditionModel, UNet2DModel
from septet.models import base as models_base
def kilobytes(name):
    text = Path("/proc/self/status").read_text()
    return int(re.search(name + r":\\s+(\\d+)", text)[1])
model = UNet2DModel(sample_size=8, block_out_channels=(32,), down_block_types=("DownBlock2D",),
                    up_block_types=("UpBlock2D",), layers_per_block=1)
with torch.no_grad():
    model(torch.zeros(1, 3, 8, 8), 1)
def peak_of(run):
    Path("/proc/self/clear_refs").write_text("5")
    return run(), (kilobytes("VmHWM") - before) * 1024
before = kilobytes("VmRSS")
model, loading = peak_of(lambda: UNet2DModel.from_pretrained(sys.argv[1]))
with torch.no_grad():
    _, calling = peak_of(lambda: model(torch.zeros(1, 3, 16, 16), 1))
print(json.dumps([loading, calling]))
"""


def test_peaks_of_loading_and_of_a_call_with_the_smallest_packing(tmp_path):
    with torch.device("meta"):
        model = UNet2DModel(**{**CONFIG, "block_out_channels": (32, 512), "layers_per_block": 5})
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 0.01)
    model.save_pretrained(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "SEPTET_CONV": "direct"},
    )
    size = _file(tmp_path).stat().st_size
    assert size > 150e6
    loading, calling = json.loads(done.stdout)
    assert loading < 1.1 * size
    assert calling < 1.3 * size
