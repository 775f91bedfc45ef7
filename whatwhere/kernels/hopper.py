"""Attention forward for Hopper, warp-specialised in Gluon: widths may differ between QK and V.

A block of 128 or 192 queries at a time: a producer warp streams K and V tiles through a ring of
shared memory with the bulk copy engine, two or three consumer warpgroups of 64 query rows each
multiply and take the softmax. The next product QK is issued before the current PV, so the tensor
cores work while the exponentials are computed. The tiles that must be masked come first and are
their own loop; which they are, `hopper_common.visits` says.

A persistent CTA (one per multiprocessor) takes block after block, and fetches the next one's tiles
while it writes the last one's output. Inputs are *features*, as the prep kernel writes them.
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
    block_of,
    fill,
    flag,
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

__all__ = ["forward"]

_ROWS = gl.constexpr(64)  # query rows of one consumer
_LN2 = gl.constexpr(0.6931471805599453)


@gluon.jit
def _produce(descs, rings, tasks, sight, FORM: gl.constexpr, MODE: gl.constexpr):
    q_desc, k_desc, v_desc = descs
    q_ring, k_ring, v_ring, _order = rings
    queries, _keys, heads, all_heads, group, bundle = tasks
    CONSUMERS: gl.constexpr = FORM[0]
    ROWS: gl.constexpr = CONSUMERS * _ROWS
    BLOCK: gl.constexpr = k_desc.block_type.shape[2]
    blocks = gl.cdiv(queries, ROWS)
    done = 0
    for turn in range(turns(all_heads * blocks, FORM[4])):
        batch, head, block = task(turn, all_heads, blocks, heads, bundle)
        where, count, _masked = visits(batch, block, tasks, sight, ROWS, BLOCK, MODE)
        for part in gl.static_range(CONSUMERS):
            row = (block * CONSUMERS + part) * _ROWS
            put(q_ring, turn * CONSUMERS + part, q_desc, batch, head, row)
        for step in range(count):
            column = block_of(step, where[0], where[1], where[2], where[3]) * BLOCK
            put(k_ring, done + step, k_desc, batch, head // group, column)
            if FORM[2]:
                # K's barrier of the step after says that this stage of V is free too.
                after = done + step + 1
                STAGES: gl.constexpr = k_ring[0].shape[0]
                mbarrier.wait(k_ring[2].index(after % STAGES), ((after // STAGES) & 1) ^ 1)
                fill(v_ring, done + step, v_desc, batch, head // group, column)
            else:
                put(v_ring, done + step, v_desc, batch, head // group, column)
        done += count


@gluon.jit
def _softmax(s, m, scale_log2, column, look, MODE: gl.constexpr, BIAS: gl.constexpr,
             MASK: gl.constexpr):  # fmt: skip
    """One tile of scores -> (weights, new row maximum, factor for what was summed before)."""
    s, factor = judge(s, scale_log2, column, look, MODE, BIAS, MASK)
    m_new = gl.maximum(m, gl.max(s, 1) * factor)
    # A row that has seen no key yet has maximum -inf, and -inf - -inf is NaN.
    base = gl.where(m_new == float("-inf"), 0.0, m_new) if MASK else m_new
    p = gl.exp2(s * factor - base[:, None])
    alpha = gl.exp2(m - base)
    return p, m_new, alpha


@gluon.jit
def _step(step, round, q, rings, state, where, scale_log2, look, part: gl.constexpr,
          FORM: gl.constexpr, MODE: gl.constexpr, BIAS: gl.constexpr,
          MASK: gl.constexpr):  # fmt: skip
    """QK of this tile and PV of the one before, in flight together."""
    _q_ring, k_ring, v_ring, order = rings
    done, passes = round
    p, o, m, l = state
    CONSUMERS: gl.constexpr = FORM[0]
    JOINT: gl.constexpr = FORM[2]
    PING_PONG: gl.constexpr = FORM[3]
    BLOCK: gl.constexpr = p.shape[1]
    DV: gl.constexpr = o.shape[1]
    zero = gl.zeros([_ROWS, BLOCK], gl.float32, accumulator(BLOCK))
    k = take(k_ring, done + step).permute((1, 0))
    if PING_PONG:
        FIRST: gl.constexpr = 1 if part == 0 else 0
        mbarrier.wait(order.index(part), ((passes + step) & 1) ^ FIRST)
    s_token = warpgroup_mma(q, k, zero, use_acc=False, is_async=True)
    # Carried in float32: 16-bit values that are carried get unpacked and packed again.
    p16 = gl.convert_layout(p.to(v_ring[0].dtype), operand(DV))
    o_token = warpgroup_mma(p16, stage(v_ring, done + step - 1), o, is_async=True)
    if PING_PONG:
        mbarrier.arrive(order.index((part + 1) % CONSUMERS), count=1)
    s = warpgroup_mma_wait(1, deps=[s_token])
    if not JOINT:
        release(k_ring, done + step)
    column = block_of(step, where[0], where[1], where[2], where[3]) * BLOCK
    p, m, alpha = _softmax(s, m, scale_log2, column, look, MODE, BIAS, MASK)
    l = l * alpha + gl.sum(p, 1)
    # V for the next step is waited for here because the assembler moves the softmax behind a wait
    # for products, which it is to hide, but not across a loop such as this wait is.
    take(v_ring, done + step)
    o, p16, p, alpha, l = warpgroup_mma_wait(0, deps=[o_token, p16, p, alpha, l])
    if JOINT:
        release(k_ring, done + step)
    else:
        release(v_ring, done + step - 1)
    o = o * gl.convert_layout(alpha, gl.SliceLayout(1, accumulator(DV)))[:, None]
    return p, o, m, l


@gluon.jit
def _attend(q, rings, round, where, count, masked, scale_log2, look, part: gl.constexpr,
            FORM: gl.constexpr, MODE: gl.constexpr, BIAS: gl.constexpr):  # fmt: skip
    """All tiles of one block of queries but the last PV -> weights, output, row maximum and sum."""
    _q_ring, k_ring, v_ring, _order = rings
    done, _passes = round
    BLOCK: gl.constexpr = k_ring[0].shape[1]
    DV: gl.constexpr = v_ring[0].shape[2]
    m = gl.full([_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, accumulator(BLOCK)))
    o = gl.zeros([_ROWS, DV], gl.float32, accumulator(DV))
    zero = gl.zeros([_ROWS, BLOCK], gl.float32, accumulator(BLOCK))
    k = take(k_ring, done).permute((1, 0))
    token = warpgroup_mma(q, k, zero, use_acc=False, is_async=True)
    s = warpgroup_mma_wait(0, deps=[token])
    release(k_ring, done)
    column = block_of(0, where[0], where[1], where[2], where[3]) * BLOCK
    p, m, _alpha = _softmax(s, m, scale_log2, column, look, MODE, BIAS, True)
    l = gl.sum(p, 1)
    take(v_ring, done)
    for step in range(1, masked):
        p, o, m, l = _step(
            step, round, q, rings, (p, o, m, l), where, scale_log2, look, part, FORM, MODE, BIAS,
            True,
        )  # fmt: skip
    for step in range(masked, count):
        p, o, m, l = _step(
            step, round, q, rings, (p, o, m, l), where, scale_log2, look, part, FORM, MODE, BIAS,
            False,
        )  # fmt: skip
    return p, o, m, l


@gluon.jit
def _finish(p, o, v_ring, last, JOINT: gl.constexpr):
    """The last PV."""
    p16 = gl.convert_layout(p.to(v_ring[0].dtype), operand(o.shape[1]))
    token = warpgroup_mma(p16, stage(v_ring, last), o, is_async=True)
    o, p16 = warpgroup_mma_wait(0, deps=[token, p16])
    if not JOINT:
        release(v_ring, last)
    return o


@gluon.jit
def _write(o, m, l, row, batch, head, tasks, target, WIDTH: gl.constexpr):
    """Divide and store; exp2(s - inf) is 0: a row that sees nothing adds nothing to a gradient."""
    queries, _keys, heads, _all_heads, _group, _bundle = tasks
    out, strides, lse = target
    O_LAYOUT: gl.constexpr = o.type.layout
    rows = row + gl.arange(0, _ROWS, l.type.layout)
    total = gl.where(l > 0.0, (m + gl.log2(l)) * _LN2, float("inf"))
    first = (batch * heads + head).to(gl.int64) * queries
    gl.store(lse + first + rows, total, mask=rows < queries)
    share = 1.0 / gl.where(l > 0.0, l, 1.0)
    o = o * gl.convert_layout(share, gl.SliceLayout(1, O_LAYOUT))[:, None]
    rows = row + gl.arange(0, _ROWS, gl.SliceLayout(1, O_LAYOUT))
    channels = gl.arange(0, o.shape[1], gl.SliceLayout(0, O_LAYOUT))
    base = batch.to(gl.int64) * strides[0] + head.to(gl.int64) * strides[1]
    at = out + base + rows.to(gl.int64)[:, None] * strides[2] + channels[None, :]
    inside = (rows < queries)[:, None] & (channels < WIDTH)[None, :]
    gl.store(at, o.to(out.dtype.element_ty), mask=inside)


@gluon.jit
def _consume(part: gl.constexpr, rings, tasks, sight, target, scale_log2, WIDTH: gl.constexpr,
             FORM: gl.constexpr, MODE: gl.constexpr, BIAS: gl.constexpr):  # fmt: skip
    q_ring, k_ring, v_ring, _order = rings
    queries, keys, heads, all_heads, _group, bundle = tasks
    q_place, q_step, k_place, k_step, _ranges, _ranges_step, slopes, window = sight
    CONSUMERS: gl.constexpr = FORM[0]
    HOLD_Q: gl.constexpr = FORM[1]
    ROWS: gl.constexpr = CONSUMERS * _ROWS
    BLOCK: gl.constexpr = k_ring[0].shape[1]
    blocks = gl.cdiv(queries, ROWS)
    done = 0
    for turn in range(turns(all_heads * blocks, FORM[4])):
        batch, head, block = task(turn, all_heads, blocks, heads, bundle)
        where, count, masked = visits(batch, block, tasks, sight, ROWS, BLOCK, MODE)
        row = (block * CONSUMERS + part) * _ROWS
        rows = row + gl.arange(0, _ROWS, gl.SliceLayout(1, accumulator(BLOCK)))
        i, of_i = stand(q_place, batch * q_step, queries, rows, -2, MODE[2])
        slope = 0.0
        if BIAS is not None:
            slope = gl.load(slopes + head) * (1.0 / _LN2)
        look = (i, of_i, k_place, batch * k_step, keys, slope, window)
        round = (done, done - turn - 1)
        q = take(q_ring, turn * CONSUMERS + part)
        if HOLD_Q:
            held = q.load(operand(BLOCK))
            release(q_ring, turn * CONSUMERS + part)
            p, o, m, l = _attend(
                held, rings, round, where, count, masked, scale_log2, look, part, FORM, MODE, BIAS
            )
        else:
            p, o, m, l = _attend(
                q, rings, round, where, count, masked, scale_log2, look, part, FORM, MODE, BIAS
            )
            release(q_ring, turn * CONSUMERS + part)
        o = _finish(p, o, v_ring, done + count - 1, FORM[2])
        _write(o, m, l, row, batch, head, tasks, target, WIDTH)
        done += count


_SIZES = [
    "q_step", "k_step", "ranges_step", "window", "queries", "keys", "heads", "all_heads", "group",
    "head_bundle", "scale_log2",
]  # fmt: skip


@gluon.jit(do_not_specialize=_SIZES)
def forward(
    q_desc,
    k_desc,
    v_desc,
    out,
    out_strides,
    lse,
    q_place,
    q_step,
    k_place,
    k_step,
    ranges,
    ranges_step,
    slopes,
    window,
    queries,
    keys,
    heads,
    all_heads,
    group,
    head_bundle,
    scale_log2,
    WIDTH: gl.constexpr,
    K_STAGES: gl.constexpr,
    V_STAGES: gl.constexpr,
    FORM: gl.constexpr,
    MODE: gl.constexpr,
    BIAS: gl.constexpr,
):
    """softmax(scale · q kᵀ + bias) v over the pairs seen, and its log-sum-exp.

    WIDTH: how many of v's channels there are (its tiles may be wider); all_heads = batch · heads.
    FORM: (CONSUMERS, HOLD_Q, JOINT, PING_PONG, PERSISTENT): how many consumers; keep Q in
    registers; free K together with the V before, at one barrier (as many stages of both);
    consumers issue their products in turn; a CTA takes blocks until there are no more.
    MODE: (CAUSAL, WINDOWED, PLACED).
    """
    CONSUMERS: gl.constexpr = FORM[0]
    rings = (
        ring(q_desc, CONSUMERS, 1),
        ring(k_desc, K_STAGES, CONSUMERS),
        ring(v_desc, V_STAGES, CONSUMERS),
        flag(CONSUMERS, 1),
    )
    tasks = (queries, keys, heads, all_heads, group, head_bundle)
    sight = (q_place, q_step, k_place, k_step, ranges, ranges_step, slopes, window)
    target = (out, out_strides, lse)
    descs = (q_desc, k_desc, v_desc)
    if CONSUMERS == 2:
        gl.warp_specialize(
            [
                (_consume, (0, rings, tasks, sight, target, scale_log2, WIDTH, FORM, MODE, BIAS)),
                (_consume, (1, rings, tasks, sight, target, scale_log2, WIDTH, FORM, MODE, BIAS)),
                (_produce, (descs, rings, tasks, sight, FORM, MODE)),
            ],
            [4, 1],
            [240, 24],
        )
    else:
        gl.warp_specialize(
            [
                (_consume, (0, rings, tasks, sight, target, scale_log2, WIDTH, FORM, MODE, BIAS)),
                (_consume, (1, rings, tasks, sight, target, scale_log2, WIDTH, FORM, MODE, BIAS)),
                (_consume, (2, rings, tasks, sight, target, scale_log2, WIDTH, FORM, MODE, BIAS)),
                (_produce, (descs, rings, tasks, sight, FORM, MODE)),
            ],
            [4, 4, 1],
            [160, 160, 24],
        )
