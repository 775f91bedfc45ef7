"""p-RoPE: arXiv 2410.06205 by loops, and transformers' "proportional" frequencies live.

Exponent and pairing over the whole head; the frequencies past int(share · d // 2) are zero.
"""

from __future__ import annotations

import math

import pytest
import torch
from golden.naive import EXACT, close, scores, transformers_in_float64, wave
from golden.test_rope import AT, BASE, H, N, ladder, product

import whatwhere as ww

D = 24
Q, K = wave(H, N, D, 0.1), wave(H, N, D, 1.1)
KEPT = 3  # int(0.25 · 24 // 2)


def test_scores_by_loops() -> None:
    rule = ww.make("p_rope", heads=H, head_dim=D).rule()
    theta = [t if c < KEPT else 0.0 for c, t in enumerate(ladder(D))]
    got = scores(rule, Q, K, AT)
    for h, i, j in ((0, 4, 1), (1, 6, 6), (1, 2, 5), (0, 6, 0)):
        q, k = Q[0, h, i].tolist(), K[0, h, j].tolist()
        expected = product(q, k, AT[i] - AT[j], "half", theta) / math.sqrt(D)
        assert math.isclose(got[h, i, j], expected, abs_tol=EXACT)


def test_transformers_proportional_live() -> None:
    utils = pytest.importorskip("transformers.modeling_rope_utils")
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    if "proportional" not in utils.ROPE_INIT_FUNCTIONS:
        pytest.skip("this transformers has no rope_type 'proportional'")
    from transformers import LlamaConfig

    parameters = {"rope_type": "proportional", "rope_theta": BASE, "partial_rotary_factor": 0.25}
    config = LlamaConfig(
        hidden_size=H * D, num_attention_heads=H, head_dim=D, rope_parameters=parameters
    )
    with transformers_in_float64():
        tables = llama.LlamaRotaryEmbedding(config)(Q, torch.tensor([AT]))
        q, k = llama.apply_rotary_pos_emb(Q, K, *tables)
    assert len(AT) == N
    rule = ww.make("p_rope", heads=H, head_dim=D).rule()
    close(scores(rule, Q, K, AT), (q @ k.mT)[0] / math.sqrt(D), EXACT)


def test_slow_pairs_match_by_content_alone() -> None:
    q, k = Q.clone(), K.clone()
    for x in (q, k):
        x[..., :KEPT] = 0
        x[..., D // 2 : D // 2 + KEPT] = 0
    rule = ww.make("p_rope", heads=H, head_dim=D).rule()
    close(scores(rule, q, k, AT), scores(ww.ScoreRule(), q, k), EXACT)
