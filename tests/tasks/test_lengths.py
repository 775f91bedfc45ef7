"""Text by length: the same targets at every length, contexts that stay within a piece."""

import pytest
import torch

from whatwhere.errors import UnknownName
from whatwhere.tasks import Task, by_length

SIZES = [50, 200, 97, 130]
"""Tokens between separators; with the separator at the end as many targets and one more."""


def made() -> Task:
    """Every token tells its place; 0 separates the pieces."""
    stream = torch.arange(1, sum(SIZES) + len(SIZES) + 2)
    place = 0
    for size in SIZES:
        stream[place] = 0
        place += size + 1
    stream[place] = 0
    none = stream[:0]
    return Task("made", 1000, none, none, stream, unit="x", describe="", metadata={"separator": 0})


def scored(cuts) -> dict[int, dict[int, list[int]]]:
    """Per length, per piece: the targets."""
    result: dict[int, dict[int, list[int]]] = {}
    for cut in cuts:
        assert cut.inputs.shape == cut.targets.shape == (len(cut.inputs), cut.length)
        assert cut.piece not in result.setdefault(cut.length, {})
        result[cut.length][cut.piece] = cut.targets.flatten().tolist()
    return result


def test_the_same_targets_are_scored_at_every_length():
    found = scored(by_length(made(), [8, 16, 32, 64]))
    assert list(found) == [8, 16, 32, 64]
    assert found[8] == found[16] == found[32] == found[64]
    assert {piece: len(each) for piece, each in found[8].items()} == {1: 192, 2: 64, 3: 128}
    first = 51 + 2  # piece 1 starts at place 51, and place p holds p + 1
    assert found[8][1] == list(range(first, first + 192))


def test_a_window_stays_within_its_piece():
    for cut in by_length(made(), [16, 64]):
        first = sum(SIZES[: cut.piece]) + cut.piece
        assert cut.inputs[0, 0] == 0
        assert torch.equal(cut.inputs.flatten()[1:], cut.targets.flatten()[:-1])
        inside = cut.targets[cut.targets > 0]
        assert inside.min() == first + 2
        assert inside.max() <= first + 1 + SIZES[cut.piece]


def test_the_end_of_a_piece_is_a_target():
    assert scored(by_length(made(), [3, 17]))[17][0][-1] == 0  # 51 = 3 · 17 targets


def test_a_limit_bounds_the_targets_of_each_piece():
    found = scored(by_length(made(), [8, 32], limit=100))
    assert {piece: len(each) for piece, each in found[8].items()} == {0: 32, 1: 96, 2: 96, 3: 96}
    assert found[8] == found[32]


def test_lengths_without_a_common_multiple():
    with pytest.raises(ValueError, match=r"has 840 targets.*longest has 201 \(same=False needs 60"):
        next(by_length(made(), [24, 56, 60, 15]))
    found = scored(by_length(made(), [24, 56, 60, 15], same=False))
    assert {length: len(found[length][1]) for length in found} == {
        24: 168,
        56: 168,
        60: 180,
        15: 180,
    }
    longest = found[60][1]
    assert all(longest[: len(each[1])] == each[1] for each in found.values())
    assert all(set(each) == {1, 2, 3} for each in found.values())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: by_length(t, []), ValueError, "lengths is empty"),
        (lambda t: by_length(t, [8, 0]), ValueError, "lengths is 0"),
        (lambda t: by_length(t, [8], limit=0), ValueError, "limit is 0"),
        (lambda t: by_length(t, [202]), ValueError, r"has 202 targets.*the longest has 201$"),
        (lambda t: by_length(t, [8], split="valid"), ValueError, "holds no whole piece"),
        (lambda t: by_length(t, [8], split="tset"), UnknownName, "did you mean 'test'"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        next(call(made()))
