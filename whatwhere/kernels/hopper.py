"""Attention forward for Hopper, warp-specialised in Gluon: widths may differ between QK and V.

One block of 128 queries per CTA: a producer warp streams K and V tiles through a ring of shared
memory with the bulk copy engine, two consumer warpgroups of 64 query rows each multiply and take
the softmax. The next product QK is issued before the current PV, so the tensor cores work while the
exponentials are computed. Tiles are visited from the diagonal downwards: the masked ones come
first and are their own loop.

Inputs are *features*, as the prep kernel writes them. A tensor is one matrix for the copy engine,
either (b·h·n, f) or (b·n, h·f); `at` = (rows of a batch, rows of a head, columns of a head) finds a
head in it, so neither order of storage is copied into the other.
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

__all__ = ["forward"]

_ROWS = gl.constexpr(64)  # query rows of one consumer


@gluon.jit
def _produce(
    descs,
    rings,
    corners,
    last,
    count,
    BLOCK: gl.constexpr,
    STAGES: gl.constexpr,
):
    q_desc, k_desc, v_desc = descs
    q_tile, k_ring, v_ring, q_full, k_full, k_free, v_full, v_free = rings
    q_row, q_column, k_row, k_column, v_row, v_column = corners
    mbarrier.expect(q_full, 2 * q_desc.block_type.nbytes)
    tma.async_copy_global_to_shared(q_desc, [q_row, q_column], q_full, q_tile.index(0))
    tma.async_copy_global_to_shared(q_desc, [q_row + _ROWS, q_column], q_full, q_tile.index(1))
    for step in range(count):
        stage = step % STAGES
        phase = (step // STAGES) & 1
        down = (last - step) * BLOCK
        mbarrier.wait(k_free.index(stage), phase ^ 1)
        full = k_full.index(stage)
        mbarrier.expect(full, k_desc.block_type.nbytes)
        at = [k_row + down, k_column]
        tma.async_copy_global_to_shared(k_desc, at, full, k_ring.index(stage))
        mbarrier.wait(v_free.index(stage), phase ^ 1)
        full = v_full.index(stage)
        mbarrier.expect(full, v_desc.block_type.nbytes)
        at = [v_row + down, v_column]
        tma.async_copy_global_to_shared(v_desc, at, full, v_ring.index(stage))


@gluon.jit
def _softmax(s, m, rows, column, keys, scale_log2, CAUSAL: gl.constexpr, MASK: gl.constexpr):
    """One tile of scores -> (weights, new row maximum, factor for what was summed before)."""
    if MASK:
        layout: gl.constexpr = s.type.layout
        columns = column + gl.arange(0, s.shape[1], gl.SliceLayout(0, layout))
        seen = (columns < keys)[None, :]
        if CAUSAL:
            seen = seen & (columns[None, :] <= rows[:, None])
        s = gl.where(seen, s, float("-inf"))
    m_new = gl.maximum(m, gl.max(s, 1) * scale_log2)
    # A row that has seen no key yet has maximum -inf, and -inf - -inf is NaN.
    base = gl.where(m_new == float("-inf"), 0.0, m_new) if MASK else m_new
    p = gl.exp2(s * scale_log2 - base[:, None])
    alpha = gl.exp2(m - base)
    return p, m_new, alpha


@gluon.jit
def _step(
    step,
    q,
    k_ring,
    v_ring,
    k_full,
    k_free,
    v_full,
    v_free,
    p,
    o,
    m,
    l,
    rows,
    last,
    keys,
    scale_log2,
    BLOCK: gl.constexpr,
    STAGES: gl.constexpr,
    CAUSAL: gl.constexpr,
    MASK: gl.constexpr,
    S_LAYOUT: gl.constexpr,
    O_LAYOUT: gl.constexpr,
):
    """QK of this tile and PV of the one before, in flight together."""
    stage = step % STAGES
    before = (step - 1) % STAGES
    mbarrier.wait(k_full.index(stage), (step // STAGES) & 1)
    zero = gl.zeros([_ROWS, BLOCK], gl.float32, S_LAYOUT)
    k = k_ring.index(stage).permute((1, 0))
    s_token = warpgroup_mma(q, k, zero, use_acc=False, is_async=True)
    mbarrier.wait(v_full.index(before), ((step - 1) // STAGES) & 1)
    o_token = warpgroup_mma(p, v_ring.index(before), o, is_async=True)
    s = warpgroup_mma_wait(1, deps=[s_token])
    mbarrier.arrive(k_free.index(stage))
    column = (last - step) * BLOCK
    weights, m, alpha = _softmax(s, m, rows, column, keys, scale_log2, CAUSAL, MASK)
    l = l * alpha + gl.sum(weights, 1)
    o, p = warpgroup_mma_wait(0, deps=[o_token, p])
    mbarrier.arrive(v_free.index(before))
    o = o * gl.convert_layout(alpha, gl.SliceLayout(1, O_LAYOUT))[:, None]
    p = gl.convert_layout(weights.to(p.dtype), p.type.layout)
    return p, o, m, l


@gluon.jit
def _consume(
    part: gl.constexpr,
    rings,
    place,
    scale_log2,
    BLOCK: gl.constexpr,
    DV: gl.constexpr,
    STAGES: gl.constexpr,
    CAUSAL: gl.constexpr,
):
    q_tile, k_ring, v_ring, q_full, k_full, k_free, v_full, v_free = rings
    out, lse, out_base, out_stride, lse_base, start, queries, keys, last, masked, count = place
    S_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK, 16])
    O_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, DV, 16])
    P_LAYOUT: gl.constexpr = gl.DotOperandLayout(0, O_LAYOUT, 2)
    q = q_tile.index(part)
    rows = start + part * _ROWS + gl.arange(0, _ROWS, gl.SliceLayout(1, S_LAYOUT))
    m = gl.full([_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, S_LAYOUT))
    o = gl.zeros([_ROWS, DV], gl.float32, O_LAYOUT)

    mbarrier.wait(q_full, 0)
    mbarrier.wait(k_full.index(0), 0)
    zero = gl.zeros([_ROWS, BLOCK], gl.float32, S_LAYOUT)
    first = k_ring.index(0).permute((1, 0))
    token = warpgroup_mma(q, first, zero, use_acc=False, is_async=True)
    s = warpgroup_mma_wait(0, deps=[token])
    mbarrier.arrive(k_free.index(0))
    weights, m, _ = _softmax(s, m, rows, last * BLOCK, keys, scale_log2, CAUSAL, True)
    l = gl.sum(weights, 1)
    p = gl.convert_layout(weights.to(v_ring.dtype), P_LAYOUT)

    for step in range(1, masked):
        p, o, m, l = _step(
            step, q, k_ring, v_ring, k_full, k_free, v_full, v_free, p, o, m, l, rows, last,
            keys, scale_log2, BLOCK, STAGES, CAUSAL, True, S_LAYOUT, O_LAYOUT,
        )  # fmt: skip
    for step in range(masked, count):
        p, o, m, l = _step(
            step, q, k_ring, v_ring, k_full, k_free, v_full, v_free, p, o, m, l, rows, last,
            keys, scale_log2, BLOCK, STAGES, CAUSAL, False, S_LAYOUT, O_LAYOUT,
        )  # fmt: skip

    tail = count - 1
    mbarrier.wait(v_full.index(tail % STAGES), (tail // STAGES) & 1)
    token = warpgroup_mma(p, v_ring.index(tail % STAGES), o, is_async=True)
    o, p = warpgroup_mma_wait(0, deps=[token, p])

    whole = gl.where(l > 0.0, l, 1.0)
    inside = rows < queries
    gl.store(lse + lse_base + rows, (m + gl.log2(whole)) * 0.6931471805599453, mask=inside)
    o = o / gl.convert_layout(whole, gl.SliceLayout(1, O_LAYOUT))[:, None]
    o_rows = start + part * _ROWS + gl.arange(0, _ROWS, gl.SliceLayout(1, O_LAYOUT))
    channels = gl.arange(0, DV, gl.SliceLayout(0, O_LAYOUT))
    target = out + out_base + o_rows[:, None] * out_stride + channels[None, :]
    gl.store(target, o.to(out.dtype.element_ty), mask=(o_rows < queries)[:, None])


@gluon.jit
def forward(
    q_desc,
    k_desc,
    v_desc,
    q_at,
    k_at,
    v_at,
    out,
    out_strides,
    lse,
    queries,
    keys,
    heads,
    group,
    head_bundle,
    scale_log2,
    BLOCK: gl.constexpr,
    F: gl.constexpr,
    DV: gl.constexpr,
    STAGES: gl.constexpr,
    CAUSAL: gl.constexpr,
):
    """softmax(scale · q kᵀ) v and its log-sum-exp for one block of 128 queries of one head.

    Heads come in bundles whose K and V fit into the L2 cache; within a bundle the longest blocks
    start first, so that the short ones fill the gaps at the end.
    """
    blocks = gl.cdiv(queries, 2 * _ROWS)
    index, rank = scheduled(blocks, head_bundle)
    block = blocks - 1 - rank
    batch = index // heads
    head = index % heads
    start = block * 2 * _ROWS

    count = gl.cdiv(keys, BLOCK)
    if CAUSAL:
        count = gl.minimum(count, gl.cdiv(start + 2 * _ROWS, BLOCK))
        masked = gl.minimum(count, count - start // BLOCK)
    else:
        masked = 1
    last = count - 1

    dtype: gl.constexpr = q_desc.dtype
    q_tile = gl.allocate_shared_memory(dtype, [2, _ROWS, F], q_desc.layout)
    k_ring = gl.allocate_shared_memory(dtype, [STAGES, BLOCK, F], k_desc.layout)
    v_ring = gl.allocate_shared_memory(dtype, [STAGES, BLOCK, DV], v_desc.layout)
    BARRIER: gl.constexpr = mbarrier.MBarrierLayout()
    q_full = gl.allocate_shared_memory(gl.int64, [1], BARRIER)
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    mbarrier.init(q_full, count=1)
    for stage in gl.static_range(STAGES):
        mbarrier.init(k_full.index(stage), count=1)
        mbarrier.init(k_free.index(stage), count=2)
        mbarrier.init(v_full.index(stage), count=1)
        mbarrier.init(v_free.index(stage), count=2)

    q_row, q_column = origin(q_at, batch, head)
    k_row, k_column = origin(k_at, batch, head // group)
    v_row, v_column = origin(v_at, batch, head // group)
    out_base = batch.to(gl.int64) * out_strides[0] + head.to(gl.int64) * out_strides[1]
    lse_base = (batch * heads + head).to(gl.int64) * queries
    rings = (q_tile, k_ring, v_ring, q_full, k_full, k_free, v_full, v_free)
    place = (
        out, lse, out_base, out_strides[2], lse_base, start, queries, keys, last, masked, count
    )  # fmt: skip
    corners = (q_row + start, q_column, k_row, k_column, v_row, v_column)
    descs = (q_desc, k_desc, v_desc)
    gl.warp_specialize(
        [
            (_consume, (0, rings, place, scale_log2, BLOCK, DV, STAGES, CAUSAL)),
            (_consume, (1, rings, place, scale_log2, BLOCK, DV, STAGES, CAUSAL)),
            (_produce, (descs, rings, corners, last, count, BLOCK, STAGES)),
        ],
        [4, 1],
        [240, 24],
    )
