"""dQ on Hopper, warp-specialised in Gluon: a block of 128 queries at a time.

Two consumers of 64 rows, K and V streamed; dQ stays in registers, so that no result depends on the
order of blocks. Where registers allow it, the next tile's scores and dP are multiplied in flight
with dQ of this one. Tiles and CTAs are ordered as in `hopper.forward`, inputs are features too.
"""

import triton.experimental.gluon.language as gl
from triton.experimental import gluon
from triton.experimental.gluon.language.nvidia.hopper import warpgroup_mma, warpgroup_mma_wait

from whatwhere.kernels.hopper_common import (
    accumulator,
    block_of,
    judge,
    operand,
    put,
    release,
    ring,
    stage,
    stand,
    take,
    task,
    turns,
    visits,
)

__all__ = ["queries"]

_ROWS = gl.constexpr(64)
_LOG2E = gl.constexpr(1.4426950408889634)


@gluon.jit
def _produce(descs, rings, tasks, sight, PERSISTENT: gl.constexpr, MODE: gl.constexpr):
    q_desc, g_desc, k_desc, v_desc = descs
    q_ring, g_ring, k_ring, v_ring = rings
    n_queries, _keys, heads, all_heads, group, bundle = tasks
    BLOCK: gl.constexpr = k_desc.block_type.shape[2]
    blocks = gl.cdiv(n_queries, 2 * _ROWS)
    done = 0
    for turn in range(turns(all_heads * blocks, PERSISTENT)):
        batch, head, block = task(turn, all_heads, blocks, heads, bundle)
        where, count, _masked = visits(batch, block, tasks, sight, 2 * _ROWS, BLOCK, MODE)
        for part in gl.static_range(2):
            row = (block * 2 + part) * _ROWS
            put(q_ring, turn * 2 + part, q_desc, batch, head, row)
            put(g_ring, turn * 2 + part, g_desc, batch, head, row)
        for step in range(count):
            column = block_of(step, where[0], where[1], where[2], where[3]) * BLOCK
            put(k_ring, done + step, k_desc, batch, head // group, column)
            put(v_ring, done + step, v_desc, batch, head // group, column)
        done += count


@gluon.jit
def _weights(s, scale, row_lse, column, look, MODE: gl.constexpr, BIAS: gl.constexpr,
             MASK: gl.constexpr):  # fmt: skip
    s, factor = judge(s, scale * _LOG2E, column, look, MODE, BIAS, MASK)
    return gl.exp2(s * factor - row_lse[:, None])


@gluon.jit
def _tile(step, rows, rings, done, where, scale, look, MODE: gl.constexpr, BIAS: gl.constexpr,
          MASK: gl.constexpr):  # fmt: skip
    """dS of one tile on its own."""
    q, g, row_lse, row_delta = rows
    _q_ring, _g_ring, k_ring, v_ring = rings
    BLOCK: gl.constexpr = k_ring[0].shape[1]
    zero = gl.zeros([_ROWS, BLOCK], gl.float32, accumulator(BLOCK))
    k = take(k_ring, done + step)
    s_token = warpgroup_mma(q, k.permute((1, 0)), zero, use_acc=False, is_async=True)
    column = block_of(step, where[0], where[1], where[2], where[3]) * BLOCK
    if MODE[2] and (MASK or BIAS is not None):
        # Places beside dP do not fit into the registers: one after the other.
        s = warpgroup_mma_wait(0, deps=[s_token])
        p = _weights(s, scale, row_lse, column, look, MODE, BIAS, MASK)
        v = take(v_ring, done + step)
        dp = warpgroup_mma(g, v.permute((1, 0)), zero, use_acc=False)
    else:
        v = take(v_ring, done + step)
        p_token = warpgroup_mma(g, v.permute((1, 0)), zero, use_acc=False, is_async=True)
        s = warpgroup_mma_wait(1, deps=[s_token])
        p = _weights(s, scale, row_lse, column, look, MODE, BIAS, MASK)
        # A wait that never waits: the assembler does not move the exponentials across it and behind
        # the products that they are to hide.
        take(v_ring, done + step)
        dp, p = warpgroup_mma_wait(0, deps=[p_token, p])
    release(v_ring, done + step)
    return p * (dp - row_delta[:, None])


@gluon.jit
def _step(step, ds, acc, rows, rings, done, where, scale, look, MODE: gl.constexpr,
          BIAS: gl.constexpr, MASK: gl.constexpr):  # fmt: skip
    """dQ of the tile before, scores and dP of this one: all in flight together -> dS, dQ."""
    q, g, row_lse, row_delta = rows
    _q_ring, _g_ring, k_ring, v_ring = rings
    BLOCK: gl.constexpr = ds.shape[1]
    zero = gl.zeros([_ROWS, BLOCK], gl.float32, accumulator(BLOCK))
    k = take(k_ring, done + step)
    s_token = warpgroup_mma(q, k.permute((1, 0)), zero, use_acc=False, is_async=True)
    # Carried in float32: 16-bit values that are carried get unpacked and packed again.
    ds16 = gl.convert_layout(ds.to(k_ring[0].dtype), operand(acc.shape[1]))
    token = warpgroup_mma(ds16, stage(k_ring, done + step - 1), acc, is_async=True)
    v = take(v_ring, done + step)
    p_token = warpgroup_mma(g, v.permute((1, 0)), zero, use_acc=False, is_async=True)
    s = warpgroup_mma_wait(2, deps=[s_token])
    column = block_of(step, where[0], where[1], where[2], where[3]) * BLOCK
    p = _weights(s, scale, row_lse, column, look, MODE, BIAS, MASK)
    take(v_ring, done + step)  # as in `_tile`
    dp, acc, ds16, p = warpgroup_mma_wait(0, deps=[p_token, token, ds16, p])
    release(v_ring, done + step)
    release(k_ring, done + step - 1)
    return p * (dp - row_delta[:, None]), acc


@gluon.jit
def _add(ds, acc, k_ring, step):
    """dQ of one tile on its own."""
    ds16 = gl.convert_layout(ds.to(k_ring[0].dtype), operand(acc.shape[1]))
    token = warpgroup_mma(ds16, stage(k_ring, step), acc, is_async=True)
    acc, ds16 = warpgroup_mma_wait(0, deps=[token, ds16])
    release(k_ring, step)
    return acc


@gluon.jit
def _write(acc, row, batch, head, n_queries, target, WIDTH: gl.constexpr):
    dq, strides = target
    LAYOUT: gl.constexpr = acc.type.layout
    rows = row + gl.arange(0, _ROWS, gl.SliceLayout(1, LAYOUT))
    channels = gl.arange(0, acc.shape[1], gl.SliceLayout(0, LAYOUT))
    base = batch.to(gl.int64) * strides[0] + head.to(gl.int64) * strides[1]
    at = dq + base + rows.to(gl.int64)[:, None] * strides[2] + channels[None, :]
    inside = (rows < n_queries)[:, None] & (channels < WIDTH)[None, :]
    gl.store(at, acc.to(dq.dtype.element_ty), mask=inside)


@gluon.jit
def _consume(part: gl.constexpr, rings, tasks, sight, sums, target, scale, WIDTH: gl.constexpr,
             AHEAD: gl.constexpr, PERSISTENT: gl.constexpr, MODE: gl.constexpr,
             BIAS: gl.constexpr):  # fmt: skip
    q_ring, g_ring, k_ring, _v_ring = rings
    n_queries, n_keys, heads, all_heads, _group, bundle = tasks
    q_place, q_step, k_place, k_step, _ranges, _ranges_step, slopes, window = sight
    lse, deltas = sums
    BLOCK: gl.constexpr = k_ring[0].shape[1]
    F: gl.constexpr = k_ring[0].shape[2]
    blocks = gl.cdiv(n_queries, 2 * _ROWS)
    done = 0
    for turn in range(turns(all_heads * blocks, PERSISTENT)):
        batch, head, block = task(turn, all_heads, blocks, heads, bundle)
        where, count, masked = visits(batch, block, tasks, sight, 2 * _ROWS, BLOCK, MODE)
        row = (block * 2 + part) * _ROWS
        index = row + gl.arange(0, _ROWS, gl.SliceLayout(1, accumulator(BLOCK)))
        i, of_i = stand(q_place, batch * q_step, n_queries, index, -2, MODE[2])
        slope = 0.0
        if BIAS is not None:
            slope = gl.load(slopes + head) * _LOG2E
        look = (i, of_i, k_place, batch * k_step, n_keys, slope, window)
        first = (batch * heads + head).to(gl.int64) * n_queries
        exists = index < n_queries
        # exp2(s - inf) is 0: rows past the end add nothing.
        row_lse = gl.load(lse + first + index, mask=exists, other=float("inf")) * _LOG2E
        row_delta = gl.load(deltas + first + index, mask=exists, other=0.0)
        mine = turn * 2 + part
        rows = (take(q_ring, mine), take(g_ring, mine), row_lse, row_delta)
        acc = gl.zeros([_ROWS, F], gl.float32, accumulator(F))
        if AHEAD:
            ds = _tile(0, rows, rings, done, where, scale, look, MODE, BIAS, True)
            for step in range(1, masked):
                ds, acc = _step(
                    step, ds, acc, rows, rings, done, where, scale, look, MODE, BIAS, True
                )  # fmt: skip
            for step in range(masked, count):
                ds, acc = _step(
                    step, ds, acc, rows, rings, done, where, scale, look, MODE, BIAS, False
                )  # fmt: skip
            release(q_ring, mine)
            release(g_ring, mine)
            acc = _add(ds, acc, k_ring, done + count - 1)
        else:
            for step in range(0, masked):
                ds = _tile(step, rows, rings, done, where, scale, look, MODE, BIAS, True)
                acc = _add(ds, acc, k_ring, done + step)
            for step in range(masked, count):
                ds = _tile(step, rows, rings, done, where, scale, look, MODE, BIAS, False)
                acc = _add(ds, acc, k_ring, done + step)
            release(q_ring, mine)
            release(g_ring, mine)
        _write(acc * scale, row, batch, head, n_queries, target, WIDTH)
        done += count


_SIZES = [
    "q_step", "k_step", "ranges_step", "window", "n_queries", "n_keys", "heads", "all_heads",
    "group", "head_bundle", "scale",
]  # fmt: skip


@gluon.jit(do_not_specialize=_SIZES)
def queries(
    q_desc,
    g_desc,
    k_desc,
    v_desc,
    dq,
    dq_strides,
    lse,
    deltas,
    q_place,
    q_step,
    k_place,
    k_step,
    ranges,
    ranges_step,
    slopes,
    window,
    n_queries,
    n_keys,
    heads,
    all_heads,
    group,
    head_bundle,
    scale,
    WIDTH: gl.constexpr,
    K_STAGES: gl.constexpr,
    V_STAGES: gl.constexpr,
    AHEAD: gl.constexpr,
    PERSISTENT: gl.constexpr,
    MODE: gl.constexpr,
    BIAS: gl.constexpr,
):
    """dQ: Σ_j P (dP - Δ) k_j · scale over the pairs seen; deltas as `delta.delta` makes them.

    WIDTH: how many features there are (tiles may be wider). AHEAD: multiply the next tile's scores
    with dQ of this one; more registers, and K waits longer. The rest as in `hopper.forward`.
    """
    rings = (
        ring(q_desc, 2, 1), ring(g_desc, 2, 1), ring(k_desc, K_STAGES, 2), ring(v_desc, V_STAGES, 2)
    )  # fmt: skip
    tasks = (n_queries, n_keys, heads, all_heads, group, head_bundle)
    sight = (q_place, q_step, k_place, k_step, ranges, ranges_step, slopes, window)
    descs = (q_desc, g_desc, k_desc, v_desc)
    sums = (lse, deltas)
    target = (dq, dq_strides)
    gl.warp_specialize(
        [
            (
                _consume,
                (0, rings, tasks, sight, sums, target, scale, WIDTH, AHEAD, PERSISTENT, MODE, BIAS),
            ),
            (
                _consume,
                (1, rings, tasks, sight, sums, target, scale, WIDTH, AHEAD, PERSISTENT, MODE, BIAS),
            ),
            (_produce, (descs, rings, tasks, sight, PERSISTENT, MODE)),
        ],
        [4, 1],
        [240, 24],
    )
