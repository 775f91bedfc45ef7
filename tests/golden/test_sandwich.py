"""Sandwich: arXiv 2212.10356, Σ_{k<64} cos((i-j) 10000^(-k/64)) · H / (8 (h+1)), h from 0.

The head factor as in attention-gym, whose 128 is the width of the sinusoids.
"""

from __future__ import annotations

import math

from golden.naive import SINGLE, close, dot, scores, table, wave

import whatwhere as ww

H, N, D = 3, 6, 4
Q, K = wave(H, N, D, 0.1), wave(H, N, D, 1.1)
AT = [0, 1, 2, 40, 41, 500]


def test_scores_by_loops() -> None:
    rule = ww.make("sandwich", heads=H, head_dim=D).rule()

    def number(h: int, i: int, j: int) -> float:
        r = AT[i] - AT[j]
        cosines = math.fsum(math.cos(r * 10000 ** (-2 * k / 128)) for k in range(64))
        bias = cosines / (8 * (h + 1) / H)
        return dot(Q[0, h, i].tolist(), K[0, h, j].tolist()) / math.sqrt(D) + bias

    close(scores(rule, Q, K, AT), table(number, H, N, N), 64 * SINGLE)


def test_zero_distance() -> None:
    """64 ones times H / (8 (h+1)) at H = 3: 24, 12, 8."""
    rule = ww.make("sandwich", heads=H, head_dim=D).rule()
    got = scores(rule, 0 * Q, K, [7] * N)
    assert [round(x, 4) for x in got[:, 0, 0].tolist()] == [24.0, 12.0, 8.0]
