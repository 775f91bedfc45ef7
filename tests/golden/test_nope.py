"""NoPE: arXiv 2305.19466, section 2: q·k/√d, and nothing that knows a position."""

from __future__ import annotations

import math

import torch
from golden.naive import EXACT, attention, close, dot, scores, table, wave

import whatwhere as ww

Q, K, V = wave(2, 5, 3, 0.1), wave(2, 5, 3, 1.1), wave(2, 5, 7, 2.1)


def test_scores_are_plain_products() -> None:
    rule = ww.make("nope", heads=2, head_dim=3).rule()

    def number(h: int, i: int, j: int) -> float:
        return dot(Q[0, h, i].tolist(), K[0, h, j].tolist()) / math.sqrt(3)

    close(scores(rule, Q, K, [9, 0, 3, 100, 7]), table(number, 2, 5, 5), EXACT)


def test_causal_attention_by_loops() -> None:
    rule = ww.make("nope", heads=2, head_dim=3).rule()
    causal = scores(rule, Q, K, causal=True)
    assert bool((causal.isinf() == torch.ones(5, 5).triu(1).bool()).all())
    expected = attention(causal, lambda h, i, j: V[0, h, j].tolist())
    close(ww.attend(Q, K, V, rule)[0], expected, EXACT)


def test_grouped_heads_read_neighbouring_kv_heads() -> None:
    """Query head h reads KV head h // (H / G): repeat_kv of transformers' Llama, called live."""
    from transformers.models.llama.modeling_llama import repeat_kv

    q = wave(6, 5, 3, 0.3)
    got = scores(ww.ScoreRule(), q, K)
    close(got, (q @ repeat_kv(K, 3).mT)[0] / math.sqrt(3), EXACT)
