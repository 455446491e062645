"""Linear layers of tokens; and layers run as one: equal results, and weights stay parameters."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from septet.checkpoints import read_tensors, write_tensors
from septet.nn.linear import (
    ConditionLinear,
    Linear,
    PointwiseConv1d,
    PointwiseConv2d,
    joint_linear,
    sum_with,
)
from septet.ops import use_convolution


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


def kinds(width: int, out_width: int) -> list[nn.Module]:
    return [
        Linear(width, out_width),
        Linear(width, out_width, bias=False),
        PointwiseConv1d(width, out_width),
        PointwiseConv2d(width, out_width),
    ]


def exact(layer: nn.Module, tokens: Tensor, residual: Tensor) -> Tensor:
    weight, bias = layer.weight.double().flatten(1), layer.bias
    product = tokens.double() @ weight.T
    return product + (0 if bias is None else bias.double()) + residual.double()


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual.double(), expected, rtol=2e-6, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(
    batch=st.integers(1, 3),
    tokens=st.integers(1, 40),
    width=st.integers(1, 70),
    out_width=st.integers(1, 70),
    implementation=st.sampled_from(["auto", "torch"]),
    with_gradients=st.booleans(),
    seed=st.integers(0, 99),
)
def test_layers_of_tokens(batch, tokens, width, out_width, implementation, with_gradients, seed):
    torch.manual_seed(seed)
    x, residual = torch.randn(batch, tokens, width), torch.randn(batch, tokens, out_width)
    before = residual.clone()
    for layer in kinds(width, out_width):
        with torch.set_grad_enabled(with_gradients), use_convolution(implementation):
            expected = exact(layer, x, residual)
            close(layer(x, residual), expected)
            plain = expected - residual.double()
            close(layer(x), plain)
            # a vector for each sample, and more dimensions
            close(layer(x[:, 0]), plain[:, 0])
            torch.testing.assert_close(layer(x[None])[0], layer(x))
    assert torch.equal(residual, before)


def test_a_layer_in_the_place_of_ours_need_not_add() -> None:
    layer, x, residual = Linear(6, 4), torch.randn(2, 5, 6), torch.randn(2, 5, 4)
    plain = nn.Linear(6, 4)
    plain.load_state_dict(layer.state_dict())
    with torch.no_grad():
        for either in (layer, plain):
            close(sum_with(either, x, residual), exact(layer, x, residual))


def test_bits_of_tokens_depend_neither_on_their_batch_nor_on_threads() -> None:
    layer, x = Linear(96, 200).requires_grad_(False), torch.randn(5, 300, 96)
    threads = torch.get_num_threads()
    with use_convolution("auto"):
        together = layer(x)
        assert all(torch.equal(layer(x[i : i + 1])[0], together[i]) for i in range(5))
        try:
            torch.set_num_threads(threads + 2)
            assert torch.equal(layer(x), together)
        finally:
            torch.set_num_threads(threads)


def test_packed_weights_of_tokens_follow_the_weights() -> None:
    for layer in kinds(8, 8):
        layer.requires_grad_(False)
        x, none = torch.randn(1, 6, 8), torch.zeros(1, 6, 8)
        for change in (lambda w: w, lambda w: w.mul_(2), lambda w: w.add_(1)):
            change(layer.weight)
            close(layer(x), exact(layer, x, none))
        layer.weight = nn.Parameter(torch.ones_like(layer.weight), requires_grad=False)
        for twin in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            close(twin(x), exact(layer, x, none))
        assert layer.double()(x.double()).dtype == torch.float64


def test_a_pointwise_convolution_is_one() -> None:
    layer, image = PointwiseConv2d(3, 5), torch.randn(2, 3, 4, 6)
    expected = nn.functional.conv2d(image, layer.weight, layer.bias)
    torch.testing.assert_close(layer(image.movedim(1, -1)).movedim(-1, 1), expected)
