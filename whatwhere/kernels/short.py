"""Attention over short sequences in plain Triton: all keys of a head are one tile.

Where a whole sequence fits into one tile, a program reads raw queries, keys and values once and
writes the output once: features (softplus, phases, δ) live in registers and shared memory, the
softmax is exact in one step, and the backward pass makes everything anew from the same vectors,

    w = exp(score - lse),   dv = wᵀ grad,   dw = grad vᵀ,   ds = w (dw - Σ w dw / Σ w),
    dq = scale · ds K,      dk = scale · dsᵀ Q,

features' gradients turned back into those of raw vectors before they leave. Nothing is prepared in
memory, nothing padded to the 128 rows of kernels for long sequences.

Features are parts: two of F channels each (cosine and sine, or both halves of a rotation's pairs)
and one of the REST that no frequency turns; a score is the sum of the parts' products. Maps, masks
and biases are the functions of `maps` and `pairs`, as in every template here.

A tensor enters as the tuple (pointer, stride of batch, of head, of token); channels are contiguous.
"""

import triton
import triton.language as tl

from whatwhere.kernels.maps import _exp2, cosine_sine, wrapped_cosine_sine
from whatwhere.kernels.prep import _temper
from whatwhere.kernels.prep_access import opened
from whatwhere.kernels.tiled import matrix, place, product, rows, start_of

__all__ = ["backward", "forward", "plain", "plain_back", "total"]

_LOG2E = tl.constexpr(1.4426950408889634)
_LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def plain(a, b, cosine, sine, KIND: tl.constexpr):
    """The map that changes nothing: features made elsewhere, or none (NoPE, ALiBi)."""
    return a, b


@triton.jit
def plain_back(grad_0, grad_1, a, cosine, sine, KIND: tl.constexpr):
    """Its gradient."""
    return grad_0, grad_1


