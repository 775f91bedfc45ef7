"""Attention in plain Triton, for any NVIDIA GPU and for the interpreter: the forward pass.

Inputs are *features* (b, h, n, f), as the prep kernel writes them, and values of any other width.
Widths are padded to powers of two by masks, so 96 and 10 are widths like any other. Which pairs
are seen and what is added to their scores come in as functions (`whatwhere.kernels.pairs`); blocks
that hold a pair that is not seen are visited first, in a loop of their own, so that whole blocks
pay for no mask.

A tensor enters as the tuple (pointer, stride of batch, of head, of token); channels are contiguous.
Lengths, heads and windows are run-time values: nothing is compiled again for another length.
"""

import triton
import triton.language as tl

from whatwhere.kernels.interpreter import interpreted
from whatwhere.kernels.pairs import block_of, index_bounds

__all__ = ["extent", "forward", "matrix", "place", "product", "rows", "scores", "start_of"]

_LN2 = tl.constexpr(0.6931471805599453)

if interpreted():  # it multiplies bfloat16 as the integers that hold it

    @triton.jit
    def product(a, b, sums=None):
        """a b + sums in float32."""
        return tl.dot(a.to(tl.float32), b.to(tl.float32), sums)

else:

    @triton.jit
    def product(a, b, sums=None):
        """a b + sums in float32, of float32 with all its digits."""
        return tl.dot(a, b, sums, input_precision="ieee")


@triton.jit
def start_of(tensor, batch, head):
    """Pointer to a head's first element."""
    pointer, by_batch, by_head, _ = tensor
    return pointer + batch.to(tl.int64) * by_batch + head.to(tl.int64) * by_head


