"""RoPE on values: o_i = Σ_j a_ij R_j v_j by an explicit sum (encodings.md §6)."""

from __future__ import annotations

import math

import torch
from golden.naive import EXACT, attention, close, scores
from golden.test_rope import AT, D, H, K, Q, V, ladder, pairs, rope

import whatwhere as ww


def turned(v: list[float], position: int, layout: str) -> list[float]:
    """R_position v: every pair as a complex number times e^(I position θ)."""
    out = [0.0] * len(v)
    for (a, b), theta in zip(pairs(layout, len(v)), ladder(len(v)), strict=True):
        c, s = math.cos(position * theta), math.sin(position * theta)
        out[a], out[b] = c * v[a] - s * v[b], s * v[a] + c * v[b]
    return out


def test_outputs_by_an_explicit_sum() -> None:
    at = torch.tensor(AT)
    for layout in ("half", "interleaved"):
        rule = rope(f"rope_values(layout={layout})")
        causal = scores(rope(f"rope(layout={layout})"), Q, K, AT, causal=True)
        expected = attention(
            causal, lambda h, i, j, x=layout: turned(V[0, h, j].tolist(), AT[j], x)
        )
        close(ww.attend(Q, K, V, rule, q_pos=at, k_pos=at)[0], expected, EXACT)


def test_a_single_token_comes_out_turned() -> None:
    at = torch.tensor([1])
    rule = ww.make("rope_values", heads=1, head_dim=2).rule()
    one = torch.tensor([1.0, 0.0]).double()[None, None, None]
    got = ww.attend(one, one, one, rule, q_pos=at, k_pos=at)[0, 0, 0].tolist()
    assert math.isclose(got[0], math.cos(1), abs_tol=EXACT)
    assert math.isclose(got[1], math.sin(1), abs_tol=EXACT)


def test_an_attention_factor_does_not_lengthen_values() -> None:
    """YaRN's amplitude belongs to scores: |R_j v_j| = |v_j|."""
    enc = ww.make("rope_values+yarn(factor=8,train_length=512)", heads=H, head_dim=D)
    out = ww.attend(Q[:, :, :1], K[:, :, :1], V[:, :, :1], enc.rule())
    close(out.norm(dim=-1), V[:, :, :1].norm(dim=-1), EXACT)
