"""VO-RoPE: o_i = R_-i Σ_j a_ij R_j v_j = Σ_j a_ij R_(j-i) v_j (kexue.fm 10862), by the sum."""

from __future__ import annotations

import torch
from golden.naive import EXACT, attention, close, scores
from golden.test_rope import AT, K, Q, V, rope
from golden.test_rope_values import turned

import whatwhere as ww


def test_outputs_by_an_explicit_sum() -> None:
    at = torch.tensor(AT)
    for layout in ("half", "interleaved"):
        rule = rope(f"vo_rope(layout={layout})")
        causal = scores(rope(f"rope(layout={layout})"), Q, K, AT, causal=True)
        expected = attention(
            causal, lambda h, i, j, x=layout: turned(V[0, h, j].tolist(), AT[j] - AT[i], x)
        )
        close(ww.attend(Q, K, V, rule, q_pos=at, k_pos=at)[0], expected, 10 * EXACT)


def test_shift_invariance() -> None:
    at, rule = torch.tensor(AT), rope("vo_rope")
    here = ww.attend(Q, K, V, rule, q_pos=at, k_pos=at)
    there = ww.attend(Q, K, V, rule, q_pos=at + 777, k_pos=at + 777)
    close(there, here, 10 * EXACT)
