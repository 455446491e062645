"""Mapped weights: what is the file's can be given back, what was written to cannot."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from septet import memory
from septet.models import UNet2DModel
from septet.nn import Conv2d
from septet.ops import use_convolution

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
from septet.models import UNet2DModel
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
