"""T5's bias: transformers' T5Attention, called live (its Mesh TensorFlow bucket and its scores)."""

from __future__ import annotations

import pytest
import torch
from golden.naive import EXACT, close

import whatwhere as ww
from whatwhere.encodings import t5 as ours

t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
from transformers import T5Config  # noqa: E402

SIZES = [(32, 128), (16, 128), (32, 20), (64, 1024), (8, 33), (128, 800)]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("buckets", "most"), SIZES)
def test_buckets_live(bidirectional: bool, buckets: int, most: int) -> None:
    r = torch.arange(-500, 501)
    expected = t5.T5Attention._relative_position_bucket(r, bidirectional, buckets, most)
    assert ours.bucket(r, bidirectional, buckets, most).tolist() == expected.tolist()


def test_frozen_buckets() -> None:
    """One direction, 32 buckets, 128: exact to 15, then logarithmic, the last from 113 on."""
    r = -torch.tensor([-9, 0, 1, 15, 16, 18, 19, 21, 63, 64, 100, 112, 113, 128, 10**6])
    expected = [0, 0, 1, 15, 16, 16, 17, 18, 26, 26, 30, 30, 31, 31, 31]
    assert ours.bucket(r).tolist() == expected
    both = torch.tensor([-1000, -8, -1, 0, 1, 8, 1000])
    assert ours.bucket(both, bidirectional=True).tolist() == [15, 8, 1, 0, 17, 24, 31]


@pytest.mark.parametrize("decoder", [True, False])
def test_attention_layer_live(decoder: bool) -> None:
    """Scores without 1/√d, the bias of key minus query, and the softmax."""
    heads, d, n = 3, 4, 21
    config = T5Config(
        d_model=8,
        d_kv=d,
        num_heads=heads,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=17,
        is_decoder=decoder,
        attn_implementation="eager",
    )
    layer = t5.T5Attention(config, has_relative_attention_bias=True, layer_idx=0).double().eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
        x = torch.randn(2, n, 8).double()
        mask = torch.full((n, n), float("-inf")).triu(1).double() if decoder else torch.zeros(n, n)
        expected = layer(x, mask=mask[None, None].double())[0]
        q, k, v = (
            part(x).view(2, n, heads, d).transpose(1, 2) for part in (layer.q, layer.k, layer.v)
        )
        text = f"t5(buckets=8,max_distance=17,bidirectional={not decoder})"
        enc = ww.make(text, heads=heads, head_dim=d).double()
        enc.load_state_dict({"table": layer.relative_attention_bias.weight})
        out = ww.attend(q, k, v, enc.rule(), causal=decoder, scale=1.0)
        got = layer.o(out.transpose(1, 2).flatten(2))
    # T5's softmax is at least float32 whatever the input.
    close(got, expected, 1e-4 if got.dtype == torch.float32 else max(EXACT, 64 * 2.0**-23))