@triton.jit
def _angles(batch, row, count, positions, step, spectrum, side, FIRST: tl.constexpr,
            F: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """Cosine and sine, times amplitude and decay, at every position, of frequencies from FIRST on.

    As in the preparation kernel, but positions and frequencies are read once each, not in the
    shape of the tile; 0 beyond the last frequency, so that padded channels add nothing to a score.
    side is 1 for queries, -1 for keys: xPos's keys grow as its queries shrink.
    """
    turns, early_turns, start, direction, amplitude, decay, centre = spectrum
    column = FIRST + tl.arange(0, WIDTH)
    at = positions + batch.to(tl.int64) * step + row
    position = tl.load(at, row < count, other=0)[:, None]
    turn = tl.load(turns + column, column < F, other=0)[None, :]
    if early_turns is not None:
        early = tl.load(early_turns + column, column < F, other=0)[None, :]
        turn = tl.where(position < start, early, turn)
    cosine, sine = cosine_sine(position * direction, turn)
    if decay is not None:
        gamma, rate = decay
        power = (position - centre).to(tl.float32) * (rate * side)
        size = tl.log2((column.to(tl.float32) / F + gamma) / (1.0 + gamma))
        size = tl.exp2(power * size[None, :])
        cosine, sine = cosine * size, sine * size
    if amplitude is not None:
        cosine, sine = cosine * amplitude, sine * amplitude
    if F < FIRST + WIDTH:
        exists = (column < F)[None, :]
        cosine, sine = tl.where(exists, cosine, 0.0), tl.where(exists, sine, 0.0)
    return cosine, sine


@triton.jit
def _of_keys(batch, row, n, m, where, spectrum, FIRST: tl.constexpr, F: tl.constexpr,
             WIDTH: tl.constexpr):  # fmt: skip
    """Cosine and sine of keys, (None, None) if nothing turns."""
    positions, position_step, k_positions, k_position_step = where
    if k_positions is not None:
        return _angles(batch, row, m, k_positions, k_position_step, spectrum, -1, FIRST, F, WIDTH)
    else:
        return _angles(batch, row, m, positions, position_step, spectrum, -1, FIRST, F, WIDTH)


@triton.jit
def _of_queries(cosine, sine, batch, row, n, where, spectrum, offset, at, temper,
                FIRST: tl.constexpr, F: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """Those of queries: the keys' where positions are shared, turned on by a head's own angles δ
    (angle addition), times temperature."""
    positions, position_step, k_positions, _ = where
    if k_positions is not None or spectrum[5] is not None:
        cosine, sine = _angles(batch, row, n, positions, position_step, spectrum, 1, FIRST, F,
                               WIDTH)  # fmt: skip
    if offset is not None:
        column = FIRST + tl.arange(0, WIDTH)
        co, so = wrapped_cosine_sine(tl.load(offset + at * F + column, column < F, other=0.0))
        co, so = co[None, :], so[None, :]
        cosine, sine = cosine * co - sine * so, sine * co + cosine * so
    if temper is not None:
        cosine, sine = cosine * temper, sine * temper
    return cosine, sine


@triton.jit
def _raw(tensor, batch, head, count, FIRST: tl.constexpr, F: tl.constexpr, PAIRED: tl.constexpr,
         INTERLEAVED: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """The channels of WIDTH frequencies from FIRST on, as stored."""
    start, step = start_of(tensor, batch, head), tensor[3]
    if INTERLEAVED:
        both = matrix(start + 2 * FIRST, step, 0, count, 2 * (F - FIRST), BLOCK, 2 * WIDTH, True)
        tiles = (both,)
    else:
        tiles = (matrix(start + FIRST, step, 0, count, F - FIRST, BLOCK, WIDTH, True),)
        if PAIRED:
            tiles += (matrix(start + F + FIRST, step, 0, count, F - FIRST, BLOCK, WIDTH, True),)
    return tiles


@triton.jit
def _put(tensor, batch, head, count, FIRST: tl.constexpr, COLUMNS: tl.constexpr, tile,
         BLOCK: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    at = rows(start_of(tensor, batch, head) + FIRST, tensor[3], 0, BLOCK, WIDTH)
    exists = (tl.arange(0, BLOCK) < count)[:, None] & (tl.arange(0, WIDTH) < COLUMNS)[None, :]
    tl.store(at, tile.to(at.dtype.element_ty), exists)


@triton.jit
def _put_raw(tensor, batch, head, count, a, b, FIRST: tl.constexpr, F: tl.constexpr,
             PAIRED: tl.constexpr, INTERLEAVED: tl.constexpr, BLOCK: tl.constexpr,
             WIDTH: tl.constexpr):  # fmt: skip
    """The inverse of `_raw` and `opened`."""
    if INTERLEAVED:
        kind = tensor[0].dtype.element_ty
        both = tl.reshape(tl.join(a.to(kind), b.to(kind)), (BLOCK, 2 * WIDTH))
        _put(tensor, batch, head, count, 2 * FIRST, 2 * (F - FIRST), both, BLOCK, 2 * WIDTH)
    else:
        _put(tensor, batch, head, count, FIRST, F - FIRST, a, BLOCK, WIDTH)
        if PAIRED:
            _put(tensor, batch, head, count, F + FIRST, F - FIRST, b, BLOCK, WIDTH)


@triton.jit
def _features(q, k, batch, head, own, row, n, m, where, spectrum, offset, slot, temper,
              MAP: tl.constexpr, PAIRED: tl.constexpr, INTERLEAVED: tl.constexpr, F: tl.constexpr,
              REST: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
              BLOCK_R: tl.constexpr):  # fmt: skip
    """Features of one head's queries and keys in parts, rounded as the preparation kernel does."""
    KIND: tl.constexpr = q[0].dtype.element_ty
    SKIP: tl.constexpr = 2 * F if PAIRED else F
    queries, keys = (), ()
    q_tiles, k_tiles = (), ()
    for first in tl.static_range(0, F, WIDTH):
        q_tiles += (_raw(q, batch, head, n, first, F, PAIRED, INTERLEAVED, BLOCK, WIDTH),)
        k_tiles += (_raw(k, batch, own, m, first, F, PAIRED, INTERLEAVED, BLOCK, WIDTH),)
    for first in tl.static_range(0, F, WIDTH):
        c, s = None, None
        if spectrum[0] is not None:
            c, s = _of_keys(batch, row, n, m, where, spectrum, first, F, WIDTH)
        a, b = opened(k_tiles[first // WIDTH], PAIRED, INTERLEAVED, BLOCK, WIDTH)
        a, b = MAP(a, b, c, s, KIND)
        keys += (a.to(KIND), b.to(KIND))
        if spectrum[0] is not None:
            c, s = _of_queries(c, s, batch, row, n, where, spectrum, offset, slot, temper, first,
                               F, WIDTH)  # fmt: skip
        a, b = opened(q_tiles[first // WIDTH], PAIRED, INTERLEAVED, BLOCK, WIDTH)
        a, b = MAP(a, b, c, s, KIND)
        queries += (a.to(KIND), b.to(KIND))
    if REST > 0:
        tile = matrix(start_of(q, batch, head) + SKIP, q[3], 0, n, REST, BLOCK, BLOCK_R, True)
        if temper is not None:
            tile = (tile.to(tl.float32) * temper).to(KIND)
        queries += (tile,)
        keys += (matrix(start_of(k, batch, own) + SKIP, k[3], 0, m, REST, BLOCK, BLOCK_R, True),)
    return queries, keys


@triton.jit
def _scores(left, right, i, of_i, j, of_j, m, scale_log2, slope, window, SEEN: tl.constexpr,
            BIAS: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PLACED: tl.constexpr,
            BLOCK: tl.constexpr):  # fmt: skip
    """Scores of all pairs, -inf where a pair is not seen or a key does not exist.

    In units of log2 with a bias, without one still to be multiplied by scale_log2. Queries that do
    not exist need no mask: nothing of them is stored, and their weights are 0 in the backward pass.
    """
    s = product(left[0], tl.trans(right[0]))
    for part in tl.static_range(1, len(left)):
        s = product(left[part], tl.trans(right[part]), s)
    if BIAS is not None:
        s = s * scale_log2 + BIAS(i[:, None], j[None, :], slope, CAUSAL)
    seen = SEEN(i[:, None], j[None, :], of_i[:, None], of_j[None, :], window, CAUSAL, WINDOWED,
                PLACED)  # fmt: skip
    if not PLACED:
        seen = seen & (tl.arange(0, BLOCK) < m)[None, :]
    return tl.where(seen, s, float("-inf"))


@triton.jit(do_not_specialize=["position_step", "k_position_step", "temperature_step",
                               "q_place_step", "k_place_step", "start", "direction", "centre",
                               "window", "n", "m", "heads", "per_set"])  # fmt: skip
def forward(q, k, v, out, lse, positions, k_positions, turns, early_turns, offset, temperature,
            q_place, k_place, slopes, position_step, k_position_step, temperature_step,
            q_place_step, k_place_step, start, direction, centre, window, n, m, heads, per_set,
            amplitude, decay, scale, MAP: tl.constexpr, PAIRED: tl.constexpr,
            INTERLEAVED: tl.constexpr, F: tl.constexpr, REST: tl.constexpr, DV: tl.constexpr,
            BLOCK: tl.constexpr, WIDTH: tl.constexpr, BLOCK_R: tl.constexpr,
            BLOCK_DV: tl.constexpr, GROUP: tl.constexpr, SEEN: tl.constexpr, BIAS: tl.constexpr,
            CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PLACED: tl.constexpr):  # fmt: skip
    """Output and log-sum-exp of one query head of one batch element, n queries and m keys.

    positions (1 or b, n) int64, of keys k_positions or None for the same; turns (F,) int64, None if
    nothing turns; offset (sets, heads, F) float32, batch elements s · per_set and on read set s.
    A row that sees nothing gives 0 and +inf, with which the backward pass makes weights of 0.
    """
    batch, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    own = head // GROUP
    row = tl.arange(0, BLOCK)
    where = (positions, position_step, k_positions, k_position_step)
    spectrum = (turns, early_turns, start, direction, amplitude, decay, centre)
    temper = _temper(batch, row, n, temperature, temperature_step)
    slot = head if per_set is None else batch // per_set * heads + head
    queries, keys = _features(q, k, batch, head, own, row, n, m, where, spectrum, offset, slot,
                              temper, MAP, PAIRED, INTERLEAVED, F, REST, BLOCK, WIDTH,
                              BLOCK_R)  # fmt: skip
    value = matrix(start_of(v, batch, own), v[3], 0, m, DV, BLOCK, BLOCK_DV, True)
    i, of_i = place(q_place + batch.to(tl.int64) * q_place_step if PLACED else None, row, n, -2,
                    PLACED)  # fmt: skip
    j, of_j = place(k_place + batch.to(tl.int64) * k_place_step if PLACED else None, row, m, -1,
                    PLACED)  # fmt: skip
    slope = tl.load(slopes + head) * _LOG2E if BIAS is not None else 0.0
    score = _scores(queries, keys, i, of_i, j, of_j, m, scale * _LOG2E, slope, window, SEEN,
                    BIAS, CAUSAL, WINDOWED, PLACED, BLOCK)  # fmt: skip
    factor = scale * _LOG2E if BIAS is None else 1.0
    peak = tl.max(score, 1) * factor
    # A row that sees no key has the maximum -inf, and -inf - -inf is NaN.
    peak = tl.where(peak == float("-inf"), 0.0, peak)
    w = _exp2(score * factor - peak[:, None])
    total = tl.sum(w, 1)
    blind = total == 0.0
    total = tl.where(blind, 1.0, total)
    result = product(w.to(value.dtype), value) * (1.0 / total)[:, None]
    logs = tl.where(blind, float("inf"), (peak + tl.log2(total)) * _LN2)
    tl.store(lse + tl.program_id(0).to(tl.int64) * n + row, logs, row < n)
    _put(out, batch, head, n, 0, DV, result, BLOCK, BLOCK_DV)


@triton.jit
def _raw_gradients(tensors, batch, head, own, slot, row, n, m, where, spectrum, offset, temper, ds,
                   queries, keys, partial, scale, BACK: tl.constexpr, TURNED: tl.constexpr,
                   PAIRED: tl.constexpr, INTERLEAVED: tl.constexpr, F: tl.constexpr,
                   BLOCK: tl.constexpr, WIDTH: tl.constexpr, ALONE: tl.constexpr):  # fmt: skip
    """dq and its part of δ's gradient, written; dk, written if ALONE, else returned in parts.

    WIDTH frequencies at a time. Raw vectors are read and angles are made a second time: held from
    the beginning they would take more registers than the products leave.
    """
    q, k, dq, dk = tensors
    KIND: tl.constexpr = q[0].dtype.element_ty
    parts = ()
    for first in tl.static_range(0, F, WIDTH):
        c, s = None, None
        if spectrum[0] is not None:
            c, s = _of_keys(batch, row, n, m, where, spectrum, first, F, WIDTH)
        tiles = _raw(k, batch, own, m, first, F, PAIRED, INTERLEAVED, BLOCK, WIDTH)
        g_0 = product(tl.trans(ds), queries[2 * (first // WIDTH)])
        g_1 = product(tl.trans(ds), queries[2 * (first // WIDTH) + 1])
        a, b = opened(tiles, PAIRED, INTERLEAVED, BLOCK, WIDTH)
        a, b = BACK(g_0, g_1, a, c, s, KIND)
        a, b = a * scale, b * scale
        if ALONE:
            _put_raw(dk, batch, own, m, a, b, first, F, PAIRED, INTERLEAVED, BLOCK, WIDTH)
        else:
            parts += (a, b) if PAIRED else (a,)
        if spectrum[0] is not None:
            c, s = _of_queries(c, s, batch, row, n, where, spectrum, offset, slot, temper, first,
                               F, WIDTH)  # fmt: skip
        tiles = _raw(q, batch, head, n, first, F, PAIRED, INTERLEAVED, BLOCK, WIDTH)
        g_0 = product(ds, keys[2 * (first // WIDTH)])
        g_1 = product(ds, keys[2 * (first // WIDTH) + 1])
        a, b = opened(tiles, PAIRED, INTERLEAVED, BLOCK, WIDTH)
        if partial is not None:
            channel = first + tl.arange(0, WIDTH)
            turned = tl.sum(TURNED(g_0, g_1, a, b, c, s, KIND), axis=0)
            tl.store(partial + channel, turned * scale, channel < F)
        a, b = BACK(g_0, g_1, a, c, s, KIND)
        _put_raw(dq, batch, head, n, a * scale, b * scale, first, F, PAIRED, INTERLEAVED, BLOCK,
                 WIDTH)  # fmt: skip
    return parts


@triton.jit
def _one_head(tensors, batch, head, own, slot, row, n, m, where, spectrum, offset, temper, looks,
              slopes, partial, scale, MAP: tl.constexpr, BACK: tl.constexpr, TURNED: tl.constexpr,
              PAIRED: tl.constexpr, INTERLEAVED: tl.constexpr, F: tl.constexpr, REST: tl.constexpr,
              DV: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr, BLOCK_R: tl.constexpr,
              BLOCK_DV: tl.constexpr, SEEN: tl.constexpr, BIAS: tl.constexpr, CAUSAL: tl.constexpr,
              WINDOWED: tl.constexpr, PLACED: tl.constexpr, ALONE: tl.constexpr):  # fmt: skip
    """Gradients by one query head: all written if ALONE, else those of its KV head returned."""
    q, k, v, grad, lse, dq, dk, dv = tensors
    i, of_i, j, of_j, window = looks
    KIND: tl.constexpr = k[0].dtype.element_ty
    SKIP: tl.constexpr = 2 * F if PAIRED else F
    queries, keys = _features(q, k, batch, head, own, row, n, m, where, spectrum, offset, slot,
                              temper, MAP, PAIRED, INTERLEAVED, F, REST, BLOCK, WIDTH,
                              BLOCK_R)  # fmt: skip
    value = matrix(start_of(v, batch, own), v[3], 0, m, DV, BLOCK, BLOCK_DV, True)
    g = matrix(start_of(grad, batch, head), grad[3], 0, n, DV, BLOCK, BLOCK_DV, True)
    logs = tl.load(lse + row, row < n, other=float("inf")) * _LOG2E
    slope = tl.load(slopes + head) * _LOG2E if BIAS is not None else 0.0
    score = _scores(queries, keys, i, of_i, j, of_j, m, scale * _LOG2E, slope, window, SEEN,
                    BIAS, CAUSAL, WINDOWED, PLACED, BLOCK)  # fmt: skip
    factor = scale * _LOG2E if BIAS is None else 1.0
    w = _exp2(score * factor - logs[:, None])
    dw = product(g, tl.trans(value))
    # lse is rounded at its own size, so weights add up to 1 + 1e-6: a mean must not be off by that.
    total = tl.sum(w, 1)
    mean = tl.sum(w * dw, 1) / tl.where(total == 0.0, 1.0, total)
    ds = (w * (dw - mean[:, None])).to(KIND)
    sums = (product(tl.trans(w.to(KIND)), g),)
    if ALONE:
        _put(dv, batch, own, m, 0, DV, sums[0], BLOCK, BLOCK_DV)
    sums += _raw_gradients((q, k, dq, dk), batch, head, own, slot, row, n, m, where, spectrum,
                           offset, temper, ds, queries, keys, partial, scale, BACK, TURNED,
                           PAIRED, INTERLEAVED, F, BLOCK, WIDTH, ALONE)  # fmt: skip
    if REST > 0:
        rest = product(ds, keys[-1]) * scale
        if temper is not None:
            rest = rest * temper
        _put(dq, batch, head, n, SKIP, REST, rest, BLOCK, BLOCK_R)
        rest = product(tl.trans(ds), queries[-1]) * scale
        if ALONE:
            _put(dk, batch, own, m, SKIP, REST, rest, BLOCK, BLOCK_R)
        else:
            sums += (rest,)
    return sums


@triton.jit(do_not_specialize=["position_step", "k_position_step", "temperature_step",
                               "q_place_step", "k_place_step", "start", "direction", "centre",
                               "window", "n", "m", "heads", "per_set"])  # fmt: skip
def backward(q, k, v, grad, lse, dq, dk, dv, partial, positions, k_positions, turns, early_turns,
             offset, temperature, q_place, k_place, slopes, position_step, k_position_step,
             temperature_step, q_place_step, k_place_step, start, direction, centre, window, n, m,
             heads, per_set, amplitude, decay, scale, MAP: tl.constexpr, BACK: tl.constexpr,
             TURNED: tl.constexpr, PAIRED: tl.constexpr, INTERLEAVED: tl.constexpr,
             F: tl.constexpr, REST: tl.constexpr, DV: tl.constexpr, BLOCK: tl.constexpr,
             WIDTH: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_DV: tl.constexpr,
             GROUP: tl.constexpr, SEEN: tl.constexpr, BIAS: tl.constexpr, CAUSAL: tl.constexpr,
             WINDOWED: tl.constexpr, PLACED: tl.constexpr):  # fmt: skip
    """Gradients of raw vectors of one KV head and of the GROUP query heads that read it.

    partial (b, heads, F) float32, or None: each batch element's gradient of δ, summed over its
    positions. Every element of every result is written by one program, in a fixed order: the same
    bits each time.
    """
    groups = heads // GROUP
    batch, own = tl.program_id(0) // groups, tl.program_id(0) % groups
    row = tl.arange(0, BLOCK)
    where = (positions, position_step, k_positions, k_position_step)
    spectrum = (turns, early_turns, start, direction, amplitude, decay, centre)
    temper = _temper(batch, row, n, temperature, temperature_step)
    i, of_i = place(q_place + batch.to(tl.int64) * q_place_step if PLACED else None, row, n, -2,
                    PLACED)  # fmt: skip
    j, of_j = place(k_place + batch.to(tl.int64) * k_place_step if PLACED else None, row, m, -1,
                    PLACED)  # fmt: skip
    SKIP: tl.constexpr = 2 * F if PAIRED else F
    sums = ()
    if GROUP > 1:
        sums = (tl.zeros([BLOCK, BLOCK_DV], tl.float32),)
        for _ in tl.static_range(0, F, WIDTH):
            nothing = tl.zeros([BLOCK, WIDTH], tl.float32)
            sums += (nothing, nothing) if PAIRED else (nothing,)
        if REST > 0:
            sums += (tl.zeros([BLOCK, BLOCK_R], tl.float32),)
    for each in range(0, GROUP):
        head = own * GROUP + each
        at = (batch * heads + head).to(tl.int64)
        slot = head if per_set is None else batch // per_set * heads + head
        found = _one_head(
            (q, k, v, grad, lse + at * n, dq, dk, dv), batch, head, own, slot, row, n, m, where,
            spectrum, offset, temper, (i, of_i, j, of_j, window), slopes,
            None if partial is None else partial + at * F, scale, MAP, BACK, TURNED, PAIRED,
            INTERLEAVED, F, REST, DV, BLOCK, WIDTH, BLOCK_R, BLOCK_DV, SEEN, BIAS, CAUSAL,
            WINDOWED, PLACED, GROUP == 1
        )  # fmt: skip
        if GROUP > 1:
            more = ()
            for part in tl.static_range(len(sums)):
                more += (sums[part] + found[part],)
            sums = more
    if GROUP > 1:
        _put(dv, batch, own, m, 0, DV, sums[0], BLOCK, BLOCK_DV)
        for first in tl.static_range(0, F, WIDTH):
            _put_raw(dk, batch, own, m, sums[1 + (1 + PAIRED) * (first // WIDTH)],
                     sums[1 + PAIRED + (1 + PAIRED) * (first // WIDTH)], first, F,
                     PAIRED, INTERLEAVED, BLOCK, WIDTH)  # fmt: skip
        if REST > 0:
            _put(dk, batch, own, m, SKIP, REST, sums[-1], BLOCK, BLOCK_R)


@triton.jit(do_not_specialize=["count", "width"])
def total(partial, out, count, width, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """out[s] = Σ of the `count` rows of part s of partial, (sets · count, width) -> (sets, width).

    In an order that no other set changes: a model's gradient is the same alone and side by side.
    """
    blocks = tl.cdiv(width, BLOCK)
    which, column = tl.program_id(0) // blocks, tl.program_id(0) % blocks * BLOCK
    column += tl.arange(0, BLOCK)
    exists = (column < width)[None, :]
    sums = tl.zeros([BLOCK], tl.float32)
    for first in range(0, count, ROWS):
        row = first + tl.arange(0, ROWS)
        at = partial + (which * count + row).to(tl.int64)[:, None] * width + column[None, :]
        sums += tl.sum(tl.load(at, (row < count)[:, None] & exists, other=0.0), axis=0)
    tl.store(out + which.to(tl.int64) * width + column, sums, column < width)
