"""dK and dV on Hopper, deterministic, warp-specialised in Gluon: one block of 128 keys a CTA.

Two consumers own 64 keys each and stream Q and dO with their row statistics. For one block of
queries a consumer takes

    Pᵀ = exp(K Qᵀ · scale - lse),   dV += Pᵀ dO,   dSᵀ = Pᵀ (V dOᵀ - Δ),   dK += dSᵀ Q

with Pᵀ and dSᵀ as register operands: nothing is handed over, and one consumer multiplies while the
other takes exponentials. Features wider than 128 leave no room for this: `hopper_keys_wide`.

With `hopper_queries`, scores are computed twice: 11 units of work where one kernel with atomics
needs 8; no result depends on the order of blocks, no float32 dQ buffer is needed.
"""

import triton.experimental.gluon.language as gl
from triton.experimental import gluon
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from whatwhere.kernels.gluon_names import load_block
from whatwhere.kernels.hopper_common import (
    accumulator,
    block_of,
    fetch,
    flag,
    index_bounds,
    operand,
    release,
    ring,
    scheduled,
    seen,
    stand,
    take,
)

__all__ = ["SCALARS", "begin", "keys", "product", "stream", "weights", "write"]

_ROWS = gl.constexpr(64)
_LOG2E = gl.constexpr(1.4426950408889634)
#: Arguments whose values do not make another kernel.
SCALARS = [
    "q_step", "k_step", "ranges_step", "window", "n_queries", "n_keys", "heads", "group",
    "head_bundle", "line", "scale",
]  # fmt: skip


