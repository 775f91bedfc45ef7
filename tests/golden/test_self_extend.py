"""Self-Extend: arXiv 2401.01325 section 3.2: i - j below W, else i//G + W - W//G - j//G."""

from __future__ import annotations

from golden.naive import EXACT, close, scores, shown
from golden.test_rope import AT, D, H, K, Q, rope

import whatwhere as ww


def grouped(i: int, j: int, group: int, window: int) -> int:
    if i - j < window:
        return i - j
    return (i // group + window - window // group) - j // group


def test_distance_matrix() -> None:
    pairs = [(i, j) for i in range(60) for j in range(i + 1)]
    for group, window in ((4, 8), (3, 7), (4, 10)):
        expected = [grouped(i, j, group, window) for i, j in pairs]
        assert shown(f"self_extend(group={group},window={window})", pairs, 32) == expected


def test_reach() -> None:
    """[num] encodings.md §17: exactly (L - W) G + W tokens when G divides W."""
    length, group, window = 32, 8, 8
    reach = (length - window) * group + window
    pairs = [(reach - 1, j) for j in range(reach)]
    assert max(shown(f"self_extend(group={group},window={window})", pairs, 32)) == length - 1
    assert shown(f"self_extend(group={group},window={window})", [(reach, 0)], 32) == [length]


def test_distance_at_the_window() -> None:
    """[num] G | W shows W exactly; G = 4, W = 10 shows distance 10 as 10 or 11."""
    exact = [(i, i - 8) for i in range(8, 40)]
    assert set(shown("self_extend(group=4,window=8)", exact, 32)) == {8}
    ragged = [(i, i - 10) for i in range(10, 40)]
    assert set(shown("self_extend(group=4,window=10)", ragged, 32)) == {10, 11}


def test_group_one_is_rope() -> None:
    enc = ww.make("rope+self_extend(group=1,window=4)", heads=H, head_dim=D)
    close(scores(enc.rule(), Q, K, AT), scores(rope(), Q, K, AT), EXACT)
