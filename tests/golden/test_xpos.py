"""xPos: arXiv 2212.10554 and torchscale's xpos_relative_position.py, by loops.

torchscale: scale = (arange(0, d, 2) + 0.4 d) / (1.4 d), queries times scale^(p / 512), keys times
scale^(-p / 512), p counted from minus half of the length; here p counts from 0 (no centring), and
the scores do not depend on it. Its layout is interleaved.
"""

from __future__ import annotations

import math

import torch
from golden.naive import EXACT, close, scores, table
from golden.test_rope import AT, D, H, K, N, Q, ladder, pairs, product

import whatwhere as ww


def xpos(horizon: int | None = None, options: str = "layout=interleaved") -> ww.ScoreRule:
    return ww.make(f"xpos({options})", heads=H, head_dim=D).rule(horizon)


def torchscale(h: int, i: int, j: int, layout: str = "interleaved") -> float:
    q, k = Q[0, h, i].tolist(), K[0, h, j].tolist()
    for c, (a, b) in enumerate(pairs(layout)):
        scale = (2 * c + 0.4 * D) / (1.4 * D)
        for channel in (a, b):
            q[channel] *= scale ** (AT[i] / 512)
            k[channel] *= scale ** (-AT[j] / 512)
    return product(q, k, AT[i] - AT[j], layout, ladder()) / math.sqrt(D)


def test_torchscale_by_loops() -> None:
    expected = table(torchscale, H, N, N)
    relative = 1e-11 * expected.abs().max().item()  # future keys grow: ζ^((i-j)/512)
    close(scores(xpos(), Q, K, AT), expected, relative)
    halves = table(lambda h, i, j: torchscale(h, i, j, "half"), H, N, N)
    close(scores(xpos(options="layout=half"), Q, K, AT), halves, relative)


def test_the_centre_cancels() -> None:
    causal = scores(xpos(), Q, K, AT, causal=True)
    for horizon in (7, 4096, 20_000):
        close(scores(xpos(horizon), Q, K, AT, causal=True), causal, EXACT)


def test_slowest_pair_decays_by_two_sevenths_each_span() -> None:
    """ζ_0 = 0.4 / 1.4 at gamma 0.4: a score of the first pair at distance 512 is 2/7 of it."""
    q = torch.zeros(1, H, 1, D).double()
    q[..., 0] = 1.0
    near, far = (scores(xpos(), q, q, [p], [0])[0].item() for p in (0, 512))
    assert math.isclose(far / near, 2 / 7 * math.cos(512), rel_tol=1e-11)
