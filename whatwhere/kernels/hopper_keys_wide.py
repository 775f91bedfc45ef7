"""dK and dV on Hopper for wide features (PoPE at d = 128: 256/128): one block of 64 keys a CTA.

dK and dV of 64 keys fill the registers of two warpgroups, so these share the work instead of the
keys (compare `hopper_keys`): one owns the scores and dV, the other dP and dK, half of the products
each. Weights pass from the first to the second through shared memory, two blocks deep. Stationary
operands are held in registers: what the tensor cores read from shared memory bounds this shape.
"""

import triton.experimental.gluon.language as gl
from triton.experimental import gluon
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from whatwhere.kernels.hopper_common import (
    accumulator,
    fetch,
    flag,
    operand,
    release,
    ring,
    stand,
    take,
)
from whatwhere.kernels.hopper_keys import SCALARS, begin, product, stream, weights, write

__all__ = ["keys_wide"]

_ROWS = gl.constexpr(64)


@gluon.jit
def _value_step(step, inner, head, s, dv, k, rings, passing, own, sight, batch, n_queries, where,
                masked, scale, MODE: gl.constexpr, BIAS: gl.constexpr,
                NEXT: gl.constexpr):  # fmt: skip
    """Weights of this block, handed over and into dV, while the next scores are multiplied."""
    q_ring, g_ring, lse_tiles, _deltas = rings
    p_tiles, p_full, p_free = passing
    lse = lse_tiles.index(step % lse_tiles.shape[0]).load(gl.SliceLayout(0, s.type.layout))
    release(q_ring, step)
    if NEXT:
        s_token = product(k, take(q_ring, step + 1))
    p = weights(s, lse, inner, head, own, sight, batch, n_queries, where, masked, scale, MODE, BIAS)
    p16 = p.to(p_tiles.dtype)
    mbarrier.wait(p_free.index(step % 2), ((step // 2) & 1) ^ 1)
    p_tiles.index(step % 2).store(p16)
    mbarrier.arrive(p_full.index(step % 2), count=1)
    p16 = gl.convert_layout(p16, operand(dv.shape[1]))
    dv_token = warpgroup_mma(p16, take(g_ring, step), dv, is_async=True)
    if NEXT:
        s = warpgroup_mma_wait(1, deps=[s_token])
    dv, p16 = warpgroup_mma_wait(0, deps=[dv_token, p16])
    release(g_ring, step)
    return s, dv


@gluon.jit
def _grad_values(rings, passing, k_tile, full, target, sight, sizes, scale, WIDTHS: gl.constexpr,
                 FORM: gl.constexpr, MODE: gl.constexpr, BIAS: gl.constexpr):  # fmt: skip
    """The first warpgroup: Pᵀ = exp(K Qᵀ · scale - lse), handed over; dV = Σ Pᵀ dO."""
    q_ring, g_ring, lse_tiles, _deltas = rings
    n_queries, n_keys, heads, group, bundle, _line = sizes
    _dk, _dk_strides, dv_at, dv_strides = target
    HELD: gl.constexpr = FORM[0]
    AHEAD: gl.constexpr = FORM[1]
    BLOCK: gl.constexpr = lse_tiles.shape[1]
    DV: gl.constexpr = g_ring[0].shape[2]
    of, where, count, masked = begin(
        sight, n_queries, n_keys, heads, group, bundle, _ROWS, BLOCK, MODE
    )
    batch, kv_head, start = of
    rows = start + gl.arange(0, _ROWS, gl.SliceLayout(1, accumulator(BLOCK)))
    own = stand(sight[2], batch * sight[3], n_keys, rows, -1, MODE[2])
    mbarrier.wait(full, 0)
    k = k_tile
    if HELD > 0:
        k = k_tile.load(operand(BLOCK))
    dv = gl.zeros([_ROWS, DV], gl.float32, accumulator(DV))
    inner = 0
    head = kv_head * group
    last = count * group
    if AHEAD:
        last -= 1
        s = warpgroup_mma_wait(0, deps=[product(k, take(q_ring, 0))])
    for step in range(last):
        if not AHEAD:
            s = warpgroup_mma_wait(0, deps=[product(k, take(q_ring, step))])
        s, dv = _value_step(
            step, inner, head, s, dv, k, rings, passing, own, sight, batch, n_queries, where,
            masked, scale, MODE, BIAS, AHEAD,
        )  # fmt: skip
        inner += 1
        if inner == count:
            inner = 0
            head += 1
    if AHEAD:
        s, dv = _value_step(
            last, inner, head, s, dv, k, rings, passing, own, sight, batch, n_queries, where,
            masked, scale, MODE, BIAS, False,
        )  # fmt: skip
    write(dv, dv_at, dv_strides, batch, kv_head, start, n_keys, WIDTHS[1])


@gluon.jit
def _key_step(step, dp, dk, v, rings, passing, NEXT: gl.constexpr):
    """dS of this block into dK, and the next block's dP behind it."""
    q_ring, g_ring, _lse, delta_tiles = rings
    p_tiles, p_full, p_free = passing
    delta = delta_tiles.index(step % delta_tiles.shape[0]).load(gl.SliceLayout(0, dp.type.layout))
    release(g_ring, step)
    mbarrier.wait(p_full.index(step % 2), (step // 2) & 1)
    p = p_tiles.index(step % 2).load(dp.type.layout).to(gl.float32)
    mbarrier.arrive(p_free.index(step % 2), count=1)
    ds = (p * (dp - delta[None, :])).to(p_tiles.dtype)
    ds = gl.convert_layout(ds, operand(dk.shape[1]))
    dk_token = warpgroup_mma(ds, take(q_ring, step), dk, is_async=True)
    if NEXT:
        dp_token = product(v, take(g_ring, step + 1))
        dk, ds = warpgroup_mma_wait(1, deps=[dk_token, ds])
        release(q_ring, step)
        dp = warpgroup_mma_wait(0, deps=[dp_token])
    else:
        dk, ds = warpgroup_mma_wait(0, deps=[dk_token, ds])
        release(q_ring, step)
    return dp, dk


@gluon.jit
def _grad_keys(rings, passing, v_tile, full, target, sight, sizes, scale, WIDTHS: gl.constexpr,
               FORM: gl.constexpr, MODE: gl.constexpr):  # fmt: skip
    """The second warpgroup: dPᵀ = V dOᵀ, dSᵀ = Pᵀ (dPᵀ - Δ); dK = Σ dSᵀ Q."""
    q_ring, g_ring, lse_tiles, _deltas = rings
    n_queries, n_keys, heads, group, bundle, _line = sizes
    dk_at, dk_strides, _dv, _dv_strides = target
    HELD: gl.constexpr = FORM[0]
    BLOCK: gl.constexpr = lse_tiles.shape[1]
    F: gl.constexpr = q_ring[0].shape[2]
    of, _where, count, _masked = begin(
        sight, n_queries, n_keys, heads, group, bundle, _ROWS, BLOCK, MODE
    )
    mbarrier.wait(full, 0)
    v = v_tile
    if HELD > 1:
        v = v_tile.load(operand(BLOCK))
    dk = gl.zeros([_ROWS, F], gl.float32, accumulator(F))
    dp = warpgroup_mma_wait(0, deps=[product(v, take(g_ring, 0))])
    last = count * group - 1
    for step in range(last):
        dp, dk = _key_step(step, dp, dk, v, rings, passing, True)
    dp, dk = _key_step(last, dp, dk, v, rings, passing, False)
    write(dk * scale, dk_at, dk_strides, of[0], of[1], of[2], n_keys, WIDTHS[0])


@gluon.jit
def _produce(k_desc, v_desc, descs, rings, k_tile, v_tile, full, sight, sizes,
             MODE: gl.constexpr):  # fmt: skip
    n_queries, n_keys, heads, group, bundle, line = sizes
    BLOCK: gl.constexpr = rings[2].shape[1]
    of, where, count, _masked = begin(
        sight, n_queries, n_keys, heads, group, bundle, _ROWS, BLOCK, MODE
    )
    batch, kv_head, start = of
    mbarrier.expect(full, k_desc.block_type.nbytes + v_desc.block_type.nbytes)
    fetch(k_desc, batch, kv_head, start, full, k_tile)
    fetch(v_desc, batch, kv_head, start, full, v_tile)
    stream(descs, rings, batch, kv_head * group, group, where, count, heads, line)


@gluon.jit(do_not_specialize=SCALARS)
def keys_wide(q_desc, g_desc, k_desc, v_desc, lse_desc, delta_desc, dk, dk_strides, dv, dv_strides,
              q_place, q_step, k_place, k_step, ranges, ranges_step, slopes, window, n_queries,
              n_keys, heads, group, head_bundle, line, scale, WIDTHS: gl.constexpr,
              STAGES: gl.constexpr, FORM: gl.constexpr, MODE: gl.constexpr,
              BIAS: gl.constexpr):  # fmt: skip
    """dK and dV of one block of 64 keys of one KV head, over all query heads of its group.

    FORM: HELD, how many of K and V are read into registers once; AHEAD: the next scores are
    multiplied while these weights are taken. The rest as in `hopper_keys.keys`.
    """
    dtype: gl.constexpr = q_desc.dtype
    BLOCK: gl.constexpr = q_desc.block_type.shape[2]
    q_ring = ring(q_desc, STAGES, 2)
    g_ring = ring(g_desc, STAGES, 2)
    F: gl.constexpr = q_ring[0].shape[2]
    DV: gl.constexpr = g_ring[0].shape[2]
    lse_tiles = gl.allocate_shared_memory(gl.float32, [STAGES, BLOCK], lse_desc.layout)
    delta_tiles = gl.allocate_shared_memory(gl.float32, [STAGES, BLOCK], delta_desc.layout)
    k_tile = gl.allocate_shared_memory(dtype, [_ROWS, F], q_ring[0].type.layout)
    v_tile = gl.allocate_shared_memory(dtype, [_ROWS, DV], g_ring[0].type.layout)
    PASS: gl.constexpr = gl.NVMMASharedLayout.get_default_for([_ROWS, BLOCK], dtype)
    passing = (gl.allocate_shared_memory(dtype, [2, _ROWS, BLOCK], PASS), flag(2, 1), flag(2, 1))
    full = flag(1, 1).index(0)
    rings = (q_ring, g_ring, lse_tiles, delta_tiles)
    target = (dk, dk_strides, dv, dv_strides)
    sight = (q_place, q_step, k_place, k_step, ranges, ranges_step, slopes, window)
    sizes = (n_queries, n_keys, heads, group, head_bundle, line)
    descs = (q_desc, g_desc, lse_desc, delta_desc)
    gl.warp_specialize(
        [
            (_grad_keys, (rings, passing, v_tile, full, target, sight, sizes, scale, WIDTHS, FORM,
                          MODE)),
            (_grad_values, (rings, passing, k_tile, full, target, sight, sizes, scale, WIDTHS,
                            FORM, MODE, BIAS)),
            (_produce, (k_desc, v_desc, descs, rings, k_tile, v_tile, full, sight, sizes, MODE)),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip
