"""Inverse Leaky ReRoPE: kexue.fm 9728: train with w + (i - j - w) · S beyond w, infer with RoPE."""

from __future__ import annotations

from golden.naive import EXACT, close, scores, shown
from golden.test_rope import AT, D, H, K, Q, rope

import whatwhere as ww


def test_training_distances() -> None:
    pairs = [(i, j) for i in range(40) for j in range(i + 1)]
    expected = [i - j if i - j < 16 else 16 + 16 * (i - j - 16) for i, j in pairs]
    assert shown("inverse_leaky_rerope(window=16,stride=16)", pairs, 64) == expected


def test_reach_of_the_blog() -> None:
    """L = 2048, w = L/4 = 512, S = 16: the farthest pair is shown w + S (L - 1 - w)."""
    assert shown("inverse_leaky_rerope", [(2047, 0)], 2048) == [512 + 16 * (2047 - 512)]


def test_inference_is_plain_rope() -> None:
    enc = ww.make("rope+inverse_leaky_rerope(window=16)", heads=H, head_dim=D)
    close(scores(enc.rule(), Q, K, AT), scores(rope(), Q, K, AT), EXACT)
