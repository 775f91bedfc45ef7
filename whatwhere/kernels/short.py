"""Attention over short sequences in plain Triton: all keys of a head are one tile.

Where a whole sequence fits into one tile, a program reads raw queries, keys and values once and
writes the output once: features (softplus, phases, δ) live in registers and shared memory, the
softmax is exact in one step, and the backward pass makes everything anew from the same vectors,

    w = exp(score - lse),   dv = wᵀ grad,   dw = grad vᵀ,   ds = w (dw - Σ w dw / Σ w),
    dq = scale · ds K,      dk = scale · dsᵀ Q,

features' gradients turned back into those of raw vectors before they leave. Nothing is prepared in
memory, nothing padded to the 128 rows of kernels for long sequences.

Features are parts: two of F channels each (cosine and sine, or both halves of a rotation's pairs)
and one of the REST that no frequency turns; a score is the sum of the parts' products. Maps, masks
and biases are the functions of `maps` and `pairs`, as in every template here.

A tensor enters as the tuple (pointer, stride of batch, of head, of token); channels are contiguous.
"""

import triton
import triton.language as tl

from whatwhere.kernels.maps import _exp2
from whatwhere.kernels.prep import _temper
from whatwhere.kernels.prep_access import opened
from whatwhere.kernels.short_features import (
    features_of,
    of_keys,
    of_queries,
    put_raw,
    put_tile,
    raw_tile,
)
from whatwhere.kernels.tiled import matrix, place, product, start_of

__all__ = ["backward", "forward", "total"]

_LOG2E = tl.constexpr(1.4426950408889634)
_LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _scores(left, right, i, of_i, j, of_j, m, scale_log2, slope, window, SEEN: tl.constexpr,
            BIAS: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PLACED: tl.constexpr,
            BLOCK: tl.constexpr):  # fmt: skip
    """Scores of all pairs, -inf where a pair is not seen or a key does not exist.

    In units of log2 with a bias, without one still to be multiplied by scale_log2. Queries that do
    not exist need no mask: nothing of them is stored, and their weights are 0 in the backward pass.
    """
    s = product(left[0], tl.trans(right[0]))
    for part in tl.static_range(1, len(left)):
        s = product(left[part], tl.trans(right[part]), s)
    if BIAS is not None:
        s = s * scale_log2 + BIAS(i[:, None], j[None, :], slope, CAUSAL)
    seen = SEEN(i[:, None], j[None, :], of_i[:, None], of_j[None, :], window, CAUSAL, WINDOWED,
                PLACED)  # fmt: skip
    if not PLACED:
        seen = seen & (tl.arange(0, BLOCK) < m)[None, :]
    return tl.where(seen, s, float("-inf"))


@triton.jit(do_not_specialize=["position_step", "k_position_step", "temperature_step",
                               "q_place_step", "k_place_step", "start", "direction", "centre",
                               "window", "n", "m", "heads", "per_set"])  # fmt: skip
