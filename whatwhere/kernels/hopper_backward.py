"""Attention backward for Hopper in two deterministic kernels, warp-specialised in Gluon.

`queries`: one block of 128 queries a CTA, two consumers of 64 rows, K and V streamed; dQ stays in
registers. `keys`: one block of 64 keys a CTA, Q and dO streamed; one warpgroup owns the scores and
dV, the other dP and dK, so that 256-wide features (PoPE at d = 128) fit into registers. Each does
half of the matrix work. Weights pass from the first to the second through shared memory.

Recomputing scores twice costs 11 units where one kernel with atomics needs 8; no result depends on
the order of blocks, no float32 dQ buffer is needed. Inputs are features, as in `hopper.forward`.
"""

import triton
import triton.experimental.gluon.language as gl
import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

__all__ = ["delta", "keys", "queries"]

_ROWS = gl.constexpr(64)
_LOG2E = gl.constexpr(1.4426950408889634)


@triton.jit
def delta(out, grad, result, rows, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Row sums of out · grad, float32: what the softmax's gradient subtracts."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.arange(0, WIDTH)
    place = row[:, None].to(tl.int64) * WIDTH + channel[None, :]
    inside = (row < rows)[:, None]
    a = tl.load(out + place, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(result + row, tl.sum(a * b, 1), mask=row < rows)


@gluon.jit
def _feed_queries(
    descs, rings, q_row, kv_row, last, count, BLOCK: gl.constexpr, STAGES: gl.constexpr
):
    q_desc, g_desc, k_desc, v_desc = descs
    q_tile, g_tile, k_ring, v_ring, full, k_full, v_full, k_free, v_free = rings
    mbarrier.expect(full, 2 * q_desc.block_type.nbytes + 2 * g_desc.block_type.nbytes)
    for part in gl.static_range(2):
        row = q_row + part * _ROWS
        tma.async_copy_global_to_shared(q_desc, [row, 0], full, q_tile.index(part))
        tma.async_copy_global_to_shared(g_desc, [row, 0], full, g_tile.index(part))
    for step in range(count):
        stage = step % STAGES
        phase = (step // STAGES) & 1
        row = kv_row + (last - step) * BLOCK
        mbarrier.wait(k_free.index(stage), phase ^ 1)
        mbarrier.expect(k_full.index(stage), k_desc.block_type.nbytes)
        tma.async_copy_global_to_shared(k_desc, [row, 0], k_full.index(stage), k_ring.index(stage))
        mbarrier.wait(v_free.index(stage), phase ^ 1)
        mbarrier.expect(v_full.index(stage), v_desc.block_type.nbytes)
        tma.async_copy_global_to_shared(v_desc, [row, 0], v_full.index(stage), v_ring.index(stage))


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
    dq, lse, deltas, row_base, start, n_queries, n_keys, last, masked, count = place
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
    target = dq + (row_base + out_rows)[:, None] * F + channels[None, :]
    gl.store(target, (acc * scale).to(dq.dtype.element_ty), mask=(out_rows < n_queries)[:, None])


@gluon.jit
def queries(
    q_desc,
    g_desc,
    k_desc,
    v_desc,
    dq,
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
    program = gl.program_id(0)
    bundle = program // (blocks * head_bundle)
    inner = program % (blocks * head_bundle)
    width = gl.minimum(head_bundle, gl.num_programs(0) // blocks - bundle * head_bundle)
    index = bundle * head_bundle + inner % width
    start = (blocks - 1 - inner // width) * 2 * _ROWS
    kv_row = ((index // heads) * (heads // group) + (index % heads) // group) * n_keys
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
    q_row = index * n_queries + start
    descs = (q_desc, g_desc, k_desc, v_desc)
    rings = (q_tile, g_tile, k_ring, v_ring, full, k_full, v_full, k_free, v_free)
    place = (dq, lse, deltas, row_base, start, n_queries, n_keys, last, masked, count)
    gl.warp_specialize(
        [
            (_grad_queries, (0, rings, place, scale, BLOCK, F, STAGES, CAUSAL)),
            (_grad_queries, (1, rings, place, scale, BLOCK, F, STAGES, CAUSAL)),
            (_feed_queries, (descs, rings, q_row, kv_row, last, count, BLOCK, STAGES)),
        ],
        [4, 1],
        [240, 24],
    )


@gluon.jit
def _feed_keys(
    descs, rings, kv_row, q_row, n_queries, first, blocks, count, BLOCK: gl.constexpr,
    STAGES: gl.constexpr,
):  # fmt: skip
    q_desc, g_desc, k_desc, v_desc = descs
    k_tile, v_tile, q_ring, g_ring, full, q_full, g_full, q_free, g_free = rings
    mbarrier.expect(full, k_desc.block_type.nbytes + v_desc.block_type.nbytes)
    tma.async_copy_global_to_shared(k_desc, [kv_row, 0], full, k_tile)
    tma.async_copy_global_to_shared(v_desc, [kv_row, 0], full, v_tile)
    for step in range(count):
        stage = step % STAGES
        phase = (step // STAGES) & 1
        row = q_row + (step // blocks) * n_queries + (first + step % blocks) * BLOCK
        mbarrier.wait(q_free.index(stage), phase ^ 1)
        mbarrier.expect(q_full.index(stage), q_desc.block_type.nbytes)
        tma.async_copy_global_to_shared(q_desc, [row, 0], q_full.index(stage), q_ring.index(stage))
        mbarrier.wait(g_free.index(stage), phase ^ 1)
        mbarrier.expect(g_full.index(stage), g_desc.block_type.nbytes)
        tma.async_copy_global_to_shared(g_desc, [row, 0], g_full.index(stage), g_ring.index(stage))


@gluon.jit
def _grad_values(
    rings,
    passing,
    place,
    scale,
    BLOCK: gl.constexpr,
    DV: gl.constexpr,
    STAGES: gl.constexpr,
    CAUSAL: gl.constexpr,
):
    """The first warpgroup: Pᵀ = exp(K Qᵀ - lse), handed over; dV = Σ Pᵀ dO."""
    k_tile, _v_tile, q_ring, g_ring, full, q_full, g_full, q_free, g_free = rings
    p_ring, p_full, p_free = passing
    dv, _dk, lse, _deltas, row_base, kv_base, start, n_queries, n_keys, first, blocks, count = place
    S_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK, 16])
    O_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, DV, 16])
    P_LAYOUT: gl.constexpr = gl.DotOperandLayout(0, O_LAYOUT, 2)
    rows = start + gl.arange(0, _ROWS, gl.SliceLayout(1, S_LAYOUT))
    acc = gl.zeros([_ROWS, DV], gl.float32, O_LAYOUT)
    zero = gl.zeros([_ROWS, BLOCK], gl.float32, S_LAYOUT)
    scale_log2 = scale * _LOG2E
    mbarrier.wait(full, 0)
    for step in range(count):
        stage = step % STAGES
        phase = (step // STAGES) & 1
        column = (first + step % blocks) * BLOCK
        columns = column + gl.arange(0, BLOCK, gl.SliceLayout(0, S_LAYOUT))
        inside = columns < n_queries
        at = lse + row_base + (step // blocks) * n_queries + columns
        # exp2(s - inf) is 0: rows past the end add nothing.
        column_lse = gl.load(at, mask=inside, other=float("inf")) * _LOG2E
        mbarrier.wait(q_full.index(stage), phase)
        q_t = q_ring.index(stage).permute((1, 0))
        token = warpgroup_mma(k_tile, q_t, zero, use_acc=False, is_async=True)
        s = warpgroup_mma_wait(0, deps=[token])
        mbarrier.arrive(q_free.index(stage))
        p = gl.exp2(s * scale_log2 - column_lse[None, :])
        if CAUSAL and column < start + _ROWS:
            p = gl.where(rows[:, None] <= columns[None, :], p, 0.0)
        p16 = p.to(q_ring.dtype)
        slot = step % 2
        turn = (step // 2) & 1
        mbarrier.wait(p_free.index(slot), turn ^ 1)
        p_ring.index(slot).store(p16)
        mbarrier.arrive(p_full.index(slot))
        mbarrier.wait(g_full.index(stage), phase)
        operand = gl.convert_layout(p16, P_LAYOUT)
        token = warpgroup_mma(operand, g_ring.index(stage), acc, is_async=True)
        acc, operand = warpgroup_mma_wait(0, deps=[token, operand])
        mbarrier.arrive(g_free.index(stage))
    out_rows = start + gl.arange(0, _ROWS, gl.SliceLayout(1, O_LAYOUT))
    channels = gl.arange(0, DV, gl.SliceLayout(0, O_LAYOUT))
    target = dv + (kv_base + out_rows)[:, None] * DV + channels[None, :]
    gl.store(target, acc.to(dv.dtype.element_ty), mask=(out_rows < n_keys)[:, None])


@gluon.jit
def _grad_keys(
    rings,
    passing,
    place,
    scale,
    BLOCK: gl.constexpr,
    F: gl.constexpr,
    STAGES: gl.constexpr,
):
    """The second warpgroup: dPᵀ = V dOᵀ, dSᵀ = Pᵀ (dPᵀ - Δ); dK = Σ dSᵀ Q."""
    _k_tile, v_tile, q_ring, g_ring, full, q_full, g_full, q_free, g_free = rings
    p_ring, p_full, p_free = passing
    _dv, dk, _lse, deltas, row_base, kv_base, start, n_queries, n_keys, first, blocks, count = place
    S_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK, 16])
    O_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, F, 16])
    P_LAYOUT: gl.constexpr = gl.DotOperandLayout(0, O_LAYOUT, 2)
    acc = gl.zeros([_ROWS, F], gl.float32, O_LAYOUT)
    zero = gl.zeros([_ROWS, BLOCK], gl.float32, S_LAYOUT)
    mbarrier.wait(full, 0)
    for step in range(count):
        stage = step % STAGES
        phase = (step // STAGES) & 1
        columns = (first + step % blocks) * BLOCK
        columns = columns + gl.arange(0, BLOCK, gl.SliceLayout(0, S_LAYOUT))
        at = deltas + row_base + (step // blocks) * n_queries + columns
        column_delta = gl.load(at, mask=columns < n_queries, other=0.0)
        mbarrier.wait(g_full.index(stage), phase)
        g_t = g_ring.index(stage).permute((1, 0))
        token = warpgroup_mma(v_tile, g_t, zero, use_acc=False, is_async=True)
        slot = step % 2
        mbarrier.wait(p_full.index(slot), (step // 2) & 1)
        p = p_ring.index(slot).load(S_LAYOUT).to(gl.float32)
        mbarrier.arrive(p_free.index(slot))
        dp = warpgroup_mma_wait(0, deps=[token])
        mbarrier.arrive(g_free.index(stage))
        ds = (p * (dp - column_delta[None, :])).to(q_ring.dtype)
        ds = gl.convert_layout(ds, P_LAYOUT)
        mbarrier.wait(q_full.index(stage), phase)
        token = warpgroup_mma(ds, q_ring.index(stage), acc, is_async=True)
        acc, ds = warpgroup_mma_wait(0, deps=[token, ds])
        mbarrier.arrive(q_free.index(stage))
    out_rows = start + gl.arange(0, _ROWS, gl.SliceLayout(1, O_LAYOUT))
    channels = gl.arange(0, F, gl.SliceLayout(0, O_LAYOUT))
    target = dk + (kv_base + out_rows)[:, None] * F + channels[None, :]
    gl.store(target, (acc * scale).to(dk.dtype.element_ty), mask=(out_rows < n_keys)[:, None])


@gluon.jit
def keys(
    q_desc,
    g_desc,
    k_desc,
    v_desc,
    dk,
    dv,
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
    head = (index // groups) * heads + (index % groups) * group
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
    row_base = head.to(gl.int64) * n_queries
    kv_base = index.to(gl.int64) * n_keys
    descs = (q_desc, g_desc, k_desc, v_desc)
    rings = (k_tile, v_tile, q_ring, g_ring, full, q_full, g_full, q_free, g_free)
    passing = (p_ring, p_full, p_free)
    place = (
        dv, dk, lse, deltas, row_base, kv_base, start, n_queries, n_keys, first, blocks, count
    )  # fmt: skip
    kv_row = index * n_keys + start
    q_row = head * n_queries
    gl.warp_specialize(
        [
            (_grad_keys, (rings, passing, place, scale, BLOCK, F, STAGES)),
            (_grad_values, (rings, passing, place, scale, BLOCK, DV, STAGES, CAUSAL)),
            (
                _feed_keys,
                (descs, rings, kv_row, q_row, n_queries, first, blocks, count, BLOCK, STAGES),
            ),
        ],
        [4, 1],
        [240, 24],
    )
