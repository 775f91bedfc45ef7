"""dQ on Hopper, warp-specialised in Gluon: one block of 128 queries a CTA.

Two consumers of 64 rows, K and V streamed; dQ stays in registers, so that no result depends on the
order of blocks. Inputs are features, as in `hopper.forward`.
"""

import triton.experimental.gluon.language as gl
from triton.experimental import gluon
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from whatwhere.kernels.hopper_common import origin, scheduled

__all__ = ["queries"]

_ROWS = gl.constexpr(64)
_LOG2E = gl.constexpr(1.4426950408889634)


@gluon.jit
def _feed_queries(
    descs, rings, corners, last, count, BLOCK: gl.constexpr, STAGES: gl.constexpr
):  # fmt: skip
    q_desc, g_desc, k_desc, v_desc = descs
    q_row, q_column, g_row, g_column, k_row, k_column, v_row, v_column = corners
    q_tile, g_tile, k_ring, v_ring, full, k_full, v_full, k_free, v_free = rings
    mbarrier.expect(full, 2 * q_desc.block_type.nbytes + 2 * g_desc.block_type.nbytes)
    for part in gl.static_range(2):
        at = [q_row + part * _ROWS, q_column]
        tma.async_copy_global_to_shared(q_desc, at, full, q_tile.index(part))
        at = [g_row + part * _ROWS, g_column]
        tma.async_copy_global_to_shared(g_desc, at, full, g_tile.index(part))
    for step in range(count):
        stage = step % STAGES
        phase = (step // STAGES) & 1
        down = (last - step) * BLOCK
        mbarrier.wait(k_free.index(stage), phase ^ 1)
        ready = k_full.index(stage)
        mbarrier.expect(ready, k_desc.block_type.nbytes)
        at = [k_row + down, k_column]
        tma.async_copy_global_to_shared(k_desc, at, ready, k_ring.index(stage))
        mbarrier.wait(v_free.index(stage), phase ^ 1)
        ready = v_full.index(stage)
        mbarrier.expect(ready, v_desc.block_type.nbytes)
        at = [v_row + down, v_column]
        tma.async_copy_global_to_shared(v_desc, at, ready, v_ring.index(stage))


@gluon.jit
def _grad_queries(
    part: gl.constexpr,
    rings,
    place,
    scale,
    BLOCK: gl.constexpr,
    F: gl.constexpr,
    STAGES: gl.constexpr,
    CAUSAL: gl.constexpr,
):
    q_tile, g_tile, k_ring, v_ring, full, k_full, v_full, k_free, v_free = rings
    dq, dq_base, dq_step, lse, deltas, row_base, start, n_queries, n_keys, last, masked, count = (
        place
    )
    S_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK, 16])
    O_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, F, 16])
    P_LAYOUT: gl.constexpr = gl.DotOperandLayout(0, O_LAYOUT, 2)
    q = q_tile.index(part)
    g = g_tile.index(part)
    rows = start + part * _ROWS + gl.arange(0, _ROWS, gl.SliceLayout(1, S_LAYOUT))
    inside = rows < n_queries
    row_lse = gl.load(lse + row_base + rows, mask=inside, other=0.0) * _LOG2E
    row_delta = gl.load(deltas + row_base + rows, mask=inside, other=0.0)
    acc = gl.zeros([_ROWS, F], gl.float32, O_LAYOUT)
    zero = gl.zeros([_ROWS, BLOCK], gl.float32, S_LAYOUT)
    scale_log2 = scale * _LOG2E
    mbarrier.wait(full, 0)
    for step in range(count):
        stage = step % STAGES
        phase = (step // STAGES) & 1
        mbarrier.wait(k_full.index(stage), phase)
        k_t = k_ring.index(stage).permute((1, 0))
        s_token = warpgroup_mma(q, k_t, zero, use_acc=False, is_async=True)
        mbarrier.wait(v_full.index(stage), phase)
        v_t = v_ring.index(stage).permute((1, 0))
        p_token = warpgroup_mma(g, v_t, zero, use_acc=False, is_async=True)
        s = warpgroup_mma_wait(1, deps=[s_token])
        p = gl.exp2(s * scale_log2 - row_lse[:, None])
        if step < masked:
            columns = (last - step) * BLOCK + gl.arange(0, BLOCK, gl.SliceLayout(0, S_LAYOUT))
            seen = (columns < n_keys)[None, :]
            if CAUSAL:
                seen = seen & (columns[None, :] <= rows[:, None])
            p = gl.where(seen, p, 0.0)
        dp = warpgroup_mma_wait(0, deps=[p_token])
        mbarrier.arrive(v_free.index(stage))
        ds = (p * (dp - row_delta[:, None])).to(k_ring.dtype)
        ds = gl.convert_layout(ds, P_LAYOUT)
        token = warpgroup_mma(ds, k_ring.index(stage), acc, is_async=True)
        acc, ds = warpgroup_mma_wait(0, deps=[token, ds])
        mbarrier.arrive(k_free.index(stage))
    out_rows = start + part * _ROWS + gl.arange(0, _ROWS, gl.SliceLayout(1, O_LAYOUT))
    channels = gl.arange(0, F, gl.SliceLayout(0, O_LAYOUT))
    target = dq + dq_base + out_rows[:, None] * dq_step + channels[None, :]
    gl.store(target, (acc * scale).to(dq.dtype.element_ty), mask=(out_rows < n_queries)[:, None])


@gluon.jit
def queries(
    q_desc,
    g_desc,
    k_desc,
    v_desc,
    ats,
    dq,
    dq_strides,
    lse,
    deltas,
    n_queries,
    n_keys,
    heads,
    group,
    head_bundle,
    scale,
    BLOCK: gl.constexpr,
    F: gl.constexpr,
    DV: gl.constexpr,
    STAGES: gl.constexpr,
    CAUSAL: gl.constexpr,
):
    """dQ of one block of 128 queries of one head: Σ_j P (dP - Δ) k_j · scale."""
    blocks = gl.cdiv(n_queries, 2 * _ROWS)
    index, rank = scheduled(blocks, head_bundle)
    start = (blocks - 1 - rank) * 2 * _ROWS
    batch = index // heads
    head = index % heads
    q_at, g_at, k_at, v_at = ats
    q_row, q_column = origin(q_at, batch, head)
    g_row, g_column = origin(g_at, batch, head)
    k_row, k_column = origin(k_at, batch, head // group)
    v_row, v_column = origin(v_at, batch, head // group)
    corners = (
        q_row + start, q_column, g_row + start, g_column, k_row, k_column, v_row, v_column
    )  # fmt: skip
    count = gl.cdiv(n_keys, BLOCK)
    if CAUSAL:
        count = gl.minimum(count, gl.cdiv(start + 2 * _ROWS, BLOCK))
        masked = gl.minimum(count, count - start // BLOCK)
    else:
        masked = 1
    last = count - 1

    dtype: gl.constexpr = q_desc.dtype
    q_tile = gl.allocate_shared_memory(dtype, [2, _ROWS, F], q_desc.layout)
    g_tile = gl.allocate_shared_memory(dtype, [2, _ROWS, DV], g_desc.layout)
    k_ring = gl.allocate_shared_memory(dtype, [STAGES, BLOCK, F], k_desc.layout)
    v_ring = gl.allocate_shared_memory(dtype, [STAGES, BLOCK, DV], v_desc.layout)
    BARRIER: gl.constexpr = mbarrier.MBarrierLayout()
    full = gl.allocate_shared_memory(gl.int64, [1], BARRIER)
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    mbarrier.init(full, count=1)
    for stage in gl.static_range(STAGES):
        mbarrier.init(k_full.index(stage), count=1)
        mbarrier.init(v_full.index(stage), count=1)
        mbarrier.init(k_free.index(stage), count=2)
        mbarrier.init(v_free.index(stage), count=2)
    row_base = index.to(gl.int64) * n_queries
    dq_base = batch.to(gl.int64) * dq_strides[0] + head.to(gl.int64) * dq_strides[1]
    descs = (q_desc, g_desc, k_desc, v_desc)
    rings = (q_tile, g_tile, k_ring, v_ring, full, k_full, v_full, k_free, v_free)
    place = (
        dq, dq_base, dq_strides[2], lse, deltas, row_base, start, n_queries, n_keys, last, masked,
        count,
    )  # fmt: skip
    gl.warp_specialize(
        [
            (_grad_queries, (0, rings, place, scale, BLOCK, F, STAGES, CAUSAL)),
            (_grad_queries, (1, rings, place, scale, BLOCK, F, STAGES, CAUSAL)),
            (_feed_queries, (descs, rings, corners, last, count, BLOCK, STAGES)),
        ],
        [4, 1],
        [240, 24],
    )
