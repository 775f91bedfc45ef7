"""Attention in plain Triton: the backward pass, in the conventions of `tiled`.

With w = exp(score - lse) and Δ = Σ out · grad of a row:

    dv = wᵀ grad,   ds = w (grad vᵀ - Δ),   dq = scale · ds k,   dk = scale · dsᵀ q

`queries` and `keys` are two kernels with sums of a fixed order: the same bits on every run. With
a dq of float32, `keys` adds its part of dq by atomics, which saves computing scores and grad vᵀ
twice, and whose order, so whose last bits, differ from run to run.
"""

import triton
import triton.language as tl

from whatwhere.kernels.pairs import block_of
from whatwhere.kernels.tiled import extent, matrix, place, product, rows, scores, start_of

__all__ = ["delta", "keys", "queries"]

_LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit(do_not_specialize=["queries", "heads"])
def delta(out, grad, sums, queries, heads, DV: tl.constexpr, BLOCK: tl.constexpr,
          WIDTH: tl.constexpr):  # fmt: skip
    """Δ (b, h, n) float32: the sum of out · grad over the channels of each row."""
    blocks = tl.cdiv(queries, BLOCK)
    index, first = tl.program_id(0) // blocks, (tl.program_id(0) % blocks) * BLOCK
    batch, head = index // heads, index % heads
    o = matrix(start_of(out, batch, head), out[3], first, queries, DV, BLOCK, WIDTH, True)
    g = matrix(start_of(grad, batch, head), grad[3], first, queries, DV, BLOCK, WIDTH, True)
    row = first + tl.arange(0, BLOCK)
    products = tl.sum(o.to(tl.float32) * g.to(tl.float32), 1)
    tl.store(sums + index.to(tl.int64) * queries + row, products, row < queries)


@triton.jit
def _store(tensor, batch, head, first, count, tile, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
           WIDTH: tl.constexpr):  # fmt: skip
    at = rows(start_of(tensor, batch, head), tensor[3], first, BLOCK, WIDTH)
    exists = (first + tl.arange(0, BLOCK) < count)[:, None]
    exists = exists & (tl.arange(0, WIDTH) < COLUMNS)[None, :]
    tl.store(at, tile.to(at.dtype.element_ty), exists)


@triton.jit
def _toward_queries(block, dq, q, g, row, k_at, v_at, places, keys, scale_log2, slope, window,
                    F: tl.constexpr, DV: tl.constexpr, BLOCK_K: tl.constexpr,
                    BLOCK_F: tl.constexpr, BLOCK_DV: tl.constexpr, SEEN: tl.constexpr,
                    BIAS: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr,
                    PLACED: tl.constexpr, MASK: tl.constexpr):  # fmt: skip
    """What one block of keys adds to dq."""
    i, of_i, logs, mean = row
    first = block * BLOCK_K
    k = matrix(k_at[0], k_at[1], first, keys, F, BLOCK_K, BLOCK_F, MASK)
    v = matrix(v_at[0], v_at[1], first, keys, DV, BLOCK_K, BLOCK_DV, MASK)
    column = first + tl.arange(0, BLOCK_K)
    j, of_j = place(places, column, keys, -1, PLACED and (MASK or BIAS is not None))
    s = scores(q, tl.trans(k), i[:, None], of_i[:, None], j[None, :], of_j[None, :],
               (column < keys)[None, :], scale_log2, slope, window, SEEN, BIAS, CAUSAL, WINDOWED,
               PLACED, MASK)  # fmt: skip
    factor = scale_log2 if BIAS is None else 1.0
    w = tl.exp2(s * factor - logs[:, None])
    dp = product(g, tl.trans(v))
    ds = (w * (dp - mean[:, None])).to(k.dtype)
    return product(ds, k, dq)


@triton.jit(do_not_specialize=["q_place_step", "k_place_step", "bounds_step", "window", "n", "m",
                               "heads", "group"])  # fmt: skip
