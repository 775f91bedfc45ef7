"""Decoding with the operands where the tensor cores want them: the fast path of `decode`.

The same sum as `decode.partial` (its page says what a score is), for keys whose positions follow
one another. What differs is where things lie:

* Scores are computed transposed, keys × queries: 16 keys are a warp's rows, and the queries of a
  KV head, 4 or 8 of them, are the 8 columns of one instruction instead of 4 rows among 16.
* A key goes from shared memory to registers as the operand that the multiplication wants, is
  multiplied there by the table of cosines and sines, which has the same layout, and is never
  written back.
* Every warp owns 16 keys of a block and a softmax of its own; they meet at the end of a program.
* The query is turned to the next block while this one is multiplied, its real rows only, each
  angle once a program: angles are 64-bit integers and go from block to block by one addition.

Masks are ranges of indices: causality, windows, lengths and left padding each move an end.
"""

import triton.experimental.gluon.language as gl
from triton.experimental import gluon
from triton.experimental.gluon.language.nvidia.ampere import async_copy, mma_v2

from whatwhere.kernels.decode_turning import cosine_sine, features, query, turned
from whatwhere.kernels.gluon_names import load_rows, together, viewed

__all__ = ["partial"]

_LOG2_E = gl.constexpr(1.4426950408889634)
_LEAST = gl.constexpr(-1e30)  # finite: the difference of two infinities is NaN


@gluon.jit
def _copy(smem, at, row, end, whole: gl.constexpr):
    """Start copying a tile, 16 bytes a thread at a time; rows from `end` on become zeros."""
    smem = smem.reshape(at.shape)
    if whole:
        load_rows(smem, at)
    else:
        load_rows(smem, at, row < end)