def forward(q, k, v, out, lse, positions, k_positions, turns, early_turns, offset, temperature,
            q_place, k_place, slopes, position_step, k_position_step, temperature_step,
            q_place_step, k_place_step, start, direction, centre, window, n, m, heads, per_set,
            amplitude, decay, scale, MAP: tl.constexpr, PAIRED: tl.constexpr,
            INTERLEAVED: tl.constexpr, F: tl.constexpr, REST: tl.constexpr, DV: tl.constexpr,
            BLOCK: tl.constexpr, WIDTH: tl.constexpr, BLOCK_R: tl.constexpr,
            BLOCK_DV: tl.constexpr, GROUP: tl.constexpr, SEEN: tl.constexpr, BIAS: tl.constexpr,
            CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PLACED: tl.constexpr):  # fmt: skip
    """Output and log-sum-exp of one query head of one batch element, n queries and m keys.

    positions (1 or b, n) int64, of keys k_positions or None for the same; turns (F,) int64, None if
    nothing turns; offset (sets, heads, F) float32, batch elements s · per_set and on read set s.
    A row that sees nothing gives 0 and +inf, with which the backward pass makes weights of 0.
    """
    batch, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    own = head // GROUP
    row = tl.arange(0, BLOCK)
    where = (positions, position_step, k_positions, k_position_step)
    spectrum = (turns, early_turns, start, direction, amplitude, decay, centre)
    temper = _temper(batch, row, n, temperature, temperature_step)
    slot = head if per_set is None else batch // per_set * heads + head
    queries, keys = features_of(q, k, batch, head, own, row, n, m, where, spectrum, offset, slot,
                              temper, MAP, PAIRED, INTERLEAVED, F, REST, BLOCK, WIDTH,
                              BLOCK_R)  # fmt: skip
    value = matrix(start_of(v, batch, own), v[3], 0, m, DV, BLOCK, BLOCK_DV, True)
    i, of_i = place(q_place + batch.to(tl.int64) * q_place_step if PLACED else None, row, n, -2,
                    PLACED)  # fmt: skip
    j, of_j = place(k_place + batch.to(tl.int64) * k_place_step if PLACED else None, row, m, -1,
                    PLACED)  # fmt: skip
    slope = tl.load(slopes + head) * _LOG2E if BIAS is not None else 0.0
    score = _scores(queries, keys, i, of_i, j, of_j, m, scale * _LOG2E, slope, window, SEEN,
                    BIAS, CAUSAL, WINDOWED, PLACED, BLOCK)  # fmt: skip
    factor = scale * _LOG2E if BIAS is None else 1.0
    peak = tl.max(score, 1) * factor
    # A row that sees no key has the maximum -inf, and -inf - -inf is NaN.
    peak = tl.where(peak == float("-inf"), 0.0, peak)
    w = _exp2(score * factor - peak[:, None])
    total = tl.sum(w, 1)
    blind = total == 0.0
    total = tl.where(blind, 1.0, total)
    result = product(w.to(value.dtype), value) * (1.0 / total)[:, None]
    logs = tl.where(blind, float("inf"), (peak + tl.log2(total)) * _LN2)
    tl.store(lse + tl.program_id(0).to(tl.int64) * n + row, logs, row < n)
    put_tile(out, batch, head, n, 0, DV, result, BLOCK, BLOCK_DV)


