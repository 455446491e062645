"""Linear layers run as one: equal results, no second copy, and weights that stay parameters."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from septet.checkpoints import read_tensors, write_tensors
from septet.nn.linear import ConditionLinear, PointwiseConv2d, joint_linear


def three(width: int = 6, kind: type[nn.Linear] = nn.Linear) -> nn.ModuleList:
    return nn.ModuleList(kind(width, 4, bias=False) for _ in range(3))


def storages(layers: nn.ModuleList) -> set[int]:
    return {layer.weight.untyped_storage().data_ptr() for layer in layers}


def check(layers: nn.ModuleList, dtype: torch.dtype = torch.float32) -> None:
    tokens = torch.randn(2, 5, layers[0].in_features, dtype=dtype)
    with torch.no_grad():
        for one, layer in zip(joint_linear(tokens, layers), layers, strict=True):
            torch.testing.assert_close(one, layer(tokens))


@pytest.mark.parametrize("kind", [nn.Linear, ConditionLinear])
def test_one_product_for_inference_and_no_second_copy(kind: type[nn.Linear]) -> None:
    layers = three(kind=kind)
    parameters = [*layers.parameters()]
    check(layers)
    assert len(storages(layers)) == 1
    assert all(one is other for one, other in zip(parameters, layers.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in parameters)
    (first, *_) = (layer.weight.data_ptr() for layer in layers)
    check(layers)
    assert layers[0].weight.data_ptr() == first


def test_follows_changes_of_the_weights() -> None:
    layers = three()
    check(layers)
    with torch.no_grad():
        layers[1].weight.add_(1)
    check(layers)
    state = {key: tensor + 1 for key, tensor in layers.state_dict().items()}
    for assign in (False, True):
        layers.load_state_dict(state, assign=assign)
        check(layers)
    check(copy.deepcopy(layers))
    check(layers.to(torch.float64), torch.float64)
    layers[2] = nn.Linear(6, 4, bias=False).double()
    check(layers, torch.float64)


def test_trains_before_and_after() -> None:
    layers = three()
    check(layers)
    tokens = torch.randn(3, 6)
    outputs = joint_linear(tokens, layers)
    sum(index * one.sum() for index, one in enumerate(outputs)).backward()
    for index, layer in enumerate(layers):
        torch.testing.assert_close(layer.weight.grad, index * tokens.sum(0).expand(4, 6))
    torch.optim.SGD(layers.parameters(), 0.1).step()
    check(layers)


def test_weights_made_for_inference_still_train() -> None:
    layers = three()
    with torch.inference_mode():
        joint_linear(torch.randn(3, 6), layers)
    assert len(storages(layers)) == 1
    joint_linear(torch.randn(3, 6), layers)[0].sum().backward()
    torch.optim.SGD(layers.parameters(), 0.1).step()
    with torch.inference_mode():
        frozen = three()
        joint_linear(torch.randn(3, 6), frozen)
    assert len(storages(frozen)) == 3


def test_saves_every_weight(tmp_path: Path) -> None:
    layers = three()
    check(layers)
    for name in ("layers.safetensors", "layers.pt"):
        path = tmp_path / name
        if name.endswith(".pt"):
            torch.save(layers.state_dict(), path)
        else:
            write_tensors(path, layers.state_dict())
        for key, tensor in read_tensors(path).items():
            assert torch.equal(tensor, layers.state_dict()[key])


@pytest.mark.parametrize("change", ["bias", "hook", "subclass", "width"])
def test_leaves_unusual_layers_alone(change: str) -> None:
    layers = three()
    if change == "bias":
        layers[1] = nn.Linear(6, 4)
    elif change == "hook":
        layers[1].register_forward_hook(lambda *_: torch.ones(2, 5, 4))
    elif change == "subclass":
        layers[1] = type("Adapted", (nn.Linear,), {})(6, 4, bias=False)
    else:
        layers[1] = nn.Linear(6, 2, bias=False)
    check(layers)
    assert len(storages(layers)) == 3


def test_a_pointwise_convolution_is_one() -> None:
    layer, image = PointwiseConv2d(3, 5), torch.randn(2, 3, 4, 6)
    expected = nn.functional.conv2d(image, layer.weight, layer.bias)
    torch.testing.assert_close(layer(image.movedim(1, -1)).movedim(-1, 1), expected)
