"""Cut a token stream into inputs and targets: windows to evaluate on, batches to train on.

A window of length L is L inputs and the L tokens that follow each of them, so it covers L + 1
tokens of the stream::

    stream    a b c d e f g h i          length = 4
    inputs    [a b c d] [e f g h]
    targets   [b c d e] [f g h i]

Consecutive windows share one token (e is the last target of the first and the first input of the
second), so every token but the first of the stream is a target exactly once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from jaxtyping import Int64
from torch import Tensor


def windows(
    stream: Int64[Tensor, " tokens"], length: int, limit: int | None = None
) -> tuple[Int64[Tensor, "m length"], Int64[Tensor, "m length"]]:
    """Cut `stream` into non-overlapping evaluation windows: (inputs, targets), both (m, length).

    m = ⌊min(tokens − 1, limit) / length⌋; `limit` is the largest number of *targets* to score and
    None scores all. What does not fill a window is left out: a shorter last window would have a
    context of its own. Comparing lengths on different targets compares texts as well; pass
    ``limit=common_span(len(stream), lengths)`` to score the same ones at every length.

    ValueError if not even one window fits.
    """
    _positive("length", length)
    available = len(stream) - 1
    if limit is not None:
        _positive("limit", limit)
        available = min(available, limit)
    count = available // length
    if count < 1:
        bound = "" if limit is None else f" and limit={limit}"
        raise ValueError(
            f"length={length} does not fit: a stream of {len(stream)} tokens{bound} has at most "
            f"{max(available, 0)} targets"
        )
    span = count * length
    return stream[:span].view(count, length), stream[1 : span + 1].view(count, length)


def common_span(tokens: int, lengths: Iterable[int], limit: int | None = None) -> int:
    """The number of targets that windows of every one of `lengths` can score alike.

    The largest multiple of the least common multiple of `lengths` that is at most tokens − 1 (and
    at most `limit`). With it as `limit`, `windows` scores the targets 1..span of the stream at
    every length: only the context of each target differs. `tokens` is the length of the stream.

    ValueError if no such number exists, that is if the stream is shorter than one such multiple.
    """
    lengths = tuple(lengths)
    if not lengths:
        raise ValueError("lengths is empty; give at least one window length")
    for length in lengths:
        _positive("lengths", length)
    unit = math.lcm(*lengths)
    available = tokens - 1 if limit is None else min(tokens - 1, limit)
    span = available // unit * unit
    if span < 1:
        raise ValueError(
            f"lengths={lengths} share no span within {max(available, 0)} targets: the same targets "
            f"at every length need a multiple of {unit}"
        )
    return span


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}={value} must be at least 1")