@gluon.jit
def begin(sight, n_queries, n_keys, heads, group, bundle, ROWS: gl.constexpr, BLOCK: gl.constexpr,
          MODE: gl.constexpr):  # fmt: skip
    """(batch, KV head, first key), `pairs.bounds` of its block, how many blocks, how many masked.

    At least one block, masked: keys that nobody sees get their zeros by the same code.
    """
    _q, _q_step, _k, _k_step, ranges, step, _slopes, window = sight
    blocks = gl.cdiv(n_keys, ROWS)
    # Rank 0 first: causal, the first keys are seen by the most queries.
    index, rank = scheduled(gl.program_id(0), gl.num_programs(0), blocks, bundle)
    batch = index // (heads // group)
    start = rank * ROWS
    if MODE[2]:
        at = ranges + batch * step + rank * 4
        low, full_low = gl.load(at), gl.load(at + 1)
        full_high, high = gl.load(at + 2), gl.load(at + 3)
    else:
        low, full_low, full_high, high = index_bounds(
            start, start + ROWS, n_queries, window, BLOCK, MODE[0], MODE[1], True
        )
    masked = high - full_high + full_low - low
    masked = gl.where(high > low, masked, 1)
    where = (low, full_low, full_high, high)
    return (batch, index % (heads // group), start), where, gl.maximum(high - low, 1), masked


@gluon.jit
def stream(descs, rings, batch, first, group, where, count, heads, line):
    """Producer: Q and dO, with log-sum-exp and Δ, of all blocks of all heads of the group.

    line: from one head's statistics to the next's, a multiple of 4 (16 bytes): elsewhere the copy
    engine can not begin.
    """
    q_desc, g_desc, lse_desc, delta_desc = descs
    q_ring, g_ring, lse_tiles, delta_tiles = rings
    q_tiles, q_full, q_free = q_ring
    g_tiles, g_full, g_free = g_ring
    STAGES: gl.constexpr = q_tiles.shape[0]
    BLOCK: gl.constexpr = q_tiles.shape[1]
    q_bytes: gl.constexpr = q_desc.block_type.nbytes + lse_desc.block_type.nbytes
    g_bytes: gl.constexpr = g_desc.block_type.nbytes + delta_desc.block_type.nbytes
    done = 0
    for head in range(first, first + group):
        statistics = (batch * heads + head) * line
        for inner in range(count):
            stage = done % STAGES
            phase = ((done // STAGES) & 1) ^ 1
            row = block_of(inner, where[0], where[1], where[2], where[3]) * BLOCK
            mbarrier.wait(q_free.index(stage), phase)
            ready = q_full.index(stage)
            mbarrier.expect(ready, q_bytes)
            fetch(q_desc, batch, head, row, ready, q_tiles.index(stage))
            at = [statistics + row]
            load_block(lse_desc, at, ready, lse_tiles.index(stage))
            mbarrier.wait(g_free.index(stage), phase)
            ready = g_full.index(stage)
            mbarrier.expect(ready, g_bytes)
            fetch(g_desc, batch, head, row, ready, g_tiles.index(stage))
            load_block(delta_desc, at, ready, delta_tiles.index(stage))
            done += 1


@gluon.jit
def weights(s, lse, inner, head, own, sight, batch, n_queries, where, masked, scale,
            MODE: gl.constexpr, BIAS: gl.constexpr):  # fmt: skip
    """Pᵀ of one block from its products: rows are keys, columns queries."""
    q_place, q_step, _k, _k_step, _ranges, _step, slopes, window = sight
    j, of_j = own
    COLUMN: gl.constexpr = gl.SliceLayout(0, s.type.layout)
    lse2 = lse * _LOG2E
    if BIAS is not None:
        first = block_of(inner, where[0], where[1], where[2], where[3]) * s.shape[1]
        index = first + gl.arange(0, s.shape[1], COLUMN)
        i, _of_i = stand(q_place, batch * q_step, n_queries, index, -2, MODE[2])
        slope = gl.load(slopes + head) * _LOG2E
        far = BIAS(i.to(gl.float32)[None, :], j.to(gl.float32)[:, None], slope, MODE[0])
        p = gl.exp2(s * (scale * _LOG2E) + far - lse2[None, :])
    else:
        p = gl.exp2(s * (scale * _LOG2E) - lse2[None, :])
    if inner < masked:
        first = block_of(inner, where[0], where[1], where[2], where[3]) * s.shape[1]
        index = first + gl.arange(0, s.shape[1], COLUMN)
        i, of_i = stand(q_place, batch * q_step, n_queries, index, -2, MODE[2])
        inside = seen(
            i[None, :], j[:, None], of_i[None, :], of_j[:, None], window, MODE[0], MODE[1], MODE[2]
        )
        # Past a head's end the statistics are the next head's.
        p = gl.where(inside & (index < n_queries)[None, :], p, 0.0)
    return p


@gluon.jit
def product(a, b):
    """a · bᵀ of a stationary tile and a streamed one, in flight."""
    COLUMNS: gl.constexpr = b.shape[0]
    zero = gl.zeros([_ROWS, COLUMNS], gl.float32, accumulator(COLUMNS))
    return warpgroup_mma(a, b.permute((1, 0)), zero, use_acc=False, is_async=True)


@gluon.jit
def write(x, at, strides, batch, head, start, n, WIDTH: gl.constexpr):
    """A gradient of 64 keys, as far as there are keys and channels."""
    # 64 bits for the jump: half a million tokens of 4,096 channels are more than 32 bits count.
    at += batch.to(gl.int64) * strides[0] + head.to(gl.int64) * strides[1]
    at += start.to(gl.int64) * strides[2]
    LAYOUT: gl.constexpr = x.type.layout
    rows = gl.arange(0, _ROWS, gl.SliceLayout(1, LAYOUT))
    channels = gl.arange(0, x.shape[1], gl.SliceLayout(0, LAYOUT))
    inside = (start + rows < n)[:, None]
    if x.shape[1] > WIDTH:
        inside = inside & (channels < WIDTH)[None, :]
    target = at + rows[:, None] * strides[2] + channels[None, :]
    gl.store(target, x.to(at.dtype.element_ty), mask=inside)


@gluon.jit
def _widened(x):
    """A 16-bit tile in float32. Opaque, so that its rounding stays one instruction for two.

    Left to itself, the compiler rounds each element alone, on the unit that does exponentials.
    """
    if x.dtype == gl.bfloat16:
        ASM: gl.constexpr = "shl.b32 $0, $2, 16; and.b32 $1, $2, 0xffff0000;"
    else:
        ASM: gl.constexpr = (
            "{.reg .b16 a, b; mov.b32 {a, b}, $2; cvt.f32.f16 $0, a; cvt.f32.f16 $1, b;}"
        )
    return gl.inline_asm_elementwise(ASM, "=r,=r,r", [x], gl.float32, is_pure=True, pack=2)


@gluon.jit
def _step(step, inner, head, stationary, rings, grads, own, sight, batch, n_queries, where, masked,
          scale, FORM: gl.constexpr, MODE: gl.constexpr, BIAS: gl.constexpr):  # fmt: skip
    """One block of queries into dK and dV."""
    k, v = stationary
    q_ring, g_ring, lse_tiles, delta_tiles = rings
    dk, dv = grads
    LATE: gl.constexpr = FORM[1]
    SPARE: gl.constexpr = FORM[2]
    COLUMN: gl.constexpr = gl.SliceLayout(0, accumulator(lse_tiles.shape[1]))
    at = step % lse_tiles.shape[0]
    q = take(q_ring, step)
    s = product(k, q)
    g = take(g_ring, step)
    lse = lse_tiles.index(at).load(COLUMN)
    if LATE:
        s = warpgroup_mma_wait(0, deps=[s])
    else:
        dp = product(v, g)
        s = warpgroup_mma_wait(1, deps=[s])
    p = weights(s, lse, inner, head, own, sight, batch, n_queries, where, masked, scale, MODE, BIAS)
    p16 = p.to(q.dtype)
    if SPARE:
        p = _widened(p16)
    p16 = gl.convert_layout(p16, operand(dv.shape[1]))
    if LATE:
        dp = product(v, g)
    dv = warpgroup_mma(p16, g, dv, is_async=True)
    delta = delta_tiles.index(at).load(COLUMN)
    dp = warpgroup_mma_wait(1, deps=[dp])
    ds = gl.convert_layout((p * (dp - delta[None, :])).to(q.dtype), operand(dk.shape[1]))
    dk = warpgroup_mma(ds, q, dk, is_async=True)
    dk, dv, ds, p16 = warpgroup_mma_wait(0, deps=[dk, dv, ds, p16])
    release(q_ring, step)
    release(g_ring, step)
    return dk, dv


@gluon.jit
def _consume(part: gl.constexpr, rings, tiles, full, target, sight, sizes, scale,
             WIDTHS: gl.constexpr, FORM: gl.constexpr, MODE: gl.constexpr,
             BIAS: gl.constexpr):  # fmt: skip
    k_tiles, v_tiles = tiles
    dk_at, dk_strides, dv_at, dv_strides = target
    n_queries, n_keys, heads, group, bundle, _line = sizes
    BLOCK: gl.constexpr = rings[2].shape[1]
    F: gl.constexpr = k_tiles.shape[2]
    DV: gl.constexpr = v_tiles.shape[2]
    HELD: gl.constexpr = FORM[0]
    of, where, count, masked = begin(
        sight, n_queries, n_keys, heads, group, bundle, 2 * _ROWS, BLOCK, MODE
    )
    batch, kv_head, start = of
    start += part * _ROWS
    rows = start + gl.arange(0, _ROWS, gl.SliceLayout(1, accumulator(BLOCK)))
    own = stand(sight[2], batch * sight[3], n_keys, rows, -1, MODE[2])
    mbarrier.wait(full, 0)
    k = k_tiles.index(part)
    v = v_tiles.index(part)
    if HELD > 0:
        k = k.load(operand(BLOCK))
    if HELD > 1:
        v = v.load(operand(BLOCK))
    grads = (
        gl.zeros([_ROWS, F], gl.float32, accumulator(F)),
        gl.zeros([_ROWS, DV], gl.float32, accumulator(DV)),
    )
    inner = 0
    head = kv_head * group
    for step in range(count * group):
        grads = _step(
            step, inner, head, (k, v), rings, grads, own, sight, batch, n_queries, where, masked,
            scale, FORM, MODE, BIAS,
        )  # fmt: skip
        inner += 1
        if inner == count:
            inner = 0
            head += 1
    dk, dv = grads
    write(dk * scale, dk_at, dk_strides, batch, kv_head, start, n_keys, WIDTHS[0])
    write(dv, dv_at, dv_strides, batch, kv_head, start, n_keys, WIDTHS[1])


@gluon.jit
def _produce(k_desc, v_desc, descs, rings, tiles, full, sight, sizes, MODE: gl.constexpr):
    k_tiles, v_tiles = tiles
    n_queries, n_keys, heads, group, bundle, line = sizes
    BLOCK: gl.constexpr = rings[2].shape[1]
    of, where, count, _masked = begin(
        sight, n_queries, n_keys, heads, group, bundle, 2 * _ROWS, BLOCK, MODE
    )
    batch, kv_head, start = of
    mbarrier.expect(full, 2 * k_desc.block_type.nbytes + 2 * v_desc.block_type.nbytes)
    for part in gl.static_range(2):
        fetch(k_desc, batch, kv_head, start + part * _ROWS, full, k_tiles.index(part))
        fetch(v_desc, batch, kv_head, start + part * _ROWS, full, v_tiles.index(part))
    stream(descs, rings, batch, kv_head * group, group, where, count, heads, line)


@gluon.jit(do_not_specialize=SCALARS)
def keys(q_desc, g_desc, k_desc, v_desc, lse_desc, delta_desc, dk, dk_strides, dv, dv_strides,
         q_place, q_step, k_place, k_step, ranges, ranges_step, slopes, window, n_queries, n_keys,
         heads, group, head_bundle, line, scale, WIDTHS: gl.constexpr, STAGES: gl.constexpr,
         FORM: gl.constexpr, MODE: gl.constexpr, BIAS: gl.constexpr):  # fmt: skip
    """dK and dV of one block of 128 keys of one KV head, over all query heads of its group.

    lse_desc and delta_desc: log-sum-exp and Δ as one vector each, `line` from head to head.
    WIDTHS: channels of k and of v that there are (tiles may be wider). FORM: HELD, how many of K
    and V are read into registers once (at 64 channels the products were wrong: not used there);
    LATE: dP is multiplied after the exponentials instead of under them; SPARE: dS is made from the
    rounded weights, which frees registers. MODE and BIAS as in `hopper.forward`.
    """
    BLOCK: gl.constexpr = q_desc.block_type.shape[2]
    q_ring = ring(q_desc, STAGES, 2)
    g_ring = ring(g_desc, STAGES, 2)
    F: gl.constexpr = q_ring[0].shape[2]
    DV: gl.constexpr = g_ring[0].shape[2]
    lse_tiles = gl.allocate_shared_memory(gl.float32, [STAGES, BLOCK], lse_desc.layout)
    delta_tiles = gl.allocate_shared_memory(gl.float32, [STAGES, BLOCK], delta_desc.layout)
    tiles = (
        gl.allocate_shared_memory(k_desc.dtype, [2, _ROWS, F], q_ring[0].type.layout),
        gl.allocate_shared_memory(v_desc.dtype, [2, _ROWS, DV], g_ring[0].type.layout),
    )
    full = flag(1, 1).index(0)
    rings = (q_ring, g_ring, lse_tiles, delta_tiles)
    target = (dk, dk_strides, dv, dv_strides)
    sight = (q_place, q_step, k_place, k_step, ranges, ranges_step, slopes, window)
    sizes = (n_queries, n_keys, heads, group, head_bundle, line)
    descs = (q_desc, g_desc, lse_desc, delta_desc)
    gl.warp_specialize(
        [
            (_consume, (0, rings, tiles, full, target, sight, sizes, scale, WIDTHS, FORM, MODE,
                        BIAS)),
            (_consume, (1, rings, tiles, full, target, sight, sizes, scale, WIDTHS, FORM, MODE,
                        BIAS)),
            (_produce, (k_desc, v_desc, descs, rings, tiles, full, sight, sizes, MODE)),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip
