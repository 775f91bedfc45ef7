"""Decoding: one query position (or a few) against a cache of keys that nobody has turned.

A score is Σ_c μ(k_c) · (A_c cos φ_c + B_c sin φ_c), φ_c = (j - o) θ_c, for every map, channel by
channel: PoPE has a magnitude and a phase in each; a rotation has μ = identity, one θ for the two
channels of a pair, the turned query in A and its other half in B; a channel without a frequency has
θ = 0. So layouts, partial rotation and δ are the query's business and are done once a program,
and keys stay d wide: the pair of features lives in registers.

What makes it cheap is the origin o, the position of the first key of each block. Then φ is the same
for every block whose positions follow one another: cosines and sines are computed once a program,
kept in half precision (2^-12 on numbers whose products are rounded to 2^-11), and the *query*, a
hundredth of the work, is turned to each block's origin, exactly, in int64. A block with positions
of its own gets a table of its own.

A program takes a range of keys (split-KV) and leaves its softmax unfinished; `combine` joins the
ranges in a fixed order, so the result has the same bits on every run. Lengths and positions are
read from device memory: nothing is compiled again, and a captured graph can be replayed as the
cache grows.
"""

import triton
import triton.language as tl

from whatwhere.kernels import maps
from whatwhere.kernels.decode_content import two, weighed

__all__ = ["combine", "partial"]

_LOG2_E = tl.constexpr(1.4426950408889634)
_LEAST = tl.constexpr(-1e30)  # finite: the difference of two infinities is NaN

cosine_sine = maps.cosine_sine
wrapped_cosine_sine = maps.wrapped_cosine_sine


@triton.jit
def _frequency(channel, PAIRED: tl.constexpr, INTERLEAVED: tl.constexpr, F: tl.constexpr):
    """Which frequency a channel turns with, its partner, and the sign of the partner's sine."""
    index, partner = channel, channel
    sign = channel.to(tl.float32) * 0.0
    if INTERLEAVED:
        index, partner = channel // 2, channel ^ 1
        sign = tl.where(channel % 2 == 0, -1.0, 1.0)
    elif PAIRED:
        first = channel < F
        index = tl.where(first, channel, channel - F)
        partner = tl.where(first, channel + F, channel - F)
        sign = tl.where(first, -1.0, 1.0)
    return index, partner, sign


