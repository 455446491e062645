"""Attention beyond its case rows: any shape, what softmax promises, bad arguments, the choice."""

from __future__ import annotations

import runpy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from septet import use_backend
from septet.ops import _library, attention, attention_table
from septet.ops.attention_table import WINNERS, cell, chosen, use_attention
from septet.testing.cases.attention import CASES
from septet.testing.references.attention import attention as reference
from septet.testing.tolerances import assert_as_accurate, relative_error

Q, K, V = torch.randn(3, 2, 6, 3, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def kernel():
    """Test the kernel, whatever the table says."""
    with use_attention("septet"):
        yield


def _draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


SIZES = {
    "batch": st.integers(1, 2),
    "queries": st.integers(1, 70),
    "keys": st.integers(1, 140),
    "heads": st.integers(1, 3),
    "width": st.integers(1, 70),
    "seed": st.integers(0, 99),
}


@settings(deadline=None, max_examples=60)
@given(**SIZES, dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_any_shape_agrees_with_sdpa(batch, queries, keys, heads, width, seed, dtype):
    query = _draw(batch, queries, heads, width, seed=seed).to(dtype)
    key, value = _draw(batch, keys, heads, 2 * width, seed=seed + 1).to(dtype).chunk(2, dim=-1)
    exact, plain = (
        F.scaled_dot_product_attention(*(x.to(kind).transpose(1, 2) for x in (query, key, value)))
        for kind in (torch.float64, dtype)
    )
    assert_as_accurate(attention(query, key, value), plain.transpose(1, 2), exact.transpose(1, 2))


@settings(deadline=None, max_examples=40)
@given(**SIZES)
def test_equal_values_are_returned(batch, queries, keys, heads, width, seed):
    """The weights of a row sum to one."""
    query = 3 * _draw(batch, queries, heads, width, seed=seed)
    key = _draw(batch, keys, heads, width, seed=seed + 1)
    value = _draw(batch, 1, heads, width, seed=seed + 2).expand_as(key)
    torch.testing.assert_close(attention(query, key, value), value[:, :1].expand_as(query))


@settings(deadline=None, max_examples=40)
@given(**SIZES)
def test_order_of_the_keys_does_not_matter(batch, queries, keys, heads, width, seed):
    query = _draw(batch, queries, heads, width, seed=seed)
    key, value = _draw(2, batch, keys, heads, width, seed=seed + 1)
    order = torch.randperm(keys, generator=torch.Generator().manual_seed(seed))
    expected = attention(query, key, value)
    torch.testing.assert_close(attention(query, key[:, order], value[:, order]), expected)


@settings(deadline=None, max_examples=40)
@given(**SIZES, prefix=st.integers(0, 80))
def test_prefix_is_concatenation_bit_for_bit(batch, queries, keys, heads, width, seed, prefix):
    query = _draw(batch, queries, heads, width, seed=seed)
    key, value = _draw(2, batch, prefix + keys, heads, width, seed=seed + 1)
    together = attention(query, key, value)
    apart = attention(
        query,
        key[:, prefix:],
        value[:, prefix:],
        prefix_key=key[:, :prefix],
        prefix_value=value[:, :prefix],
    )
    assert torch.equal(apart, together)


def test_scale_multiplies_the_logits():
    assert relative_error(attention(Q, K, V, scale=0.3), attention(0.3 * Q, K, V, scale=1)) < 1e-6
    assert torch.equal(attention(Q, K, V), attention(Q, K, V, scale=8**-0.5))
    mean = V.mean(dim=1, keepdim=True).expand_as(Q)
    torch.testing.assert_close(attention(Q, K, V, scale=0.0), mean)


def test_strided_views_are_read_in_place():
    """A packed projection, heads in front of tokens, and a broadcast over samples."""
    packed = _draw(2, 9, 3 * 4 * 8)
    query, key, value = packed.unflatten(-1, (3, 4, 8)).unbind(2)
    expected = attention(query.contiguous(), key.contiguous(), value.contiguous())
    assert torch.equal(attention(query, key, value), expected)
    heads_first = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (query, key, value)]
    assert torch.equal(attention(*heads_first), expected)
    shared = [x[:1].expand(2, -1, -1, -1) for x in (key, value)]
    assert torch.equal(attention(query, *shared), attention(query, *(x.clone() for x in shared)))
    column_first = query.transpose(1, 3).contiguous().transpose(1, 3)  # is copied
    assert torch.equal(attention(column_first, key, value), expected)
    assert attention(column_first, key, value).is_contiguous()


def test_huge_logits_neither_overflow_nor_cancel():
    query, key = torch.full((1, 2, 1, 4), 1e18), torch.ones(1, 5, 1, 4)
    key[0, 3] = 1.5
    value = _draw(1, 5, 1, 4)
    torch.testing.assert_close(attention(query, key, value), value[:, [3, 3]])
    low = attention(-query, key + 1, value)
    others = value[:, [0, 1, 2, 4]].mean(dim=1, keepdim=True).expand_as(low)
    torch.testing.assert_close(low, others)


def test_excluded_keys_have_no_part():
    """Not even if their values are large; infinite ones would be NaN, as in torch."""
    bias = torch.zeros(6)
    bias[2:4] = -torch.inf
    key, value = K.clone(), V.clone()
    key[:, 2:4], value[:, 2:4] = 1e10, 1e30
    kept = [0, 1, 4, 5]
    torch.testing.assert_close(
        attention(Q, key, value, bias=bias), attention(Q, K[:, kept], V[:, kept])
    )


@pytest.mark.parametrize("implementation", ["septet", "sdpa", "eager"])
def test_row_without_any_key_is_zero(implementation):
    bias = torch.zeros(6, 6)
    bias[2] = -torch.inf
    backend = "eager" if implementation == "eager" else "fused"
    with use_attention("auto" if backend == "eager" else implementation), use_backend(backend):
        out = attention(Q, K, V, bias=bias)
    assert (out[:, 2] == 0).all()
    assert out[:, [0, 1, 3, 4, 5]].isfinite().all()


def test_nan_stays_in_its_row():
    query = Q.clone()
    query[0, 1, 2, 3] = torch.nan
    out = attention(query, K, V)
    assert out[0, 1, 2].isnan().all()
    assert out.isnan().sum() == 8


def test_gradients_come_from_the_reference():
    tensors = [x.double().requires_grad_() for x in (Q, K, V)]
    bias = _draw(1, 3, 6, 6).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: attention(*x[:3], bias=x[3]), (*tensors, bias))
    single = [x.clone().requires_grad_() for x in (Q, K, V)]
    attention(*single).square().sum().backward()
    again = [x.clone().requires_grad_() for x in (Q, K, V)]
    heads_first = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in again))
    heads_first.square().sum().backward()
    for ours, torchs in zip(single, again, strict=True):
        torch.testing.assert_close(ours.grad, torchs.grad)


