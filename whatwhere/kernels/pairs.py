"""Which pairs a kernel computes, and what it adds to their scores: one description for all paths.

A query and a key have a *place*: position and document, int32. A pair is seen if

    i's document = j's document >= 0,   j <= i (causal),   |i - j| < window,

so packing, left padding (document -1), chunked prefill and windows are numbers, not code paths.
Where places are left out, an index is a position and there is one document: then nothing is loaded
and whole tiles are known to be seen by arithmetic.

`bounds` says for each block of rows which blocks of columns hold a seen pair (low to high) and
which of these are seen whole (full_low to full_high): the others are masked pair by pair. It may
call a block masked that is whole, never the other way round.

`seen` and the biases are plain arithmetic: `triton.jit` makes them functions of the plain kernels,
`gluon.jit` (hopper) of the warp-specialised ones. A further bias is a further function here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

__all__ = [
    "BIASES",
    "EVERYTHING",
    "FAR",
    "Pairs",
    "alibi",
    "block_of",
    "bounds",
    "index_bounds",
    "seen",
]

FAR = 2**31 - 1  # a window that ends nowhere


@dataclass(frozen=True, eq=False)
class Pairs:
    """What a call of attention looks at.

    window counts the query itself (FAR: none). q_place (1 or b, 2, nq) and k_place (1 or b, 2, nk)
    int32: positions, then documents; both or neither. Documents of queries are at least 0, of
    padding keys -1. slopes (h,) float32: ALiBi, the score loses slope · |i - j|.
    """

    causal: bool = True
    window: int = FAR
    q_place: Tensor | None = None
    k_place: Tensor | None = None
    slopes: Tensor | None = None

    @property
    def placed(self) -> bool:
        """Whether places are read from memory."""
        return self.q_place is not None

    @property
    def options(self) -> dict[str, Any]:
        """The compile-time part: what a template's code depends on."""
        return {
            "CAUSAL": self.causal,
            "WINDOWED": self.window < FAR,
            "PLACED": self.placed,
            "BIAS": None if self.slopes is None else "alibi",
        }


EVERYTHING = Pairs(causal=False)


def _seen(i, j, of_i, of_j, window, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr,
          PLACED: tl.constexpr):  # fmt: skip
    """Visibility of pairs (broadcasting): positions i, j and documents of_i, of_j, int32."""
    inside = i == i
    inside = inside & (j == j)
    if CAUSAL:
        inside = inside & (j <= i)
    if WINDOWED:
        inside = inside & (i - j < window) & (j - i < window)
    if PLACED:
        inside = inside & (of_i == of_j)
    return inside


def _alibi(i, j, slope, CAUSAL: tl.constexpr = False):
    """-slope · |i - j|; slope already holds log2(e) where scores do. CAUSAL: only for j <= i."""
    gap = (j - i).to(tl.float32)
    if not CAUSAL:
        # Not abs(): this must compile in both dialects.
        gap = tl.minimum(gap, -gap)
    return slope * gap


seen = triton.jit(_seen)
alibi = triton.jit(_alibi)
#: name of a bias -> what the kernels add
BIASES = {None: None, "alibi": alibi}


def _index_bounds(first, behind, columns, window, BLOCK: tl.constexpr, CAUSAL: tl.constexpr,
                  WINDOWED: tl.constexpr, FLIP: tl.constexpr):  # fmt: skip
    """`bounds` of the rows first to behind - 1 where an index is a position; FLIP: rows are keys.

    Returns low, full_low, full_high, high in blocks of columns; full_low = full_high = low if no
    block is known to be seen whole.
    """
    low, high, full_low, full_high = first * 0, columns, first * 0, columns
    if CAUSAL and FLIP:
        low, full_low = first, behind - 1
    if CAUSAL and not FLIP:
        high, full_high = tl.minimum(columns, behind), tl.minimum(columns, first + 1)
    if WINDOWED:
        if FLIP or not CAUSAL:
            high = tl.minimum(high, behind - 1 + tl.minimum(window, columns))
            full_high = tl.minimum(full_high, first + tl.minimum(window, columns))
        if not (FLIP and CAUSAL):
            low = tl.maximum(low, first - window + 1)
            full_low = tl.maximum(full_low, behind - window)
    low, high = low // BLOCK, (high + BLOCK - 1) // BLOCK
    full_low, full_high = (full_low + BLOCK - 1) // BLOCK, full_high // BLOCK
    low = tl.minimum(low, high)
    empty = full_low >= full_high
    return low, tl.where(empty, low, full_low), tl.where(empty, low, full_high), high


def _block_of(step, low, full_low, full_high, high):
    """Which block a step visits: the masked ones right of the whole ones, those left, the whole."""
    right = high - full_high
    masked = right + full_low - low
    inside = tl.where(step < right, high - 1 - step, low + step - right)
    return tl.where(step < masked, inside, full_low + step - masked)


index_bounds = triton.jit(_index_bounds)
block_of = triton.jit(_block_of)


