"""Linear attention against the order of operations of its paper, in float64."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from septet.nn.linear_attention import LinearAttention, RezeroAttention


def plain(attention, sample):
    """Project every pixel to queries, keys and values, then attend (Shen et al. 2021)."""
    batch, _, height, width = sample.shape
    projected = attention.to_qkv(sample).reshape(batch, 3, attention.num_heads, -1, height * width)
    query, key, value = projected.unbind(1)  # [B, H, D, N]
    context = torch.einsum("bhdn,bhen->bhde", key.softmax(-1), value)
    out = torch.einsum("bhde,bhdn->bhen", context, query)
    return attention.to_out(out.reshape(batch, -1, height, width))


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 9),
    height=st.integers(1, 5),
    width=st.integers(1, 6),
    heads=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_is_linear_attention(batch, channels, height, width, heads, seed):
    torch.manual_seed(seed)
    attention = LinearAttention(channels, heads, head_dim=3).double()
    block = RezeroAttention(attention).double()
    block.fn.g.data.fill_(0.7)
    sample = torch.randn(batch, channels, height, width, dtype=torch.float64)
    sample = sample.contiguous(memory_format=torch.channels_last)
    expected = sample + 0.7 * plain(attention, sample)
    output = block(sample)
    assert (output - expected).abs().max() <= 1e-12 * expected.abs().max()
    assert output.is_contiguous(memory_format=torch.channels_last)


def test_starts_as_the_identity():
    sample = torch.randn(2, 4, 3, 5)
    assert torch.equal(RezeroAttention(LinearAttention(4))(sample), sample)
