"""Who sees whom: `Where` against the rule written out pair by pair."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whatwhere.attention import Where

ROWS, QUERIES, KEYS = 2, 3, 5


def numbers(count: int, most: int) -> st.SearchStrategy[list[list[int]]]:
    return st.lists(
        st.lists(st.integers(0, most), min_size=count, max_size=count),
        min_size=ROWS,
        max_size=ROWS,
    )


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    numbers(QUERIES, 9),
    numbers(KEYS, 9),
    st.booleans(),
    st.none() | st.integers(1, 6),
    st.none() | st.tuples(numbers(QUERIES, 1), numbers(KEYS, 1)),
    st.none() | numbers(KEYS, 1),
)
def test_a_pair_is_visible_if_every_condition_holds(
    q_pos: list[list[int]],
    k_pos: list[list[int]],
    causal: bool,
    window: int | None,
    documents: tuple[list[list[int]], list[list[int]]] | None,
    valid: list[list[int]] | None,
) -> None:
    where = Where(
        QUERIES,
        KEYS,
        torch.tensor(q_pos),
        torch.tensor(k_pos),
        causal=causal,
        window=window,
        q_documents=None if documents is None else torch.tensor(documents[0]),
        k_documents=None if documents is None else torch.tensor(documents[1]),
        k_valid=None if valid is None else torch.tensor(valid, dtype=torch.bool),
    )
    seen = where.visible()
    assert seen.shape == (ROWS, QUERIES, KEYS)
    for row in range(ROWS):
        for t, i in enumerate(q_pos[row]):
            for s, j in enumerate(k_pos[row]):
                expected = not causal or j <= i
                if window is not None:
                    expected = expected and abs(i - j) < window
                if documents is not None:
                    expected = expected and documents[0][row][t] == documents[1][row][s]
                if valid is not None:
                    expected = expected and bool(valid[row][s])
                assert bool(seen[row, t, s]) == expected


def test_short_cuts_are_true() -> None:
    """`plain_causal` and `everything` let a backend skip the mask: never said lightly."""
    here = torch.arange(KEYS)
    plain = Where(KEYS, KEYS)
    assert plain.plain_causal
    assert torch.equal(plain.visible()[0], torch.ones(KEYS, KEYS).tril().bool())
    everything = Where(KEYS, KEYS, causal=False)
    assert everything.everything
    assert everything.visible().all()
    for restricted in (
        {"window": 3},
        {"q_documents": here, "k_documents": here},
        {"k_valid": here > 1},
    ):
        for causal in (True, False):
            where = Where(KEYS, KEYS, causal=causal, **restricted)
            assert not where.plain_causal
            assert not where.everything
    assert not Where(KEYS, KEYS, here, here).plain_causal  # contiguous, but only a look would tell
    assert not Where(KEYS, KEYS, causal=False).plain_causal
    assert not plain.everything


def test_positions_of_either_shape() -> None:
    one = Where(QUERIES, KEYS, torch.arange(QUERIES), torch.arange(KEYS))
    rows = Where(QUERIES, KEYS, torch.arange(QUERIES).expand(ROWS, -1), torch.arange(KEYS))
    assert (one.batch, rows.batch) == (1, ROWS)
    assert torch.equal(one.visible().expand(ROWS, -1, -1), rows.visible())
    assert rows.visible() is rows.visible()  # computed once