def queries(q, k, v, grad, dq, lse, deltas, q_place, k_place, bounds, slopes, q_place_step,
            k_place_step, bounds_step, window, n, m, heads, group, scale, F: tl.constexpr,
            DV: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_F: tl.constexpr,
            BLOCK_DV: tl.constexpr, SEEN: tl.constexpr, BIAS: tl.constexpr, CAUSAL: tl.constexpr,
            WINDOWED: tl.constexpr, PLACED: tl.constexpr):  # fmt: skip
    """dq of one block of queries of one head."""
    blocks = tl.cdiv(n, BLOCK_Q)
    index, block = tl.program_id(0) // blocks, blocks - 1 - tl.program_id(0) % blocks
    batch, head = index // heads, index % heads
    first = block * BLOCK_Q
    low, full_low, full_high, high = extent(
        bounds, bounds_step, batch, block, first, m, n, window, BLOCK_Q, BLOCK_K, CAUSAL,
        WINDOWED, PLACED, False
    )  # fmt: skip
    row = first + tl.arange(0, BLOCK_Q)
    i, of_i = place(q_place + batch.to(tl.int64) * q_place_step if PLACED else None, row, n, -2,
                    PLACED)  # fmt: skip
    keys_at = k_place + batch.to(tl.int64) * k_place_step if PLACED else None
    slope = tl.load(slopes + head) * _LOG2E if BIAS is not None else 0.0
    at = index.to(tl.int64) * n + row
    logs = tl.load(lse + at, row < n, other=float("inf")) * _LOG2E
    mine = (i, of_i, logs, tl.load(deltas + at, row < n, other=0.0))
    query = matrix(start_of(q, batch, head), q[3], first, n, F, BLOCK_Q, BLOCK_F, True)
    g = matrix(start_of(grad, batch, head), grad[3], first, n, DV, BLOCK_Q, BLOCK_DV, True)
    k_at = (start_of(k, batch, head // group), k[3])
    v_at = (start_of(v, batch, head // group), v[3])
    sums = tl.zeros([BLOCK_Q, BLOCK_F], tl.float32)
    scale_log2 = scale * _LOG2E
    for step in range(0, high - full_high + full_low - low):
        sums = _toward_queries(
            block_of(step, low, full_low, full_high, high), sums, query, g, mine, k_at, v_at,
            keys_at, m, scale_log2, slope, window, F, DV, BLOCK_K, BLOCK_F, BLOCK_DV, SEEN, BIAS,
            CAUSAL, WINDOWED, PLACED, True
        )  # fmt: skip
    for step in range(full_low, full_high):
        sums = _toward_queries(
            step, sums, query, g, mine, k_at, v_at, keys_at, m, scale_log2, slope, window, F, DV,
            BLOCK_K, BLOCK_F, BLOCK_DV, SEEN, BIAS, CAUSAL, WINDOWED, PLACED, False
        )  # fmt: skip
    _store(dq, batch, head, first, n, sums * scale, F, BLOCK_Q, BLOCK_F)


@triton.jit
def _toward_keys(block, head, slot, sums, k, v, column, tensors, places, n, scale_log2, scale,
                 slopes, window, F: tl.constexpr, DV: tl.constexpr, BLOCK_Q: tl.constexpr,
                 BLOCK_F: tl.constexpr, BLOCK_DV: tl.constexpr, SEEN: tl.constexpr,
                 BIAS: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr,
                 PLACED: tl.constexpr, FAST: tl.constexpr, MASK: tl.constexpr):  # fmt: skip
    """What one block of queries of one head adds to dk and dv (and dq, if FAST); tiles are
    transposed: keys down, queries across."""
    q_at, g_at, dq_at, lse, deltas = tensors
    j, of_j, exists = column
    dk, dv = sums
    first = block * BLOCK_Q
    row = first + tl.arange(0, BLOCK_Q)
    q_start = q_at[0] + head.to(tl.int64) * q_at[1]
    q = matrix(q_start, q_at[2], first, n, F, BLOCK_Q, BLOCK_F, MASK)
    i, of_i = place(places, row, n, -2, PLACED and (MASK or BIAS is not None))
    slope = tl.load(slopes + head) * _LOG2E if BIAS is not None else 0.0
    s = scores(k, tl.trans(q), i[None, :], of_i[None, :], j[:, None], of_j[:, None],
               exists[:, None] & (row < n)[None, :], scale_log2, slope, window, SEEN, BIAS, CAUSAL,
               WINDOWED, PLACED, MASK)  # fmt: skip
    factor = scale_log2 if BIAS is None else 1.0
    at = slot.to(tl.int64) * n + row
    logs = tl.load(lse + at, row < n, other=float("inf")) * _LOG2E
    w = tl.exp2(s * factor - logs[None, :])
    g_start = g_at[0] + head.to(tl.int64) * g_at[1]
    g = matrix(g_start, g_at[2], first, n, DV, BLOCK_Q, BLOCK_DV, MASK)
    dv = product(w.to(g.dtype), g, dv)
    dp = product(v, tl.trans(g))
    mean = tl.load(deltas + at, row < n, other=0.0)
    ds = (w * (dp - mean[None, :])).to(q.dtype)
    dk = product(ds, q, dk)
    if FAST:
        part = product(tl.trans(ds), k) * scale
        target = rows(dq_at + slot.to(tl.int64) * n * F, F, first, BLOCK_Q, BLOCK_F)
        inside = (row < n)[:, None] & (tl.arange(0, BLOCK_F) < F)[None, :]
        tl.atomic_add(target, part, inside, sem="relaxed")
    return dk, dv


@triton.jit(do_not_specialize=["q_place_step", "k_place_step", "bounds_step", "window", "n", "m",
                               "heads", "group"])  # fmt: skip
def keys(q, k, v, grad, dq, dk, dv, lse, deltas, q_place, k_place, bounds, slopes, q_place_step,
         k_place_step, bounds_step, window, n, m, heads, group, scale, F: tl.constexpr,
         DV: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_F: tl.constexpr,
         BLOCK_DV: tl.constexpr, SEEN: tl.constexpr, BIAS: tl.constexpr, CAUSAL: tl.constexpr,
         WINDOWED: tl.constexpr, PLACED: tl.constexpr, FAST: tl.constexpr):  # fmt: skip
    """dk and dv of one block of keys of one KV head, over all query heads of its group.

    FAST: dq is (b, h, n, F) float32, contiguous, zeros at the start, and gets its part here.
    """
    blocks, groups = tl.cdiv(m, BLOCK_K), heads // group
    index, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    batch, own = index // groups, index % groups
    first = block * BLOCK_K
    low, full_low, full_high, high = extent(
        bounds, bounds_step, batch, block, first, n, m, window, BLOCK_K, BLOCK_Q, CAUSAL,
        WINDOWED, PLACED, True
    )  # fmt: skip
    row = first + tl.arange(0, BLOCK_K)
    j, of_j = place(k_place + batch.to(tl.int64) * k_place_step if PLACED else None, row, m, -1,
                    PLACED)  # fmt: skip
    column = (j, of_j, row < m)
    queries_at = q_place + batch.to(tl.int64) * q_place_step if PLACED else None
    key = matrix(start_of(k, batch, own), k[3], first, m, F, BLOCK_K, BLOCK_F, True)
    value = matrix(start_of(v, batch, own), v[3], first, m, DV, BLOCK_K, BLOCK_DV, True)
    q_at = (start_of(q, batch, own * 0), q[2], q[3])
    g_at = (start_of(grad, batch, own * 0), grad[2], grad[3])
    tensors = (q_at, g_at, dq, lse, deltas)
    sums = tl.zeros([BLOCK_K, BLOCK_F], tl.float32), tl.zeros([BLOCK_K, BLOCK_DV], tl.float32)
    scale_log2 = scale * _LOG2E
    masked, whole = high - full_high + full_low - low, full_high - full_low
    # One loop over (head, block), not two nested ones: loads run ahead across heads.
    for step in range(0, masked * group):
        head = own * group + step // masked
        sums = _toward_keys(
            block_of(step % masked, low, full_low, full_high, high), head, batch * heads + head,
            sums, key, value, column, tensors, queries_at, n, scale_log2, scale, slopes, window, F,
            DV, BLOCK_Q, BLOCK_F, BLOCK_DV, SEEN, BIAS, CAUSAL, WINDOWED, PLACED, FAST, True
        )  # fmt: skip
    for step in range(0, whole * group):
        head = own * group + step // whole
        sums = _toward_keys(
            full_low + step % whole, head, batch * heads + head, sums, key, value, column, tensors,
            queries_at, n, scale_log2, scale, slopes, window, F, DV, BLOCK_Q, BLOCK_F, BLOCK_DV,
            SEEN, BIAS, CAUSAL, WINDOWED, PLACED, FAST, False
        )  # fmt: skip
    _store(dk, batch, own, first, m, sums[0] * scale, F, BLOCK_K, BLOCK_F)
    _store(dv, batch, own, first, m, sums[1], DV, BLOCK_K, BLOCK_DV)