@triton.jit
def rows(start, step, first, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """Pointers to a block of rows: the jump in 64 bits, what lies within the block in 32."""
    row, column = tl.arange(0, BLOCK), tl.arange(0, WIDTH)
    return start + tl.cast(first, tl.int64) * step + row[:, None] * step + column[None, :]


@triton.jit
def matrix(start, step, first, count, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
           WIDTH: tl.constexpr, PARTIAL: tl.constexpr):  # fmt: skip
    """Rows first to first + BLOCK of a head, zeros beyond `count` (if PARTIAL) and COLUMNS."""
    at = rows(start, step, first, BLOCK, WIDTH)
    column = tl.arange(0, WIDTH)[None, :] < COLUMNS
    if PARTIAL:
        exists = (first + tl.arange(0, BLOCK) < count)[:, None]
        tile = tl.load(at, exists & column, other=0.0)
    elif COLUMNS < WIDTH:
        tile = tl.load(at, column, other=0.0)
    else:
        tile = tl.load(at)
    return tile


@triton.jit
def place(places, index, count, none, PLACED: tl.constexpr):
    """Position and document of tokens; index and 0 where places are left out.

    A token that does not exist has the document `none`, which must be nobody's.
    """
    position, document = index, index * 0
    if PLACED:
        exists = index < count
        position = tl.load(places + index, exists, other=0)
        document = tl.load(places + count + index, exists, other=none)
    return position, document


@triton.jit
def extent(bounds, bounds_step, batch, block, first, columns, rows_count, window,
           ROWS: tl.constexpr, BLOCK: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr,
           PLACED: tl.constexpr, FLIP: tl.constexpr):  # fmt: skip
    """low, full_low, full_high, high of a block of rows: read where there are places, else known.

    A block of rows that is not filled has no whole blocks: what its empty rows hold is masked.
    """
    if PLACED:
        at = bounds + (batch * bounds_step + block).to(tl.int64) * 4
        low, full_low = tl.load(at), tl.load(at + 1)
        full_high, high = tl.load(at + 2), tl.load(at + 3)
    else:
        low, full_low, full_high, high = index_bounds(
            first, first + ROWS, columns, window, BLOCK, CAUSAL, WINDOWED, FLIP
        )
        filled = first + ROWS <= rows_count
        full_low = tl.where(filled, full_low, low)
        full_high = tl.where(filled, full_high, low)
    return low, full_low, full_high, high


@triton.jit
def scores(left, right, i, of_i, j, of_j, exists, scale_log2, slope, window, SEEN: tl.constexpr,
           BIAS: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PLACED: tl.constexpr,
           MASK: tl.constexpr):  # fmt: skip
    """A tile of scores in units of log2; without a bias still to be multiplied by scale_log2.

    Left and right are (rows, width) and (width, columns); i and j, the positions of queries and
    keys, are broadcast as the tile lies. -inf where a pair is not seen, if MASK.
    """
    s = product(left, right)
    if BIAS is not None:
        s = s * scale_log2 + BIAS(i, j, slope, CAUSAL)
    if MASK:
        s = tl.where(SEEN(i, j, of_i, of_j, window, CAUSAL, WINDOWED, PLACED) & exists, s,
                     float("-inf"))  # fmt: skip
    return s


@triton.jit
def _visit(block, state, q, row, k_at, v_at, places, keys, scale_log2, slope, window,
           F: tl.constexpr, DV: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_F: tl.constexpr,
           BLOCK_DV: tl.constexpr, SEEN: tl.constexpr, BIAS: tl.constexpr, CAUSAL: tl.constexpr,
           WINDOWED: tl.constexpr, PLACED: tl.constexpr, MASK: tl.constexpr):  # fmt: skip
    """One block of keys: the online softmax moves on."""
    out, peak, total = state
    first = block * BLOCK_K
    k = matrix(k_at[0], k_at[1], first, keys, F, BLOCK_K, BLOCK_F, MASK)
    column = first + tl.arange(0, BLOCK_K)
    j, of_j = place(places, column, keys, -1, PLACED and (MASK or BIAS is not None))
    s = scores(q, tl.trans(k), row[0][:, None], row[1][:, None], j[None, :], of_j[None, :],
               (column < keys)[None, :], scale_log2, slope, window, SEEN, BIAS, CAUSAL, WINDOWED,
               PLACED, MASK)  # fmt: skip
    factor = scale_log2 if BIAS is None else 1.0
    higher = tl.maximum(peak, tl.max(s, 1) * factor)
    # A row that has seen no key yet has the maximum -inf, and -inf - -inf is NaN.
    base = tl.where(higher == float("-inf"), 0.0, higher) if MASK else higher
    p = tl.exp2(s * factor - base[:, None])
    fading = tl.exp2(peak - base)
    v = matrix(v_at[0], v_at[1], first, keys, DV, BLOCK_K, BLOCK_DV, MASK)
    out = product(p.to(v.dtype), v, out * fading[:, None])
    return out, higher, total * fading + tl.sum(p, 1)


@triton.jit(do_not_specialize=["q_place_step", "k_place_step", "bounds_step", "window", "queries",
                               "keys", "heads", "group"])  # fmt: skip
def forward(q, k, v, out, lse, q_place, k_place, bounds, slopes, q_place_step, k_place_step,
            bounds_step, window, queries, keys, heads, group, scale_log2, F: tl.constexpr,
            DV: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_F: tl.constexpr,
            BLOCK_DV: tl.constexpr, SEEN: tl.constexpr, BIAS: tl.constexpr, CAUSAL: tl.constexpr,
            WINDOWED: tl.constexpr, PLACED: tl.constexpr):  # fmt: skip
    """softmax(scale · q kᵀ + bias) v and its log-sum-exp for one block of queries of one head.

    Blocks of one head are neighbours (they share K and V in the L2 cache), the last first: under
    causality it is the longest. A row that sees nothing gives 0, and a log-sum-exp of +inf, with
    which the backward passes make weights of 0.
    """
    blocks = tl.cdiv(queries, BLOCK_Q)
    index, block = tl.program_id(0) // blocks, blocks - 1 - tl.program_id(0) % blocks
    batch, head = index // heads, index % heads
    first = block * BLOCK_Q
    low, full_low, full_high, high = extent(
        bounds, bounds_step, batch, block, first, keys, queries, window, BLOCK_Q, BLOCK_K, CAUSAL,
        WINDOWED, PLACED, False
    )  # fmt: skip
    row = first + tl.arange(0, BLOCK_Q)
    i, of_i = place(q_place + batch.to(tl.int64) * q_place_step if PLACED else None, row, queries,
                    -2, PLACED)  # fmt: skip
    keys_at = k_place + batch.to(tl.int64) * k_place_step if PLACED else None
    slope = tl.load(slopes + head) * 1.4426950408889634 if BIAS is not None else 0.0
    query = matrix(start_of(q, batch, head), q[3], first, queries, F, BLOCK_Q, BLOCK_F, True)
    k_at = (start_of(k, batch, head // group), k[3])
    v_at = (start_of(v, batch, head // group), v[3])
    total = tl.zeros([BLOCK_Q], tl.float32)
    state = tl.zeros([BLOCK_Q, BLOCK_DV], tl.float32), total - float("inf"), total
    masked = high - full_high + full_low - low
    for step in range(0, masked):
        state = _visit(block_of(step, low, full_low, full_high, high), state, query, (i, of_i),
                       k_at, v_at, keys_at, keys, scale_log2, slope, window, F, DV, BLOCK_K,
                       BLOCK_F, BLOCK_DV, SEEN, BIAS, CAUSAL, WINDOWED, PLACED, True)  # fmt: skip
    for step in range(full_low, full_high):
        state = _visit(step, state, query, (i, of_i), k_at, v_at, keys_at, keys, scale_log2, slope,
                       window, F, DV, BLOCK_K, BLOCK_F, BLOCK_DV, SEEN, BIAS, CAUSAL, WINDOWED,
                       PLACED, False)  # fmt: skip
    sums, peak, total = state
    blind = total == 0.0
    whole = tl.where(blind, 1.0, total)
    logs = tl.where(blind, float("inf"), (peak + tl.log2(whole)) * _LN2)
    tl.store(lse + index.to(tl.int64) * queries + row, logs, row < queries)
    at = rows(start_of(out, batch, head), out[3], first, BLOCK_Q, BLOCK_DV)
    exists = (row < queries)[:, None] & (tl.arange(0, BLOCK_DV) < DV)[None, :]
    tl.store(at, (sums / whole[:, None]).to(at.dtype.element_ty), exists)
