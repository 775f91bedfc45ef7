"""dK and dV on Hopper, deterministic, warp-specialised in Gluon: one block of 64 keys a CTA.

Q and dO are streamed; one warpgroup owns the scores and dV, the other dP and dK, so that 256-wide
features (PoPE at d = 128) fit into registers. Each does half of the matrix work. Weights pass from
the first to the second through shared memory.

With `hopper_queries`, scores are computed twice: 11 units of work where one kernel with atomics
needs 8; no result depends on the order of blocks, no float32 dQ buffer is needed.
"""

import triton.experimental.gluon.language as gl
from triton.experimental import gluon
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from whatwhere.kernels.hopper_common import origin

__all__ = ["keys"]

_ROWS = gl.constexpr(64)
_LOG2E = gl.constexpr(1.4426950408889634)


@gluon.jit
def _feed_keys(
    descs, rings, ats, batch, group_head, group, start, first, blocks, count,
    BLOCK: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    q_desc, g_desc, k_desc, v_desc = descs
    q_at, g_at, k_at, v_at = ats
    k_row, k_column = origin(k_at, batch, group_head)
    v_row, v_column = origin(v_at, batch, group_head)
    k_tile, v_tile, q_ring, g_ring, full, q_full, g_full, q_free, g_free = rings
    mbarrier.expect(full, k_desc.block_type.nbytes + v_desc.block_type.nbytes)
    tma.async_copy_global_to_shared(k_desc, [k_row + start, k_column], full, k_tile)
    tma.async_copy_global_to_shared(v_desc, [v_row + start, v_column], full, v_tile)
    for step in range(count):
        stage = step % STAGES
        phase = (step // STAGES) & 1
        head = group_head * group + step // blocks
        down = (first + step % blocks) * BLOCK
        q_row, q_column = origin(q_at, batch, head)
        g_row, g_column = origin(g_at, batch, head)
        mbarrier.wait(q_free.index(stage), phase ^ 1)
        ready = q_full.index(stage)
        mbarrier.expect(ready, q_desc.block_type.nbytes)
        at = [q_row + down, q_column]
        tma.async_copy_global_to_shared(q_desc, at, ready, q_ring.index(stage))
        mbarrier.wait(g_free.index(stage), phase ^ 1)
        ready = g_full.index(stage)
        mbarrier.expect(ready, g_desc.block_type.nbytes)
        at = [g_row + down, g_column]
        tma.async_copy_global_to_shared(g_desc, at, ready, g_ring.index(stage))


@gluon.jit
def _value_step(
    step,
    s,
    acc,
    rings,
    passing,
    lse,
    extent,
    scale,
    BLOCK: gl.constexpr,
    DV: gl.constexpr,
    STAGES: gl.constexpr,
    CAUSAL: gl.constexpr,
    NEXT: gl.constexpr,
):
    """Weights of this block, handed over and into dV, while the next scores are multiplied."""
    k_tile, _v_tile, q_ring, g_ring, _full, q_full, g_full, q_free, g_free = rings
    p_ring, p_full, p_free = passing
    row_base, start, n_queries, _n_keys, first, blocks, _count = extent
    S_LAYOUT: gl.constexpr = s.type.layout
    P_LAYOUT: gl.constexpr = gl.DotOperandLayout(0, acc.type.layout, 2)
    column = (first + step % blocks) * BLOCK
    columns = column + gl.arange(0, BLOCK, gl.SliceLayout(0, S_LAYOUT))
    at = lse + row_base + (step // blocks) * n_queries + columns
    # exp2(s - inf) is 0: rows past the end add nothing.
    column_lse = gl.load(at, mask=columns < n_queries, other=float("inf")) * _LOG2E
    if NEXT:
        after = step + 1
        mbarrier.wait(q_full.index(after % STAGES), (after // STAGES) & 1)
        zero = gl.zeros([_ROWS, BLOCK], gl.float32, S_LAYOUT)
        q_t = q_ring.index(after % STAGES).permute((1, 0))
        s_token = warpgroup_mma(k_tile, q_t, zero, use_acc=False, is_async=True)
    p = gl.exp2(s * (scale * _LOG2E) - column_lse[None, :])
    if CAUSAL and column < start + _ROWS:
        rows = start + gl.arange(0, _ROWS, gl.SliceLayout(1, S_LAYOUT))
        p = gl.where(rows[:, None] <= columns[None, :], p, 0.0)
    p16 = p.to(q_ring.dtype)
    mbarrier.wait(p_free.index(step % 2), ((step // 2) & 1) ^ 1)
    p_ring.index(step % 2).store(p16)
    mbarrier.arrive(p_full.index(step % 2))
    stage = step % STAGES
    mbarrier.wait(g_full.index(stage), (step // STAGES) & 1)
    operand = gl.convert_layout(p16, P_LAYOUT)
    token = warpgroup_mma(operand, g_ring.index(stage), acc, is_async=True)
    if NEXT:
        s = warpgroup_mma_wait(1, deps=[s_token])
        mbarrier.arrive(q_free.index(after % STAGES))
    acc, operand = warpgroup_mma_wait(0, deps=[token, operand])
    mbarrier.arrive(g_free.index(stage))
    return s, acc


@gluon.jit
def _grad_values(
    rings,
    passing,
    target,
    extent,
    scale,
    BLOCK: gl.constexpr,
    DV: gl.constexpr,
    STAGES: gl.constexpr,
    CAUSAL: gl.constexpr,
):
    """The first warpgroup: Pᵀ = exp(K Qᵀ - lse), handed over; dV = Σ Pᵀ dO."""
    k_tile, _v_tile, q_ring, _g_ring, full, q_full, _g_full, q_free, _g_free = rings
    dv, dv_base, dv_step, lse = target
    _row_base, start, _n_queries, n_keys, _first, _blocks, count = extent
    S_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK, 16])
    O_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, DV, 16])
    acc = gl.zeros([_ROWS, DV], gl.float32, O_LAYOUT)
    zero = gl.zeros([_ROWS, BLOCK], gl.float32, S_LAYOUT)
    mbarrier.wait(full, 0)
    mbarrier.wait(q_full.index(0), 0)
    q_t = q_ring.index(0).permute((1, 0))
    token = warpgroup_mma(k_tile, q_t, zero, use_acc=False, is_async=True)
    s = warpgroup_mma_wait(0, deps=[token])
    mbarrier.arrive(q_free.index(0))
    for step in range(count - 1):
        s, acc = _value_step(
            step, s, acc, rings, passing, lse, extent, scale, BLOCK, DV, STAGES, CAUSAL, True
        )
    s, acc = _value_step(
        count - 1, s, acc, rings, passing, lse, extent, scale, BLOCK, DV, STAGES, CAUSAL, False
    )
    out_rows = start + gl.arange(0, _ROWS, gl.SliceLayout(1, O_LAYOUT))
    channels = gl.arange(0, DV, gl.SliceLayout(0, O_LAYOUT))
    place = dv + dv_base + out_rows[:, None] * dv_step + channels[None, :]
    gl.store(place, acc.to(dv.dtype.element_ty), mask=(out_rows < n_keys)[:, None])


@gluon.jit
def _key_step(
    step,
    dp,
    acc,
    rings,
    passing,
    deltas,
    extent,
    BLOCK: gl.constexpr,
    STAGES: gl.constexpr,
    NEXT: gl.constexpr,
):
    """dS of this block into dK, and the next block's dP behind it."""
    _k_tile, v_tile, q_ring, g_ring, _full, q_full, g_full, q_free, g_free = rings
    p_ring, p_full, p_free = passing
    row_base, _start, n_queries, _n_keys, first, blocks, _count = extent
    S_LAYOUT: gl.constexpr = dp.type.layout
    P_LAYOUT: gl.constexpr = gl.DotOperandLayout(0, acc.type.layout, 2)
    stage = step % STAGES
    columns = (first + step % blocks) * BLOCK + gl.arange(0, BLOCK, gl.SliceLayout(0, S_LAYOUT))
    at = deltas + row_base + (step // blocks) * n_queries + columns
    column_delta = gl.load(at, mask=columns < n_queries, other=0.0)
    mbarrier.wait(p_full.index(step % 2), (step // 2) & 1)
    p = p_ring.index(step % 2).load(S_LAYOUT).to(gl.float32)
    mbarrier.arrive(p_free.index(step % 2))
    ds = (p * (dp - column_delta[None, :])).to(q_ring.dtype)
    ds = gl.convert_layout(ds, P_LAYOUT)
    mbarrier.wait(q_full.index(stage), (step // STAGES) & 1)
    token = warpgroup_mma(ds, q_ring.index(stage), acc, is_async=True)
    if NEXT:
        after = step + 1
        mbarrier.wait(g_full.index(after % STAGES), (after // STAGES) & 1)
        zero = gl.zeros([_ROWS, BLOCK], gl.float32, S_LAYOUT)
        g_t = g_ring.index(after % STAGES).permute((1, 0))
        p_token = warpgroup_mma(v_tile, g_t, zero, use_acc=False, is_async=True)
        acc, ds = warpgroup_mma_wait(1, deps=[token, ds])
        mbarrier.arrive(q_free.index(stage))
        dp = warpgroup_mma_wait(0, deps=[p_token])
        mbarrier.arrive(g_free.index(after % STAGES))
    else:
        acc, ds = warpgroup_mma_wait(0, deps=[token, ds])
        mbarrier.arrive(q_free.index(stage))
    return dp, acc


@gluon.jit
def _grad_keys(
    rings,
    passing,
    target,
    extent,
    scale,
    BLOCK: gl.constexpr,
    F: gl.constexpr,
    STAGES: gl.constexpr,
):
    """The second warpgroup: dPᵀ = V dOᵀ, dSᵀ = Pᵀ (dPᵀ - Δ); dK = Σ dSᵀ Q."""
    _k_tile, v_tile, _q_ring, g_ring, full, _q_full, g_full, _q_free, g_free = rings
    dk, dk_base, dk_step, deltas = target
    _row_base, start, _n_queries, n_keys, _first, _blocks, count = extent
    S_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK, 16])
    O_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, F, 16])
    acc = gl.zeros([_ROWS, F], gl.float32, O_LAYOUT)
    zero = gl.zeros([_ROWS, BLOCK], gl.float32, S_LAYOUT)
    mbarrier.wait(full, 0)
    mbarrier.wait(g_full.index(0), 0)
    g_t = g_ring.index(0).permute((1, 0))
    token = warpgroup_mma(v_tile, g_t, zero, use_acc=False, is_async=True)
    dp = warpgroup_mma_wait(0, deps=[token])
    mbarrier.arrive(g_free.index(0))
    for step in range(count - 1):
        dp, acc = _key_step(step, dp, acc, rings, passing, deltas, extent, BLOCK, STAGES, True)
    dp, acc = _key_step(count - 1, dp, acc, rings, passing, deltas, extent, BLOCK, STAGES, False)
    out_rows = start + gl.arange(0, _ROWS, gl.SliceLayout(1, O_LAYOUT))
    channels = gl.arange(0, F, gl.SliceLayout(0, O_LAYOUT))
    place = dk + dk_base + out_rows[:, None] * dk_step + channels[None, :]
    gl.store(place, (acc * scale).to(dk.dtype.element_ty), mask=(out_rows < n_keys)[:, None])


@gluon.jit
def keys(
    q_desc,
    g_desc,
    k_desc,
    v_desc,
    ats,
    dk,
    dk_strides,
    dv,
    dv_strides,
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
    """dK and dV of one block of 64 keys of one KV head, over all query heads of its group."""
    key_blocks = gl.cdiv(n_keys, _ROWS)
    program = gl.program_id(0)
    bundle = program // (key_blocks * head_bundle)
    inner = program % (key_blocks * head_bundle)
    width = gl.minimum(head_bundle, gl.num_programs(0) // key_blocks - bundle * head_bundle)
    index = bundle * head_bundle + inner % width
    start = (inner // width) * _ROWS
    groups = heads // group
    batch = index // groups
    group_head = index % groups
    blocks = gl.cdiv(n_queries, BLOCK)
    first = 0
    if CAUSAL:
        first = start // BLOCK
    blocks = blocks - first
    count = blocks * group

    dtype: gl.constexpr = q_desc.dtype
    k_tile = gl.allocate_shared_memory(dtype, [_ROWS, F], k_desc.layout)
    v_tile = gl.allocate_shared_memory(dtype, [_ROWS, DV], v_desc.layout)
    q_ring = gl.allocate_shared_memory(dtype, [STAGES, BLOCK, F], q_desc.layout)
    g_ring = gl.allocate_shared_memory(dtype, [STAGES, BLOCK, DV], g_desc.layout)
    PASS: gl.constexpr = gl.NVMMASharedLayout.get_default_for([_ROWS, BLOCK], dtype)
    p_ring = gl.allocate_shared_memory(dtype, [2, _ROWS, BLOCK], PASS)
    BARRIER: gl.constexpr = mbarrier.MBarrierLayout()
    full = gl.allocate_shared_memory(gl.int64, [1], BARRIER)
    q_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    g_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    q_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    g_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    p_full = gl.allocate_shared_memory(gl.int64, [2, 1], BARRIER)
    p_free = gl.allocate_shared_memory(gl.int64, [2, 1], BARRIER)
    mbarrier.init(full, count=1)
    for stage in gl.static_range(STAGES):
        mbarrier.init(q_full.index(stage), count=1)
        mbarrier.init(g_full.index(stage), count=1)
        mbarrier.init(q_free.index(stage), count=2)
        mbarrier.init(g_free.index(stage), count=2)
    for slot in gl.static_range(2):
        mbarrier.init(p_full.index(slot), count=1)
        mbarrier.init(p_free.index(slot), count=1)
    row_base = (batch * heads + group_head * group).to(gl.int64) * n_queries
    wide_batch = batch.to(gl.int64)
    wide_head = group_head.to(gl.int64)
    dk_base = wide_batch * dk_strides[0] + wide_head * dk_strides[1]
    dv_base = wide_batch * dv_strides[0] + wide_head * dv_strides[1]
    descs = (q_desc, g_desc, k_desc, v_desc)
    rings = (k_tile, v_tile, q_ring, g_ring, full, q_full, g_full, q_free, g_free)
    passing = (p_ring, p_full, p_free)
    extent = (row_base, start, n_queries, n_keys, first, blocks, count)
    to_keys = (dk, dk_base, dk_strides[2], deltas)
    to_values = (dv, dv_base, dv_strides[2], lse)
    gl.warp_specialize(
        [
            (_grad_keys, (rings, passing, to_keys, extent, scale, BLOCK, F, STAGES)),
            (_grad_values, (rings, passing, to_values, extent, scale, BLOCK, DV, STAGES, CAUSAL)),
            (
                _feed_keys,
                (
                    descs,
                    rings,
                    ats,
                    batch,
                    group_head,
                    group,
                    start,
                    first,
                    blocks,
                    count,
                    BLOCK,
                    STAGES,
                ),
            ),
        ],
        [4, 1],
        [240, 24],
    )
