"""Partial RoPE: transformers' GPT-NeoX with rotary_pct, called live.

The first rd = int(d · share) channels turn, with exponents over rd; the rest pass through.
"""

from __future__ import annotations

import math

import pytest
import torch
from golden.naive import EXACT, close, scores, transformers_in_float64, wave
from golden.test_rope import AT, H, N, _config, ladder, product

import whatwhere as ww

D = 24
Q, K = wave(H, N, D, 0.1), wave(H, N, D, 1.1)


def test_gpt_neox_live() -> None:
    neox = pytest.importorskip("transformers.models.gpt_neox.modeling_gpt_neox")
    for share in (0.25, 0.5, 1.0):
        with transformers_in_float64():
            config = _config(D, partial_rotary_factor=share)
            tables = neox.GPTNeoXRotaryEmbedding(config)(Q, torch.tensor([AT]))
            q, k = neox.apply_rotary_pos_emb(Q, K, *tables)
        assert tables[0].shape[-1] == int(D * share)
        rule = ww.make(f"rope(partial={share})", heads=H, head_dim=D).rule()
        close(scores(rule, Q, K, AT), (q @ k.mT)[0] / math.sqrt(D), EXACT)


def test_the_name_turns_a_quarter_by_loops() -> None:
    rule = ww.make("rope_partial", heads=H, head_dim=D).rule()
    got = scores(rule, Q, K, AT)
    for h, i, j in ((0, 4, 1), (1, 6, 6), (1, 2, 5)):
        q, k = Q[0, h, i].tolist(), K[0, h, j].tolist()
        turned = product(q[:6], k[:6], AT[i] - AT[j], "half", ladder(6))
        rest = math.fsum(a * b for a, b in zip(q[6:], k[6:], strict=True))
        assert math.isclose(got[h, i, j], (turned + rest) / math.sqrt(D), abs_tol=EXACT)
