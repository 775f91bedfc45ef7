"""CoPE: arXiv 2405.18719, section 4 and the listing of its appendix, by loops.

logits = q·k / √d, masked; gates = sigmoid(logits); p_ij = Σ_{k=j..i} gates_ik, at most npos - 1;
logits += q_i · e[p_ij], interpolated between floor and ceil.
"""

from __future__ import annotations

import math

import torch
from golden.naive import EXACT, attention, close, dot, scores, table, wave

import whatwhere as ww

H, N, D, ROWS = 2, 9, 4, 4  # nine tokens open more than three gates: the clamp is reached
Q, K, V = wave(H, N, D, 0.1), 3 * wave(H, N, D, 1.1), wave(H, N, D, 2.1)


def cope() -> ww.Encoding:
    enc = ww.make(f"cope(max_positions={ROWS})", heads=H, head_dim=D).double()
    with torch.no_grad():
        enc.table.copy_(wave(1, ROWS, D, 4.0)[0, 0])
    return enc


def listing(enc: ww.Encoding, h: int, i: int, j: int) -> tuple[float, float]:
    """The logit of a pair and its counted position."""
    if j > i:
        return float("-inf"), 0.0
    q = Q[0, h, i].tolist()
    logits = [dot(q, K[0, h, x].tolist()) / math.sqrt(D) for x in range(i + 1)]
    counted = math.fsum(1 / (1 + math.exp(-x)) for x in logits[j:])
    counted = min(counted, ROWS - 1)
    floor, ceil = math.floor(counted), math.ceil(counted)
    below, above = (dot(q, enc.table[x].tolist()) for x in (floor, ceil))
    part = counted - floor
    return logits[j] + above * part + below * (1 - part), counted


def test_scores_by_loops() -> None:
    enc = cope()
    counted = [listing(enc, 0, N - 1, j)[1] for j in range(N)]
    assert max(counted) == ROWS - 1, "the case must reach the clamp"
    assert min(counted) < 1
    expected = table(lambda h, i, j: listing(enc, h, i, j)[0], H, N, N)
    close(scores(enc.rule(), Q, K, causal=True), expected, EXACT)


def test_outputs_by_loops() -> None:
    enc = cope()
    expected = table(lambda h, i, j: listing(enc, h, i, j)[0], H, N, N)
    out = attention(expected, lambda h, i, j: V[0, h, j].tolist())
    close(ww.attend(Q, K, V, enc.rule())[0], out, EXACT)


def test_zero_table_is_plain_attention() -> None:
    enc = ww.make("cope", heads=H, head_dim=D).double()
    close(ww.attend(Q, K, V, enc.rule()), ww.attend(Q, K, V), EXACT)