@triton.jit
def _raw_gradients(tensors, batch, head, own, slot, row, n, m, where, spectrum, offset, temper, ds,
                   queries, keys, partial, scale, BACK: tl.constexpr, TURNED: tl.constexpr,
                   PAIRED: tl.constexpr, INTERLEAVED: tl.constexpr, F: tl.constexpr,
                   BLOCK: tl.constexpr, WIDTH: tl.constexpr, ALONE: tl.constexpr):  # fmt: skip
    """dq and its part of δ's gradient, written; dk, written if ALONE, else returned in parts.

    WIDTH frequencies at a time. Raw vectors are read and angles are made a second time: held from
    the beginning they would take more registers than the products leave.
    """
    q, k, dq, dk = tensors
    KIND: tl.constexpr = q[0].dtype.element_ty
    parts = ()
    for first in tl.static_range(0, F, WIDTH):
        c, s = None, None
        if spectrum[0] is not None:
            c, s = of_keys(batch, row, n, m, where, spectrum, first, F, WIDTH)
        tiles = raw_tile(k, batch, own, m, first, F, PAIRED, INTERLEAVED, BLOCK, WIDTH)
        g_0 = product(tl.trans(ds), queries[2 * (first // WIDTH)])
        g_1 = product(tl.trans(ds), queries[2 * (first // WIDTH) + 1])
        a, b = opened(tiles, PAIRED, INTERLEAVED, BLOCK, WIDTH)
        a, b = BACK(g_0, g_1, a, c, s, KIND)
        a, b = a * scale, b * scale
        if ALONE:
            put_raw(dk, batch, own, m, a, b, first, F, PAIRED, INTERLEAVED, BLOCK, WIDTH)
        else:
            parts += (a, b) if PAIRED else (a,)
        if spectrum[0] is not None:
            c, s = of_queries(c, s, batch, row, n, where, spectrum, offset, slot, temper, first,
                               F, WIDTH)  # fmt: skip
        tiles = raw_tile(q, batch, head, n, first, F, PAIRED, INTERLEAVED, BLOCK, WIDTH)
        g_0 = product(ds, keys[2 * (first // WIDTH)])
        g_1 = product(ds, keys[2 * (first // WIDTH) + 1])
        a, b = opened(tiles, PAIRED, INTERLEAVED, BLOCK, WIDTH)
        if partial is not None:
            channel = first + tl.arange(0, WIDTH)
            turned = tl.sum(TURNED(g_0, g_1, a, b, c, s, KIND), axis=0)
            tl.store(partial + channel, turned * scale, channel < F)
        a, b = BACK(g_0, g_1, a, c, s, KIND)
        put_raw(dq, batch, head, n, a * scale, b * scale, first, F, PAIRED, INTERLEAVED, BLOCK,
                 WIDTH)  # fmt: skip
    return parts


@triton.jit
def _one_head(tensors, batch, head, own, slot, row, n, m, where, spectrum, offset, temper, looks,
              slopes, partial, scale, MAP: tl.constexpr, BACK: tl.constexpr, TURNED: tl.constexpr,
              PAIRED: tl.constexpr, INTERLEAVED: tl.constexpr, F: tl.constexpr, REST: tl.constexpr,
              DV: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr, BLOCK_R: tl.constexpr,
              BLOCK_DV: tl.constexpr, SEEN: tl.constexpr, BIAS: tl.constexpr, CAUSAL: tl.constexpr,
              WINDOWED: tl.constexpr, PLACED: tl.constexpr, ALONE: tl.constexpr):  # fmt: skip
    """Gradients by one query head: all written if ALONE, else those of its KV head returned."""
    q, k, v, grad, lse, dq, dk, dv = tensors
    i, of_i, j, of_j, window = looks
    KIND: tl.constexpr = k[0].dtype.element_ty
    SKIP: tl.constexpr = 2 * F if PAIRED else F
    queries, keys = features_of(q, k, batch, head, own, row, n, m, where, spectrum, offset, slot,
                              temper, MAP, PAIRED, INTERLEAVED, F, REST, BLOCK, WIDTH,
                              BLOCK_R)  # fmt: skip
    value = matrix(start_of(v, batch, own), v[3], 0, m, DV, BLOCK, BLOCK_DV, True)
    g = matrix(start_of(grad, batch, head), grad[3], 0, n, DV, BLOCK, BLOCK_DV, True)
    logs = tl.load(lse + row, row < n, other=float("inf")) * _LOG2E
    slope = tl.load(slopes + head) * _LOG2E if BIAS is not None else 0.0
    score = _scores(queries, keys, i, of_i, j, of_j, m, scale * _LOG2E, slope, window, SEEN,
                    BIAS, CAUSAL, WINDOWED, PLACED, BLOCK)  # fmt: skip
    factor = scale * _LOG2E if BIAS is None else 1.0
    w = _exp2(score * factor - logs[:, None])
    dw = product(g, tl.trans(value))
    # lse is rounded at its own size, so weights add up to 1 + 1e-6: a mean must not be off by that.
    total = tl.sum(w, 1)
    mean = tl.sum(w * dw, 1) / tl.where(total == 0.0, 1.0, total)
    ds = (w * (dw - mean[:, None])).to(KIND)
    sums = (product(tl.trans(w.to(KIND)), g),)
    if ALONE:
        put_tile(dv, batch, own, m, 0, DV, sums[0], BLOCK, BLOCK_DV)
    sums += _raw_gradients((q, k, dq, dk), batch, head, own, slot, row, n, m, where, spectrum,
                           offset, temper, ds, queries, keys, partial, scale, BACK, TURNED,
                           PAIRED, INTERLEAVED, F, BLOCK, WIDTH, ALONE)  # fmt: skip
    if REST > 0:
        rest = product(ds, keys[-1]) * scale
        if temper is not None:
            rest = rest * temper
        put_tile(dq, batch, head, n, SKIP, REST, rest, BLOCK, BLOCK_R)
        rest = product(tl.trans(ds), queries[-1]) * scale
        if ALONE:
            put_tile(dk, batch, own, m, SKIP, REST, rest, BLOCK, BLOCK_R)
        else:
            sums += (rest,)
    return sums


@triton.jit(do_not_specialize=["position_step", "k_position_step", "temperature_step",
                               "q_place_step", "k_place_step", "start", "direction", "centre",
                               "window", "n", "m", "heads", "per_set"])  # fmt: skip
def backward(q, k, v, grad, lse, dq, dk, dv, partial, positions, k_positions, turns, early_turns,
             offset, temperature, q_place, k_place, slopes, position_step, k_position_step,
             temperature_step, q_place_step, k_place_step, start, direction, centre, window, n, m,
             heads, per_set, amplitude, decay, scale, MAP: tl.constexpr, BACK: tl.constexpr,
             TURNED: tl.constexpr, PAIRED: tl.constexpr, INTERLEAVED: tl.constexpr,
             F: tl.constexpr, REST: tl.constexpr, DV: tl.constexpr, BLOCK: tl.constexpr,
             WIDTH: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_DV: tl.constexpr,
             GROUP: tl.constexpr, SEEN: tl.constexpr, BIAS: tl.constexpr, CAUSAL: tl.constexpr,
             WINDOWED: tl.constexpr, PLACED: tl.constexpr):  # fmt: skip
    """Gradients of raw vectors of one KV head and of the GROUP query heads that read it.

    partial (b, heads, F) float32, or None: each batch element's gradient of δ, summed over its
    positions. Every element of every result is written by one program, in a fixed order: the same
    bits each time.
    """
    groups = heads // GROUP
    batch, own = tl.program_id(0) // groups, tl.program_id(0) % groups
    row = tl.arange(0, BLOCK)
    where = (positions, position_step, k_positions, k_position_step)
    spectrum = (turns, early_turns, start, direction, amplitude, decay, centre)
    temper = _temper(batch, row, n, temperature, temperature_step)
    i, of_i = place(q_place + batch.to(tl.int64) * q_place_step if PLACED else None, row, n, -2,
                    PLACED)  # fmt: skip
    j, of_j = place(k_place + batch.to(tl.int64) * k_place_step if PLACED else None, row, m, -1,
                    PLACED)  # fmt: skip
    SKIP: tl.constexpr = 2 * F if PAIRED else F
    sums = ()
    if GROUP > 1:
        sums = (tl.zeros([BLOCK, BLOCK_DV], tl.float32),)
        for _ in tl.static_range(0, F, WIDTH):
            nothing = tl.zeros([BLOCK, WIDTH], tl.float32)
            sums += (nothing, nothing) if PAIRED else (nothing,)
        if REST > 0:
            sums += (tl.zeros([BLOCK, BLOCK_R], tl.float32),)
    for each in range(0, GROUP):
        head = own * GROUP + each
        at = (batch * heads + head).to(tl.int64)
        slot = head if per_set is None else batch // per_set * heads + head
        found = _one_head(
            (q, k, v, grad, lse + at * n, dq, dk, dv), batch, head, own, slot, row, n, m, where,
            spectrum, offset, temper, (i, of_i, j, of_j, window), slopes,
            None if partial is None else partial + at * F, scale, MAP, BACK, TURNED, PAIRED,
            INTERLEAVED, F, REST, DV, BLOCK, WIDTH, BLOCK_R, BLOCK_DV, SEEN, BIAS, CAUSAL,
            WINDOWED, PLACED, GROUP == 1
        )  # fmt: skip
        if GROUP > 1:
            more = ()
            for part in tl.static_range(len(sums)):
                more += (sums[part] + found[part],)
            sums = more
    if GROUP > 1:
        put_tile(dv, batch, own, m, 0, DV, sums[0], BLOCK, BLOCK_DV)
        for first in tl.static_range(0, F, WIDTH):
            put_raw(dk, batch, own, m, sums[1 + (1 + PAIRED) * (first // WIDTH)],
                     sums[1 + PAIRED + (1 + PAIRED) * (first // WIDTH)], first, F,
                     PAIRED, INTERLEAVED, BLOCK, WIDTH)  # fmt: skip
        if REST > 0:
            put_tile(dk, batch, own, m, SKIP, REST, sums[-1], BLOCK, BLOCK_R)


@triton.jit(do_not_specialize=["count", "width"])
def total(partial, out, count, width, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """out[s] = Σ of the `count` rows of part s of partial, (sets · count, width) -> (sets, width).

    In an order that no other set changes: a model's gradient is the same alone and side by side.
    """
    blocks = tl.cdiv(width, BLOCK)
    which, column = tl.program_id(0) // blocks, tl.program_id(0) % blocks * BLOCK
    column += tl.arange(0, BLOCK)
    exists = (column < width)[None, :]
    sums = tl.zeros([BLOCK], tl.float32)
    for first in range(0, count, ROWS):
        row = first + tl.arange(0, ROWS)
        at = partial + (which * count + row).to(tl.int64)[:, None] * width + column[None, :]
        sums += tl.sum(tl.load(at, (row < count)[:, None] & exists, other=0.0), axis=0)
    tl.store(out + which.to(tl.int64) * width + column, sums, column < width)
