"""ReRoPE: kexue.fm 9708, every pair is shown min(i - j, w)."""

from __future__ import annotations

from golden.naive import EXACT, close, scores, shown
from golden.test_rope import AT, D, H, K, Q, rope

import whatwhere as ww

WINDOW = 5


def test_distance_matrix() -> None:
    pairs = [(i, j) for i in range(23) for j in range(i + 1)]
    assert shown(f"rerope(window={WINDOW})", pairs, 16) == [min(i - j, WINDOW) for i, j in pairs]


def test_far_away() -> None:
    pairs = [(90_000, 0), (90_000, 89_996), (90_000, 89_995), (90_000, 89_994)]
    assert shown(f"rerope(window={WINDOW})", pairs, 16) == [5, 4, 5, 5]


def test_default_window_is_a_quarter_of_the_training_length() -> None:
    assert shown("rerope", [(100, 0), (100, 84), (100, 85)], 64) == [16, 16, 15]


def test_a_window_beyond_the_text_is_rope() -> None:
    wide = ww.make("rope+rerope(window=5000)", heads=H, head_dim=D).rule()
    close(scores(wide, Q, K, AT), scores(rope(), Q, K, AT), EXACT)