@gluon.jit
def _places(W: gl.constexpr, WIDTH: gl.constexpr, ROW: gl.constexpr):
    """Rows and offsets of a tile, in three axes: the first counts the copies of one thread.

    It lies in registers alone, so that what it adds to an address is a number in the instruction.
    """
    EACH: gl.constexpr = W * 256 // WIDTH
    COPIES: gl.constexpr = 16 * W // EACH
    layout: gl.constexpr = gl.BlockedLayout(
        [COPIES, 1, 8], [1, 256 // WIDTH, WIDTH // 8], [1, W, 1], [2, 1, 0]
    )
    copy = gl.arange(0, COPIES, gl.SliceLayout(1, gl.SliceLayout(2, layout)))[:, None, None]
    row = gl.arange(0, EACH, gl.SliceLayout(0, gl.SliceLayout(2, layout)))[None, :, None]
    column = gl.arange(0, WIDTH, gl.SliceLayout(0, gl.SliceLayout(1, layout)))[None, None, :]
    return copy * EACH + row, row * ROW + column, copy * (EACH * ROW)


@gluon.jit
def _fetch(k_smem, v_smem, k, v, at, end, table, page, K_ROW: gl.constexpr, V_ROW: gl.constexpr):
    """Start copying the block of keys and values that begins at index `at`."""
    k_pointer, k_step, row_k, k_more = k
    v_pointer, v_step, row_v, v_more = v
    within = at
    if table is not None:
        # Behind the end nothing is read: any page will do.
        number = gl.load(table + gl.minimum(at, end - 1) // page).to(gl.int64)
        k_pointer, v_pointer = k_pointer + number * k_step, v_pointer + number * v_step
        within = at % page
    k_at = k_pointer + within.to(gl.int64) * K_ROW + k_more
    v_at = v_pointer + within.to(gl.int64) * V_ROW + v_more
    if at + k_smem.shape[0] <= end:
        _copy(k_smem, k_at, row_k, end - at, True)
        _copy(v_smem, v_at, row_v, end - at, True)
    else:
        _copy(k_smem, k_at, row_k, end - at, False)
        _copy(v_smem, v_at, row_v, end - at, False)
    async_copy.commit_group()


@gluon.jit
def _transposed(weights, layout: gl.constexpr):
    """Weights as a product leaves them, as the operand of the next: 8 x 8 tiles turned in place."""
    W: gl.constexpr = weights.shape[0]
    R: gl.constexpr = weights.shape[2]
    tiles = gl.inline_asm_elementwise(
        "movmatrix.sync.aligned.m8n8.trans.b16 $0, $1;", "=r,r", [weights], weights.dtype,
        is_pure=True, pack=2)  # fmt: skip
    tiles = tiles.reshape([W, 2, 8, R // 8, 8]).permute((0, 1, 4, 3, 2)).reshape([W, 16, R])
    return gl.convert_layout(tiles, layout)


@gluon.jit(do_not_specialize=["n", "group", "queries", "kv_heads", "splits", "query_step",
                              "valid_step", "table_step", "temperature_step", "page", "window",
                              "ahead", "direction"])  # fmt: skip
def partial(q, k, v, out, lse, query_positions, firsts, valid, lengths, table, turns, offset,
            temperature, slopes, n, group, queries, kv_heads, splits, query_step, valid_step,
            table_step, temperature_step, page, window, ahead, direction, scale, amplitude,
            QUERY: gl.constexpr, KEY: gl.constexpr, PAIRED: gl.constexpr,
            INTERLEAVED: gl.constexpr, F: gl.constexpr, D: gl.constexpr, DV: gl.constexpr,
            RR: gl.constexpr, K_ROW: gl.constexpr, V_ROW: gl.constexpr, STAGES: gl.constexpr,
            KIND: gl.constexpr, WARPS: gl.constexpr):  # fmt: skip
    """Attention of every row over one range of keys: normalised output and base-2 log-sum-exp.

    q, k, v are (pointer, stride of batch or page, of head, of token); out (b, h, nq, splits, dv)
    and lse (b, h, nq, splits) float32; firsts (b,) int64, the position of each row's first key,
    None for 0; the others as in `decode.partial`. RR ≥ group · queries rows, a power of two.
    """
    W: gl.constexpr = WARPS
    KEYS: gl.constexpr = 16 * W
    R: gl.constexpr = RR if RR > 8 else 8
    flat: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [W, 1], [16, 8])
    deep: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [W, 1, 1], [1, 16, 8])
    key_layout: gl.constexpr = gl.DotOperandLayout(0, flat, 2)
    query_layout: gl.constexpr = gl.DotOperandLayout(1, flat, 2)
    value_layout: gl.constexpr = gl.DotOperandLayout(0, deep, 2)
    weight_layout: gl.constexpr = gl.DotOperandLayout(1, deep, 2)
    WC: gl.constexpr = D // 64
    turning_layout: gl.constexpr = gl.BlockedLayout([1, 2], [1, 32], [W // WC, WC], [1, 0])
    swizzled: gl.constexpr = gl.SwizzledSharedLayout(8, 1, 8, [1, 0])

    program = gl.program_id(0)
    split, rest = program % splits, program // splits
    kv_head, batch = rest % kv_heads, rest // kv_heads
    first = gl.to_tensor(0).to(gl.int64)
    if firsts is not None:
        first = gl.load(firsts + batch)

    # Rows, as the query is turned in and as scores are masked in. Indices of keys from here on:
    # a row at index i sees those in [low, high).
    row_layout: gl.constexpr = gl.SliceLayout(1, turning_layout)
    column = gl.arange(0, RR, row_layout)
    row = gl.minimum(column // group, queries - 1)
    head = kv_head * group + column % group
    i = gl.load(query_positions + batch.to(gl.int64) * query_step + row) - first
    base = gl.min(i, 0)
    latest = gl.max(i, 0)

    least = gl.maximum(-first, 0)
    most_keys = gl.to_tensor(n).to(gl.int64)
    if lengths is not None:
        most_keys = gl.minimum(most_keys, gl.load(lengths + batch).to(gl.int64))
    stop = gl.maximum(gl.minimum(latest + ahead, most_keys), 0).to(gl.int32)
    start = gl.minimum(gl.maximum(base - window + 1, least), stop.to(gl.int64)).to(gl.int32)
    # Equal shares, whole blocks; the last of a program ends where its keys end.
    start = start // KEYS
    share = gl.cdiv(gl.cdiv(stop, KEYS) - start, splits)
    begin = (start + split * share) * KEYS
    end = gl.minimum(begin + share * KEYS, stop)
    blocks = gl.cdiv(gl.maximum(end - begin, 0), KEYS)

    score_rows: gl.constexpr = gl.SliceLayout(0, flat)
    columns = gl.arange(0, R, score_rows)
    rows = gl.minimum(columns // group, queries - 1)
    own = gl.load(query_positions + batch.to(gl.int64) * query_step + rows) - first
    high = gl.maximum(gl.minimum(own + ahead, end.to(gl.int64)), 0).to(gl.int32)
    low = gl.minimum(gl.maximum(own - window + 1, least), end.to(gl.int64)).to(gl.int32)
    if slopes is not None:
        heads = kv_head * group + columns % group
        slope = gl.load(slopes + heads).to(gl.float32) * _LOG2_E
        place = own.to(gl.float32)

    # The query, and the turn of every channel.
    CHANNELS: gl.constexpr = 2 * F if PAIRED else F
    channel = gl.arange(0, D, gl.SliceLayout(0, turning_layout))
    turning = channel < CHANNELS
    turn = channel.to(gl.int64) * 0
    if F > 0:
        index = channel
        if INTERLEAVED:
            index = channel // 2
        elif PAIRED:
            index = gl.where(channel < F, channel, channel - F)
        turn = gl.load(turns + index, turning, other=0) * direction
    factor = gl.full([RR], 0.0, gl.float32, row_layout) + scale * _LOG2_E
    if temperature is not None:
        factor *= gl.load(temperature + batch.to(gl.int64) * temperature_step + row)
    a, b = query(q, head, row, batch, (i - base)[:, None] * turn[None, :], offset, factor,
                  amplitude, channel, turning, QUERY, PAIRED, INTERLEAVED, F, D)  # fmt: skip

    # The table: cosines and sines of the keys of a block, counted from its first.
    if F > 0:
        key = gl.arange(0, KEYS, gl.SliceLayout(1, key_layout)).to(gl.int64)
        wide = gl.arange(0, D, gl.SliceLayout(0, key_layout))
        which = wide
        if INTERLEAVED:
            which = wide // 2
        elif PAIRED:
            which = gl.where(wide < F, wide, wide - F)
        speed = gl.load(turns + which, wide < CHANNELS, other=0) * direction
        cosine, sine = cosine_sine(key[:, None] * speed[None, :])
        cosine, sine = cosine.to(KIND), sine.to(KIND)

    k_smem = gl.allocate_shared_memory(k[0].dtype.element_ty, [STAGES, KEYS, D], swizzled)
    v_smem = gl.allocate_shared_memory(v[0].dtype.element_ty, [STAGES, KEYS, DV], swizzled)
    even_smem = gl.allocate_shared_memory(KIND, [2, R, D], swizzled)
    odd_smem = gl.allocate_shared_memory(KIND, [2, R, D], swizzled)
    # The same memory in pieces of RR rows: those behind them are no one's, whatever they hold.
    SLOT: gl.constexpr = R // RR
    even_rows = viewed(even_smem, KIND, [2 * SLOT, RR, D], swizzled)
    odd_rows = viewed(odd_smem, KIND, [2 * SLOT, RR, D], swizzled)

    k_pointer, k_batch, k_head = k[0], k[1], k[2]
    v_pointer, v_batch, v_head = v[0], v[1], v[2]
    k_pointer += kv_head.to(gl.int64) * k_head
    v_pointer += kv_head.to(gl.int64) * v_head
    pages = table
    if table is None:
        k_pointer += batch.to(gl.int64) * k_batch
        v_pointer += batch.to(gl.int64) * v_batch
    else:
        pages = table + batch.to(gl.int64) * table_step
    row_k, k_place, k_more = _places(W, D, K_ROW)
    row_v, v_place, v_more = _places(W, DV, V_ROW)
    k_from = (k_pointer + k_place, k_batch, row_k, k_more)
    v_from = (v_pointer + v_place, v_batch, row_v, v_more)
    for number in gl.static_range(STAGES):
        _fetch(k_smem.index(number), v_smem.index(number), k_from, v_from,
               begin + number * KEYS, end, pages, page, K_ROW, V_ROW)  # fmt: skip

    phase = (base - begin) * turn
    step = turn * KEYS
    even, odd = a.to(KIND), b.to(KIND)
    if F > 0:
        even, odd = turned(a, b, phase, KIND)
    even_rows.index(0).store(even)
    odd_rows.index(0).store(odd)

    weight_rows: gl.constexpr = gl.SliceLayout(1, deep)
    most = gl.full([W, R], _LEAST, gl.float32, weight_rows)
    total = gl.zeros([W, 16, R], gl.float32, deep)
    sums = gl.zeros([W, DV, R], gl.float32, deep)
    index = begin + gl.arange(0, KEYS, gl.SliceLayout(1, flat))
    stage = 0
    for block in range(blocks):
        async_copy.wait_group(STAGES - 1)
        together()
        slot = block % 2
        with_cosine = gl.zeros([KEYS, R], gl.float32, flat)
        if F > 0:
            with_sine = gl.zeros([KEYS, R], gl.float32, flat)
            x = k_smem.index(stage).load(key_layout)
            first_part, second_part = features(x, cosine, sine, KEY)
            ours = even_smem.index(slot).permute((1, 0)).load(query_layout)
            other = odd_smem.index(slot).permute((1, 0)).load(query_layout)
            with_cosine = mma_v2(first_part, ours, with_cosine)
            with_sine = mma_v2(second_part, other, with_sine)
            scores = with_cosine + with_sine
            phase -= step
            even, odd = turned(a, b, phase, KIND)
        else:
            ours = even_smem.index(0).permute((1, 0)).load(query_layout)
            scores = mma_v2(k_smem.index(stage).load(key_layout), ours, with_cosine)

        if slopes is not None:
            gap = gl.abs(place[None, :] - index.to(gl.float32)[:, None])
            scores -= slope[None, :] * gap
        seen = (index[:, None] >= low[None, :]) & (index[:, None] < high[None, :])
        if valid is not None:
            real = gl.load(valid + batch.to(gl.int64) * valid_step + index, index < end, other=0)
            seen = seen & (real != 0)[:, None]
        scores = gl.where(seen, scores, float("-inf"))
        index += KEYS

        scores = gl.convert_layout(scores.reshape([W, 16, R]), deep)
        new = gl.maximum(most, gl.max(scores, 1))
        weights = gl.exp2(scores - new[:, None, :])
        shrink = gl.exp2(most - new)[:, None, :]
        most = new
        total = total * shrink + weights
        values = v_smem.index(stage).reshape([W, 16, DV]).permute((0, 2, 1)).load(value_layout)
        # All of this block's reading stands before, all writing behind: two barriers a block.
        if F > 0:
            even_rows.index(SLOT * (1 - slot)).store(even)
            odd_rows.index(SLOT * (1 - slot)).store(odd)
        _fetch(k_smem.index(stage), v_smem.index(stage), k_from, v_from,
               begin + (block + STAGES) * KEYS, end, pages, page, K_ROW, V_ROW)  # fmt: skip
        weights = _transposed(weights.to(v[0].dtype.element_ty), weight_layout)
        sums = mma_v2(values, weights, sums * shrink)
        stage = gl.where(stage + 1 == STAGES, 0, stage + 1)

    async_copy.wait_group(0)
    together()
    # The warps' softmaxes become one.
    top = gl.max(most, 0)
    shrink = gl.exp2(most - top[None, :])
    weight = gl.sum(gl.sum(total, 1) * shrink, 0)
    sums = gl.sum(sums * shrink[:, None, :], 0)
    blind = weight == 0.0
    logarithm = gl.where(blind, float("-inf"), top + gl.log2(gl.where(blind, 1.0, weight)))
    final: gl.constexpr = gl.SliceLayout(0, gl.SliceLayout(1, deep))
    columns = gl.arange(0, R, final)
    exists = columns < group * queries
    rows = gl.minimum(columns // group, queries - 1)
    heads = kv_head * group + columns % group
    here = ((batch.to(gl.int64) * kv_heads * group + heads) * queries + rows) * splits + split
    gl.store(lse + here, gl.convert_layout(logarithm, final), exists)
    flat_sums: gl.constexpr = gl.SliceLayout(0, deep)
    scaled = (
        sums
        / gl.convert_layout(gl.where(blind, 1.0, weight), gl.SliceLayout(0, flat_sums))[None, :]
    )
    columns = gl.arange(0, R, gl.SliceLayout(0, flat_sums))
    exists = columns < group * queries
    rows = gl.minimum(columns // group, queries - 1)
    heads = kv_head * group + columns % group
    here = ((batch.to(gl.int64) * kv_heads * group + heads) * queries + rows) * splits + split
    wide = gl.arange(0, DV, gl.SliceLayout(1, flat_sums))
    at = out + here[None, :] * DV + wide[:, None]
    gl.store(at, scaled.to(out.dtype.element_ty), exists[None, :])