def test_float64_has_the_reference():
    wide = [x.double() for x in (Q, K, V)]
    assert torch.equal(attention(*wide), reference(*wide))


def test_compiles_as_one_graph():
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager", dynamic=True)
    for tokens in (6, 4):
        assert torch.equal(compiled(Q[:, :tokens], K, V), attention(Q[:, :tokens], K, V))


OLD_GPU_ROWS = [case for case in CASES if case.name in ("self", "prefix", "masked", "width_200")]


@pytest.mark.parametrize("case", OLD_GPU_ROWS, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gpu_without_tensor_cores(case, dtype, emulated_ops, monkeypatch):
    monkeypatch.setenv("SEPTET_EMULATOR_CAPABILITY", "7")
    plain = case.reference(**case.inputs(dtype))
    wide = {
        name: value.double() if isinstance(value, torch.Tensor) else value
        for name, value in case.inputs(dtype).items()
    }
    assert_as_accurate(case.face(**case.inputs(dtype)), plain, case.reference(**wide))


# --- The choice ------------------------------------------------------------------------------


def test_both_implementations_agree():
    options = {"bias": _draw(2, 1, 6, 10), "prefix_key": K[:, :4], "prefix_value": V[:, :4]}
    results = []
    for implementation in ("septet", "sdpa"):
        with use_attention(implementation):
            results.append(attention(Q, K, V, **options))
            assert results[-1].is_contiguous()
    torch.testing.assert_close(*results)


def test_the_table_decides(monkeypatch):
    def refuse():
        raise AssertionError("the kernel was called")

    place = cell("cpu", "float32", 6, 6, 8)
    monkeypatch.setattr(_library, "ops", refuse)
    with use_attention("auto"):
        monkeypatch.setitem(attention_table.WINNERS, place, "sdpa")
        attention(Q, K, V)
        monkeypatch.setitem(attention_table.WINNERS, place, "septet")
        with pytest.raises(AssertionError, match="the kernel was called"):
            attention(Q, K, V)
    with pytest.raises(AssertionError, match="the kernel was called"):
        attention(Q, K, V)


def test_table_is_well_formed():
    assert set(WINNERS.values()) <= {"septet", "sdpa"}
    assert all(len(key) == 5 and key[0] in attention_table.DEFAULTS for key in WINNERS)
    assert cell("cpu", "float32", 1024, 77, 40) == ("cpu", "float32", 10, 7, 6)
    with use_attention("auto"):
        assert chosen("cpu", "float32", 1 << 30, 1, 1) == "septet"  # unmeasured
        assert chosen("xpu", "float32", 64, 64, 64) == "sdpa"  # septet has no kernel there


def test_environment_chooses(monkeypatch):
    monkeypatch.setenv("SEPTET_ATTENTION", "sdpa")
    assert runpy.run_path(attention_table.__file__)["chosen"]("cpu", "", 1, 1, 1) == "sdpa"
    monkeypatch.setenv("SEPTET_ATTENTION", "flash")
    message = "SEPTET_ATTENTION must be one of auto, septet, sdpa, got 'flash'"
    with pytest.raises(ValueError, match=message):
        runpy.run_path(attention_table.__file__)
    with pytest.raises(ValueError, match="attention must be one of auto, septet, sdpa"):
        use_attention("flash").__enter__()


# --- Arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", ["septet", "sdpa"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": Q.int()}, "query must be one of float32, float16, bfloat16, float64, got int32"),
        ({"query": Q[0]}, r"query must be \[B, T, H, D\], got \[6, 3, 8\]"),
        ({"query": Q[..., :0]}, r"query must be \[B, T, H, D\], got \[2, 6, 3, 0\]"),
        ({"key": K[:1]}, r"key must be \[2, tokens, 3, 8\], got \[1, 6, 3, 8\]"),
        ({"key": K[..., :4]}, r"key must be \[2, tokens, 3, 8\], got \[2, 6, 3, 4\]"),
        ({"key": K[0]}, r"key must be \[2, tokens, 3, 8\], got \[6, 3, 8\]"),
        ({"value": V[:, :5]}, r"value must be \[2, 6, 3, 8\], got \[2, 5, 3, 8\]"),
        ({"value": V.half()}, "value must be float32 as query is, got float16"),
        ({"key": K[:, :0], "value": V[:, :0]}, "key must have at least one token"),
        ({"prefix_key": K}, "prefix_key and prefix_value must be given together"),
        ({"prefix_value": V}, "prefix_key and prefix_value must be given together"),
        ({"prefix_key": K, "prefix_value": V[:, :2]}, r"prefix_value must be \[2, 6, 3, 8\], got"),
        ({"bias": torch.zeros(6, 5)}, r"bias must broadcast to \[2, 3, 6, 6\], got \[6, 5\]"),
        ({"bias": torch.ones(6, 6, dtype=torch.bool)}, "bias must be float32 as query is, got"),
        ({"key": K.to("meta")}, "key must be on cpu as query is, got meta"),
    ],
)
def test_bad_arguments(arguments, message, implementation):
    with (
        use_attention(implementation),
        pytest.raises(ValueError, match=f"^septet.attention: {message}"),
    ):
        attention(**{"query": Q, "key": K, "value": V, **arguments})


@pytest.mark.parametrize(
    ("position", "argument", "message"),
    [
        (0, Q.double(), "query must be float32, float16 or bfloat16, got float64"),
        (1, K[:1], r"key must be \[2, tokens, 3, 8\] beside query, got \[1, 6, 3, 8\]"),
        (1, K.half(), "key must be float32, got float16"),
        (1, K.transpose(1, 3).contiguous().transpose(1, 3), "key must have stride 1 in its last"),
        (2, V[:, :5], "value must have the 6 tokens of key, got 5"),
        (3, torch.zeros(2, 3, 6, 5), r"bias must be \[2, 3, 6, 6\], got \[2, 3, 6, 5\]"),
        (4, K, "prefix_key and prefix_value must be given together"),
        (6, float("nan"), "scale must be finite, got nan"),
        (7, Q[..., ::2], "out must be contiguous, of the shape of query, got"),
    ],
)
def test_the_op_itself_checks_its_arguments(position, argument, message):
    arguments = [Q, K, V, None, None, None, 1.0, torch.empty_like(Q)]
    arguments[position] = argument
    with pytest.raises((RuntimeError, ValueError), match=f"septet.attention: {message}"):
        torch.ops.septet.attention(*arguments)
