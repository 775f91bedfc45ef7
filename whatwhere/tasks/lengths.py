"""The same text at several window lengths: what a curve of perplexity against length is drawn from.

A longer window has more context for each target, and nothing else may differ: at every length the
same targets of the same pieces are scored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from jaxtyping import Int64
from torch import Tensor

from whatwhere.errors import whole_number
from whatwhere.tasks.pieces import borders
from whatwhere.tasks.task import Task
from whatwhere.tasks.windows import windows


class Cut(NamedTuple):
    """Piece number `piece` of a split as non-overlapping windows of `length`."""

    length: int
    piece: int
    inputs: Int64[Tensor, "m length"]
    targets: Int64[Tensor, "m length"]


def by_length(
    task: Task,
    lengths: Iterable[int],
    split: str = "test",
    limit: int | None = None,
    same: bool = True,
) -> Iterator[Cut]:
    """The pieces of `split` (books, say) cut at each of `lengths`, piece by piece within a length.

    The rule: of each piece, which starts with its separator, the first `span` targets are scored.
    `span` is the largest multiple of the least common multiple of `lengths` (of 1,024, 2,048, ...,
    32,768 that is 32,768) within the piece and within `limit` targets; a piece that is shorter than
    one such multiple is left out at every length. So the targets are the same at every length, and
    only their contexts differ, which start anew with each window and stay within the piece.

    same=False, for lengths whose multiple is longer than any piece (of 1,024, 2,048, 3,072, ...,
    10,240 it is 2.6 million): `span` is the largest multiple of the longest length, and each length
    scores the first ⌊span / length⌋ · length of its targets. Fewer than `length` targets at the end
    of a piece are then missing at some lengths.

    ValueError if no piece is long enough, or as `borders`.
    """
    lengths = tuple(whole_number("lengths", length) for length in lengths)
    if not lengths:
        raise ValueError("lengths is empty; give at least one window length")
    unit = math.lcm(*lengths) if same else max(lengths)
    starts, counts = borders(task, split)
    bound = counts if limit is None else counts.clamp(max=whole_number("limit", limit))
    spans = (bound // unit * unit).tolist()
    if not any(spans):
        raise ValueError(
            f"lengths={lengths}: no piece of {split} has {unit} targets, a multiple of them all; "
            f"the longest has {int(bound.max())}"
            + (f" (same=False needs {max(lengths)})" if unit > max(lengths) else "")
        )
    stream = task.splits()[split]
    for length in lengths:
        for piece, (start, span) in enumerate(zip(starts.tolist(), spans, strict=True)):
            if span:
                yield Cut(length, piece, *windows(stream[start : start + span + 1], length))
