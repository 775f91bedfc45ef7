"""Leaky ReRoPE: kexue.fm 9708, i - j below w, else w + (i - j - w) / k."""

from __future__ import annotations

import pytest
from golden.naive import EXACT, close, distances, scores, shown
from golden.test_rope import AT, D, H, K, Q, rope

import whatwhere as ww

PAIRS = [(i, j) for i in range(40) for j in range(i + 1)]


def leaky(r: int, window: int, factor: float) -> float:
    return r if r < window else window + (r - window) / factor


def test_distance_matrix() -> None:
    for window, factor in ((8, 4.0), (5, 16.0), (6, 1.5)):
        got = distances(f"leaky_rerope(window={window},factor={factor})", PAIRS, 16)
        assert got == pytest.approx([leaky(i - j, window, factor) for i, j in PAIRS], abs=1e-4)


def test_reach() -> None:
    """w + k (L - w) tokens keep every distance at most L: L = 2048, w = 512, k = 16."""
    reach = 512 + 16 * (2048 - 512)
    assert reach == 25_088
    assert shown("leaky_rerope(window=512,factor=16)", [(reach, 0)], 2048) == [2048]


def test_limits() -> None:
    same = ww.make("rope+leaky_rerope(window=4,factor=1)", heads=H, head_dim=D).rule()
    close(scores(same, Q, K, AT), scores(rope(), Q, K, AT), EXACT)
    flat = ww.make("rope+leaky_rerope(window=4,factor=10000000000)", heads=H, head_dim=D).rule()
    held = ww.make("rope+rerope(window=4)", heads=H, head_dim=D).rule()
    # Slowed by 10^10, 4095 tokens are still 4e-7 of one; frequencies round at 2^-64 turns.
    close(scores(flat, Q, K, AT, causal=True), scores(held, Q, K, AT, causal=True), 1e-5)
