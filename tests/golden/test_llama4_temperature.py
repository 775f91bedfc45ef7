"""Llama 4's temperature: transformers' Llama4TextAttention on a layer without RoPE, called live.

1 + attn_scale · log(1 + floor((p + 1) / floor_scale)).
"""

from __future__ import annotations

import math

import pytest
import torch
from golden.naive import SINGLE, close

import whatwhere as ww

HEADS, GROUPS, D, N = 6, 3, 4, 23


def test_attention_layer_live() -> None:
    llama4 = pytest.importorskip("transformers.models.llama4.modeling_llama4")
    from transformers import Llama4TextConfig

    config = Llama4TextConfig(
        hidden_size=HEADS * D,
        num_attention_heads=HEADS,
        num_key_value_heads=GROUPS,
        head_dim=D,
        num_hidden_layers=1,
        no_rope_layers=[0],
        attn_scale=0.5,
        floor_scale=4,
        attn_temperature_tuning=True,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    layer = llama4.Llama4TextAttention(config, 0).double().eval()
    assert not layer.use_rope
    mask = torch.full((N, N), float("-inf")).triu(1).double()[None, None]
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.5)
        x = torch.randn(2, N, HEADS * D).double()
        expected = layer(x, position_embeddings=None, attention_mask=mask)[0]
        q, k, v = (
            part(x).unflatten(-1, (-1, D)).transpose(1, 2)
            for part in (layer.q_proj, layer.k_proj, layer.v_proj)
        )
        enc = ww.make(
            "nope+llama4_temperature(scale=0.5,floor_scale=4)",
            heads=HEADS, head_dim=D, kv_heads=GROUPS,
        )  # fmt: skip
        out = ww.attend(q, k, v, enc.rule())
        got = layer.o_proj(out.transpose(1, 2).flatten(2))
    assert expected.abs().max() > 1
    # Its temperature (and, in some versions, its softmax) is float32.
    close(got, expected, 64 * SINGLE)


def test_frozen_numbers() -> None:
    """The defaults 0.1 and 8192: 1 up to position 8190, then 1 + 0.1 ln 2, …"""
    rule = ww.make("nope+llama4_temperature", heads=2, head_dim=D).rule()
    got = rule.temperature(torch.tensor([[0, 8190, 8191, 16382, 16383, 10**6]]))
    steps = [1, 1, 2, 2, 3, 1 + (10**6 + 1) // 8192]
    expected = [1 + 0.1 * math.log(x) for x in steps]
    close(got[0], torch.tensor(expected, dtype=torch.float64), 2 * SINGLE)


def test_padding_before_position_0_has_the_first_factor() -> None:
    """Queries there see nothing, but the gradient of a product with infinity is NaN."""
    rule = ww.make("rope+llama4_temperature", heads=2, head_dim=D).rule()
    q, k, v = (torch.randn(2, 2, 7, D, requires_grad=True) for _ in range(3))
    first = torch.tensor([0, -4])
    at = first[:, None] + torch.arange(7)
    for backend in ("reference", "sdpa"):
        out = ww.attend(q, k, v, rule, q_pos=at, k_first=first, backend=backend)
        for grad in torch.autograd.grad(out.sum(), (q, k, v)):
            assert grad.isfinite().all()
    assert rule.temperature(at)[1, :4].tolist() == [1.0] * 4
