"""The regions of every rule partition the pairs, and a tile's answer is true."""

from __future__ import annotations

import pytest
import torch
from conformance.cases import ALL, make
from hypothesis import given, settings
from hypothesis import strategies as st

from whatwhere.regions import EVERYWHERE, Region, chunk_gap, far, near

SPLITTING = [
    text for text in ALL if len(make(text, torch.device("cpu")).rule(64, training=True).cases) > 1
]
POSITIONS = st.lists(
    st.one_of(st.integers(0, 80), st.integers(0, 2_000_000)), min_size=1, max_size=9
)


def test_there_are_rules_that_split() -> None:
    assert {text.split("+")[1].split("(")[0] for text in SPLITTING} >= {
        "rerope",
        "leaky_rerope",
        "inverse_leaky_rerope",
        "self_extend",
        "dual_chunk",
    }


@pytest.mark.parametrize("text", SPLITTING)
@pytest.mark.parametrize("training", [False, True])
@settings(max_examples=12, deadline=None, derandomize=True)
@given(queries=POSITIONS, keys=POSITIONS)
def test_each_pair_has_exactly_one_term(
    text: str, training: bool, device: torch.device, queries: list[int], keys: list[int]
) -> None:
    """Also pairs with the key after the query, which attention to both sides shows."""
    rule = make(text, device).rule(64, training=training)
    i = torch.tensor(queries, device=device)[:, None]
    j = torch.tensor(keys, device=device)[None, :]
    term = rule.term_of(i, j)
    assert term.shape == (len(queries), len(keys))
    assert ((term >= 0) & (term < len(rule.cases))).all()


def test_gaps_and_overlaps_are_seen(device: torch.device) -> None:
    """`term_of` can answer -1 and -2: the law above is able to fail."""
    rule = make("rope+rerope", device).rule(64)
    near_term, far_term = rule.terms
    where = torch.arange(9, device=device)
    for terms, answer in (((near_term,), -1), ((near_term, far_term, far_term), -2)):
        broken = type(rule)(terms=terms)
        assert answer in broken.term_of(where[:, None], where[None, :])


REGIONS = st.one_of(
    st.builds(near, st.integers(1, 9)),
    st.builds(far, st.integers(1, 9)),
    st.tuples(st.integers(1, 7), st.integers(-3, 3), st.integers(0, 3)).map(
        lambda drawn: chunk_gap(drawn[0], drawn[1], drawn[1] + drawn[2])
    ),
    st.builds(
        lambda chunk, most: chunk_gap(chunk, None, most), st.integers(1, 7), st.integers(0, 3)
    ),
    st.just(EVERYWHERE),
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(REGIONS, st.integers(0, 30), st.integers(0, 9), st.integers(0, 30), st.integers(0, 9))
def test_a_tile_never_lies(region: Region, i: int, rows: int, j: int, columns: int) -> None:
    inside = region.contains(
        torch.arange(i, i + rows + 1)[:, None], torch.arange(j, j + columns + 1)[None, :]
    )
    answer = region.tile(i, i + rows, j, j + columns)
    if answer == "all":
        assert inside.all()
    elif answer == "none":
        assert not inside.any()
    if region.chunk == 1 or rows == columns == 0:  # distances, and single pairs, are told exactly
        truth = "all" if inside.all() else "none" if not inside.any() else "some"
        assert answer == truth


@pytest.mark.parametrize(
    ("region", "tile", "answer"),
    [
        (near(4), (0, 3, 0, 3), "all"),
        (near(4), (0, 4, 0, 3), "some"),
        (near(4), (7, 9, 0, 3), "none"),
        (far(4), (7, 9, 0, 3), "all"),
        (chunk_gap(5, 1, 1), (5, 9, 0, 4), "all"),
        (chunk_gap(5, 1, 1), (10, 14, 0, 4), "none"),
        (chunk_gap(5, 2, None), (10, 14, 0, 5), "some"),
        (EVERYWHERE, (0, 9, 3, 99), "all"),
    ],
)
def test_tiles_that_a_kernel_skips(
    region: Region, tile: tuple[int, int, int, int], answer: str
) -> None:
    """By hand: an answer of "some" everywhere would be true, and useless."""
    assert region.tile(*tile) == answer