@triton.jit
def _extents(places, out, n, place_step, blocks, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """Of each block: least and greatest position and document of real tokens, and if all are."""
    block, batch = tl.program_id(0), tl.program_id(1)
    offset = tl.arange(0, WIDTH)
    index = block * BLOCK + offset
    here = places + batch.to(tl.int64) * place_step + index
    exists = (index < n) & (offset < BLOCK)
    position = tl.load(here, exists, other=0)
    document = tl.load(here + n, exists, other=-1)
    real = document >= 0
    at = out + (batch.to(tl.int64) * blocks + block) * 5
    tl.store(at, tl.min(tl.where(real, position, 2147483647), 0))
    tl.store(at + 1, tl.max(tl.where(real, position, -2147483647), 0))
    tl.store(at + 2, tl.min(tl.where(real, document, 2147483647), 0))
    tl.store(at + 3, tl.max(document, 0))
    tl.store(at + 4, tl.min((real | (offset >= BLOCK)).to(tl.int32), 0))


@triton.jit
def _look(row, others, column, count, window, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr,
          FLIP: tl.constexpr):  # fmt: skip
    """Of a vector of column blocks: which hold a seen pair of this row block, which are whole."""
    exists = column < count
    at = others + column * 5
    j_low = tl.load(at, exists, other=0).to(tl.int64)
    j_high = tl.load(at + 1, exists, other=0).to(tl.int64)
    first = tl.load(at + 2, exists, other=0)
    last = tl.load(at + 3, exists, other=-1)
    all_real = tl.load(at + 4, exists, other=0) != 0
    i_low, i_high = tl.load(row).to(tl.int64), tl.load(row + 1).to(tl.int64)
    own_first, own_last = tl.load(row + 2), tl.load(row + 3)
    some = exists & (last >= 0) & (own_last >= 0) & (first <= own_last) & (own_first <= last)
    full = some & all_real & (tl.load(row + 4) != 0)
    full = full & (first == last) & (own_first == own_last)
    if FLIP:  # rows are keys: from here on i is the query
        i_low, j_low = j_low, i_low
        i_high, j_high = j_high, i_high
    if CAUSAL:
        some = some & (j_low <= i_high)
        full = full & (j_high <= i_low)
    if WINDOWED:
        some = some & (i_low - j_high < window) & (j_low - i_high < window)
        full = full & (i_high - j_low < window) & (j_high - i_low < window)
    return some, full


@triton.jit
def _bounds(rows, columns, out, row_blocks, column_blocks, row_step, column_step, window,
            CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, FLIP: tl.constexpr,
            WIDTH: tl.constexpr):  # fmt: skip
    block, batch = tl.program_id(0), tl.program_id(1)
    row = rows + (batch * row_step + block).to(tl.int64) * 5
    others = columns + (batch * column_step).to(tl.int64) * 5
    far = 2147483647
    lane = tl.arange(0, WIDTH)
    low, full_low = tl.full((), far, tl.int32), tl.full((), far, tl.int32)
    high = tl.full((), 0, tl.int32)
    for start in range(0, column_blocks, WIDTH):
        column = start + lane
        some, full = _look(row, others, column, column_blocks, window, CAUSAL, WINDOWED, FLIP)
        low = tl.minimum(low, tl.min(tl.where(some, column, far), 0))
        high = tl.maximum(high, tl.max(tl.where(some, column + 1, 0), 0))
        full_low = tl.minimum(full_low, tl.min(tl.where(full, column, far), 0))
    low = tl.minimum(low, high)
    full_high = high
    for start in range(0, column_blocks, WIDTH):
        column = start + lane
        some, full = _look(row, others, column, column_blocks, window, CAUSAL, WINDOWED, FLIP)
        ends = (column >= full_low) & (full == 0)
        full_high = tl.minimum(full_high, tl.min(tl.where(ends, column, far), 0))
    empty = full_low == far
    at = out + (batch * row_blocks + block).to(tl.int64) * 4
    tl.store(at, low)
    tl.store(at + 1, tl.where(empty, low, full_low))
    tl.store(at + 2, tl.where(empty, low, full_high))
    tl.store(at + 3, high)


def bounds(pairs: Pairs, block_q: int, block_k: int, flip: bool = False) -> Tensor | None:
    """(1 or b, row blocks, 4) int32: low, full_low, full_high, high of each block of rows.

    Rows are queries in blocks of block_q, columns keys in blocks of block_k; flip: the other way
    round. None where places are left out: kernels then ask `index_bounds`. No host sync.
    """
    if pairs.q_place is None or pairs.k_place is None:
        return None
    sides = [(pairs.q_place, block_q), (pairs.k_place, block_k)]
    (rows, row_block), (columns, column_block) = reversed(sides) if flip else sides
    ours, theirs = _extents_of(rows, row_block), _extents_of(columns, column_block)
    batch, row_blocks, column_blocks = max(len(rows), len(columns)), ours.shape[1], theirs.shape[1]
    out = rows.new_empty(batch, row_blocks, 4)
    _bounds[(row_blocks, batch)](
        ours, theirs, out, row_blocks, column_blocks,
        0 if len(rows) == 1 else row_blocks, 0 if len(columns) == 1 else column_blocks,
        pairs.window, CAUSAL=pairs.causal, WINDOWED=pairs.window < FAR, FLIP=flip, WIDTH=256,
        num_warps=2,
    )  # fmt: skip
    return out


def _extents_of(places: Tensor, block: int) -> Tensor:
    batch, _, n = places.shape
    blocks = triton.cdiv(n, block)
    out = places.new_empty(batch, blocks, 5)
    _extents[(blocks, batch)](
        places, out, n, places.stride(0), blocks, BLOCK=block,
        WIDTH=triton.next_power_of_2(block), num_warps=1,
    )  # fmt: skip
    return out