@triton.jit
def _query(q, head, row, batch, step, turn, offset, factor, amplitude, index, partner, sign,
           turning, QUERY_SIZE: tl.constexpr, PAIRED: tl.constexpr, F: tl.constexpr,
           D: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    """A and B, (rows, channels) float32, of rows that stand `step` positions from the origin."""
    pointer, by_batch, by_head, by_row = q
    at = pointer + batch.to(tl.int64) * by_batch + head.to(tl.int64) * by_head + row * by_row
    channel = tl.arange(0, BLOCK_D)[None, :]
    x = tl.load(at[:, None] + channel, channel < D, other=0.0).to(tl.float32)
    factor = factor[:, None]
    if F == 0:
        return x * factor, x
    turning = turning[None, :]
    cosine, sine = cosine_sine(step[:, None], turn[None, :])
    if offset is not None:
        there = offset + head[:, None] * F + index[None, :]
        co, so = wrapped_cosine_sine(tl.load(there, turning, other=0.0))
        cosine, sine = cosine * co - sine * so, sine * co + cosine * so
    if PAIRED:
        y = tl.load(at[:, None] + partner[None, :], turning, other=0.0).to(tl.float32)
        y = y * sign[None, :]
        a, b = x * cosine + y * sine, x * sine - y * cosine
    else:
        size = QUERY_SIZE(x, tl.float32)
        a, b = size * cosine, size * sine
    loud = factor * amplitude * amplitude
    return tl.where(turning, a * loud, x * factor), tl.where(turning, b * loud, 0.0)


@triton.jit
def _near(distance):
    """An int64 distance as int32: beyond 2^30 tokens, where padding may stand, it is 2^30."""
    return tl.minimum(tl.maximum(distance, -1073741824), 1073741824).to(tl.int32)


@triton.jit
def _table(step, turn, KIND: tl.constexpr):
    """Cosines and sines, (keys, channels), of whole steps: both halves of the turns count.

    The high half wraps in int32 as a phase should; the low half is at most 2^-33 turns a step.
    """
    cosine, sine = cosine_sine(step.to(tl.int64)[:, None], turn[None, :])
    return cosine.to(KIND), sine.to(KIND)


@triton.jit
def _span(i, least, n, batch, lengths, positions, window, ahead, split, splits,
          BLOCK_N: tl.constexpr):  # fmt: skip
    """The range of key indices of this program: an equal share of the blocks that may be seen."""
    first, last = 0, n
    if lengths is not None:
        last = tl.minimum(last, tl.load(lengths + batch).to(tl.int32))
    if positions is None:
        # An index is a position: what lies behind the window or after the query is not read.
        seen = tl.minimum(tl.max(i, 0) + ahead, last.to(tl.int64))
        last = tl.maximum(seen, 0).to(tl.int32)
        passed = tl.minimum(tl.maximum(tl.min(i, 0) - window + 1, least), last.to(tl.int64))
        first = passed.to(tl.int32) // BLOCK_N
    share = tl.cdiv(tl.cdiv(last, BLOCK_N) - first, splits)
    low = (first + split * share) * BLOCK_N
    return low, tl.minimum(low + share * BLOCK_N, last)


@triton.jit(do_not_specialize=["n", "group", "queries", "kv_heads", "splits", "query_step",
                               "position_step", "valid_step", "table_step", "temperature_step",
                               "page", "window", "ahead", "direction"])  # fmt: skip
def partial(q, k, v, out, lse, query_positions, positions, firsts, valid, lengths, table, turns,
            offset, temperature, slopes, n, group, queries, kv_heads, splits, query_step,
            position_step, valid_step, table_step, temperature_step, page, window, ahead, direction,
            scale, amplitude, QUERY_SIZE: tl.constexpr, SIZE: tl.constexpr, PAIRED: tl.constexpr,
            INTERLEAVED: tl.constexpr, F: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
            ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
            BLOCK_V: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
            KIND: tl.constexpr):  # fmt: skip
    """Attention of every row over one range of keys: normalised output and base-2 log-sum-exp.

    q, k, v are (pointer, stride of batch or page, of head, of token); out (b, h, nq, splits, dv)
    and lse (b, h, nq, splits) float32; positions (1 or b, n) int64, None for 0, 1, …; valid
    (1 or b, n) bool; lengths (b,) int32; table (b, pages) int32; turns (F,) int64; offset (h, F);
    firsts (b,) int64, where positions are first, first + 1, … and keys before 0 are padding.
    """
    program = tl.program_id(0)
    split, rest = program % splits, program // splits
    kv_head, batch = rest % kv_heads, rest // kv_heads
    column = tl.arange(0, ROWS)
    exists = column < group * queries
    row = tl.minimum(column // group, queries - 1)
    head = kv_head * group + column % group
    i = tl.load(query_positions + batch.to(tl.int64) * query_step + row)
    least = tl.cast(0, tl.int64)
    if firsts is not None:
        # From here on positions are indices: scores know differences only.
        begin = tl.load(firsts + batch)
        i, least = i - begin, tl.maximum(-begin, 0)
    low, high = _span(i, least, n, batch, lengths, positions, window, ahead, split, splits, BLOCK_N)

    CHANNELS: tl.constexpr = 2 * F if PAIRED else F
    channel = tl.arange(0, BLOCK_D)
    turning = channel < CHANNELS
    index, partner, sign = _frequency(channel, PAIRED, INTERLEAVED, F)
    turn = channel.to(tl.int64) * 0
    if F > 0:
        turn = tl.load(turns + index, turning, other=0) * direction
    # Angles are counted from the earliest query here, and from the first key of each block there.
    base = tl.min(i, 0)
    by_step = batch.to(tl.int64) * position_step
    factor = tl.full((ROWS,), 0.0, tl.float32) + scale * _LOG2_E
    if temperature is not None:
        factor *= tl.load(temperature + batch.to(tl.int64) * temperature_step + row)
    a, b = _query(q, head, row, batch, i - base, turn, offset, factor, amplitude, index, partner,
                  sign, turning, QUERY_SIZE, PAIRED, F, D, BLOCK_D)  # fmt: skip
    a, b = a.to(KIND), b.to(KIND)
    if slopes is not None:
        slope = tl.load(slopes + head).to(tl.float32) * _LOG2_E

    wide = tl.arange(0, BLOCK_V)
    key = tl.arange(0, BLOCK_N)
    k_pointer, k_batch, k_head, k_row = k
    v_pointer, v_batch, v_head, v_row = v
    k_pointer += tl.cast(kv_head, tl.int64) * k_head
    v_pointer += tl.cast(kv_head, tl.int64) * v_head
    if table is None:
        k_pointer += batch.to(tl.int64) * k_batch
        v_pointer += batch.to(tl.int64) * v_batch
    most = tl.full((ROWS,), _LEAST, tl.float32)
    total = tl.zeros((ROWS, BLOCK_N), tl.float32)
    sums = tl.zeros((ROWS, BLOCK_V), tl.float32)

    if F > 0:
        was_odd = False
        cosine, sine = _table(key, turn, KIND)

    for start in tl.range(low, high, BLOCK_N, num_stages=STAGES):
        # Behind the last key its block repeats it: no load needs a mask but for odd widths.
        near = tl.minimum(key, high - 1 - start)
        inside = key < high - start
        k_at, v_at, first = k_pointer, v_pointer, tl.cast(start, tl.int64)
        if table is not None:
            number = tl.load(table + batch * table_step + start // page).to(tl.int64)
            k_at, v_at = k_at + number * k_batch, v_at + number * v_batch
            first = tl.cast(start % page, tl.int64)
        k_tile = (
            k_at + first * k_row + (near * tl.cast(k_row, tl.int32))[:, None] + channel[None, :]
        )
        if D < BLOCK_D:
            x = tl.load(k_tile, (channel < D)[None, :], other=0.0)
        else:
            x = tl.load(k_tile)
        if positions is None:
            origin, step = tl.cast(start, tl.int64), key
        else:
            j = tl.load(positions + by_step + start + near)
            origin = tl.min(j, 0)
            step = j - origin

        if F > 0:
            if positions is not None:
                odd = tl.max(tl.abs(step - key) * inside.to(tl.int32), 0) != 0
                if odd | was_odd:
                    cosine, sine = _table(step, turn, KIND)
                was_odd = odd
            size = SIZE(x, KIND)
            if CHANNELS < D:
                size = tl.where(turning[None, :], size, x.to(tl.float32).to(KIND))
            first_part, second_part = two(size, cosine, sine)
            c, s = cosine_sine(base - origin, turn)
            c, s = c[None, :], s[None, :]
            even, odd = a.to(tl.float32), b.to(tl.float32)
            with_cosine = (even * c - odd * s).to(KIND)
            with_sine = (odd * c + even * s).to(KIND)
            scores = tl.dot(with_cosine, tl.trans(first_part), input_precision=PRECISION)
            scores = tl.dot(with_sine, tl.trans(second_part), scores, input_precision=PRECISION)
        else:
            scores = tl.dot(a, tl.trans(x.to(KIND)), input_precision=PRECISION)

        if positions is None:
            gap = (i - origin).to(tl.int32)[:, None] - step[None, :]
        else:
            gap = _near(i - base)[:, None] - _near(j - base)[None, :]
        seen = (gap < window) & (-gap < ahead) & inside[None, :]
        if firsts is not None:
            seen = seen & (start + key >= least)[None, :]
        if valid is not None:
            real = tl.load(valid + batch.to(tl.int64) * valid_step + start + near)
            seen = seen & (real != 0)[None, :]
        if slopes is not None:
            scores -= slope[:, None] * tl.abs(gap).to(tl.float32)
        scores = tl.where(seen, scores, float("-inf"))

        new = tl.maximum(most, tl.max(scores, 1))
        weights = tl.exp2(scores - new[:, None])
        shrink = tl.exp2(most - new)
        most = new
        # Keys are added up once, at the end: here each thread adds to its own sums.
        total = total * shrink[:, None] + weights
        v_tile = v_at + first * v_row + (near * tl.cast(v_row, tl.int32))[:, None] + wide[None, :]
        if DV < BLOCK_V:
            y = tl.load(v_tile, (wide < DV)[None, :], other=0.0)
        else:
            y = tl.load(v_tile)
        sums = weighed(weights.to(y.dtype), y, sums * shrink[:, None], PRECISION)

    weight = tl.sum(total, 1)
    here = ((batch.to(tl.int64) * kv_heads * group + head) * queries + row) * splits + split
    blind = weight == 0.0
    tl.store(
        lse + here,
        tl.where(blind, float("-inf"), most + tl.log2(tl.where(blind, 1.0, weight))),
        exists,
    )
    sums = sums / tl.where(blind, 1.0, weight)[:, None]
    there = out + here[:, None] * DV + wide[None, :]
    tl.store(there, sums.to(out.dtype.element_ty), exists[:, None] & (wide < DV)[None, :])


@triton.jit(do_not_specialize=["splits"])
def combine(partial_out, lse, out, splits, DV: tl.constexpr, BLOCK_S: tl.constexpr,
            BLOCK_V: tl.constexpr):  # fmt: skip
    """Join the ranges of one row: Σ 2^lse_s out_s / Σ 2^lse_s, 0 where no key was seen."""
    row = tl.program_id(0).to(tl.int64)
    wide = tl.arange(0, BLOCK_V)
    most = tl.full((1,), _LEAST, tl.float32)
    for first in range(0, splits, BLOCK_S):
        split = first + tl.arange(0, BLOCK_S)
        part = tl.load(lse + row * splits + split, split < splits, other=float("-inf"))
        most = tl.maximum(most, tl.max(part, 0))
    total = tl.zeros((BLOCK_S,), tl.float32)
    sums = tl.zeros((BLOCK_V,), tl.float32)
    for first in range(0, splits, BLOCK_S):
        split = first + tl.arange(0, BLOCK_S)
        part = tl.load(lse + row * splits + split, split < splits, other=float("-inf"))
        weight = tl.exp2(part - most)
        total += weight
        at = partial_out + (row * splits + split)[:, None] * DV + wide[None, :]
        exists = (split < splits)[:, None] & (wide < DV)[None, :]
        sums += tl.sum(tl.load(at, exists, other=0.0) * weight[:, None], 0)
    weight = tl.sum(total, 0)
    sums = sums / tl.where(weight == 0.0, 1.0, weight)
    tl.store(out + row * DV + wide, sums.to(out.dtype.element_ty), wide < DV)
