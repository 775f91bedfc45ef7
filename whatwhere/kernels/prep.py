"""The preparation kernels: raw queries and keys -> the features that attention reads, and back.

One program takes a block of positions and a range of heads. Cosine and sine depend on position and
frequency only, so they are computed once and serve all heads of the range: the heads stream through
and the kernel stays bound by memory (forward 3 d, backward 4 d values a token and PoPE head).
Query heads come first, then key heads, in one launch: they share the cosines too.

A tensor enters as the tuple (pointer, stride of batch, of head, of token); channels are contiguous.
Frequencies, channels and maps are compile-time values, sizes are not: nothing is compiled again for
another length, batch or number of heads.
"""

import triton
import triton.language as tl

from whatwhere.kernels.maps import cosine_sine, wrapped_cosine_sine

__all__ = ["backward", "forward"]


@triton.jit
def _rows(tensor, batch, head, row):
    """Pointers to the first channel of each row of one head."""
    pointer, by_batch, by_head, by_row = tensor
    start = batch.to(tl.int64) * by_batch + tl.cast(head, tl.int64) * by_head
    return pointer + start + row.to(tl.int64)[:, None] * by_row


@triton.jit
def _columns(COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """Column indices and which of them exist."""
    column = tl.arange(0, BLOCK)[None, :]
    return column, column < COUNT


@triton.jit
def _load(at, inside, PAIRED: tl.constexpr, INTERLEAVED: tl.constexpr, F: tl.constexpr,
          BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr):  # fmt: skip
    """Two float32 tiles: channels (a, b) of each frequency, or one channel twice."""
    if INTERLEAVED:
        # One wide load, then split: two loads with a stride of two would be two bytes each.
        column, exists = _columns(2 * F, 2 * BLOCK_F)
        both = tl.load(at + column, inside & exists, other=0.0).to(tl.float32)
        a, b = tl.split(tl.reshape(both, (BLOCK_N, BLOCK_F, 2)))
    else:
        column, exists = _columns(F, BLOCK_F)
        a = tl.load(at + column, inside & exists, other=0.0).to(tl.float32)
        b = a
        if PAIRED:
            b = tl.load(at + F + column, inside & exists, other=0.0).to(tl.float32)
    return a, b


@triton.jit
def _store(at, inside, a, b, PAIRED: tl.constexpr, INTERLEAVED: tl.constexpr, F: tl.constexpr,
           BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr):  # fmt: skip
    """The inverse of `_load`."""
    kind = at.dtype.element_ty
    if INTERLEAVED:
        column, exists = _columns(2 * F, 2 * BLOCK_F)
        both = tl.reshape(tl.join(a.to(kind), b.to(kind)), (BLOCK_N, 2 * BLOCK_F))
        tl.store(at + column, both, inside & exists)
    else:
        column, exists = _columns(F, BLOCK_F)
        tl.store(at + column, a.to(kind), inside & exists)
        if PAIRED:
            tl.store(at + F + column, b.to(kind), inside & exists)


@triton.jit
def _copy(source, target, inside, factor, REST: tl.constexpr, BLOCK_R: tl.constexpr):
    """Channels without a frequency: only the temperature touches them."""
    column, exists = _columns(REST, BLOCK_R)
    x = tl.load(source + column, inside & exists, other=0.0).to(tl.float32)
    tl.store(target + column, (x * factor).to(target.dtype.element_ty), inside & exists)


@triton.jit
def _program(n, blocks, groups, BLOCK_N: tl.constexpr):
    """Which batch element, block of positions and group of heads this program has.

    Groups of heads are neighbours: with (batch, token, head) storage they share memory pages.
    """
    program = tl.program_id(0)
    group = program % groups
    block = program // groups
    row = (block % blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    return block // blocks, block, group, row, (row < n)[:, None]


@triton.jit
def _angles(batch, row, n, positions, position_step, turns, early_turns, start, direction,
            amplitude, F: tl.constexpr, BLOCK_F: tl.constexpr):  # fmt: skip
    """Cosine and sine, times the amplitude, of every position of the block and frequency."""
    at = positions + batch.to(tl.int64) * position_step + row
    position = tl.load(at, row < n, other=0)[:, None]
    column, exists = _columns(F, BLOCK_F)
    turn = tl.load(turns + column, exists, other=0)
    if early_turns is not None:
        early = tl.load(early_turns + column, exists, other=0)
        turn = tl.where(position < start, early, turn)
    cosine, sine = cosine_sine(position * direction, turn)
    return cosine * amplitude, sine * amplitude


@triton.jit
def _temper(batch, row, n, temperature, temperature_step):
    """τ of every query position of the block, float32; 1 where there is none."""
    factor = row.to(tl.float32) * 0.0 + 1.0
    if temperature is not None:
        at = temperature + batch.to(tl.int64) * temperature_step + row
        factor = tl.load(at, row < n, other=0.0)
    return factor[:, None]


@triton.jit
def _offset(offset, head, cosine, sine, F: tl.constexpr, BLOCK_F: tl.constexpr):
    """Cosine and sine turned on by the head's own angles: one sine a head, not one a position."""
    column, exists = _columns(F, BLOCK_F)
    co, so = wrapped_cosine_sine(tl.load(offset + head * F + column, exists, other=0.0))
    return cosine * co - sine * so, sine * co + cosine * so


@triton.jit(do_not_specialize=["n", "blocks", "groups", "heads", "kv_heads", "position_step",
                               "temperature_step", "start", "direction"])  # fmt: skip
def forward(q, k, q_out, k_out, positions, turns, early_turns, offset, temperature,
            n, blocks, groups, heads, kv_heads, position_step, temperature_step, start, direction,
            amplitude, MAP: tl.constexpr, PAIRED: tl.constexpr, INTERLEAVED: tl.constexpr,
            F: tl.constexpr, REST: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr,
            BLOCK_R: tl.constexpr):  # fmt: skip
    """Features of queries (with offset and temperature) and of keys.

    positions (1 or b, n) int64, turns and early_turns (F,) int64, offset (heads, F) float32,
    temperature (1 or b, n) float32. A step is 0 where all batch elements share a row.
    """
    batch, _block, group, row, inside = _program(n, blocks, groups, BLOCK_N)
    cosine, sine = _angles(batch, row, n, positions, position_step, turns, early_turns, start,
                           direction, amplitude, F, BLOCK_F)  # fmt: skip
    total = heads + kv_heads
    low, high = group * total // groups, (group + 1) * total // groups
    IN: tl.constexpr = 2 * F if PAIRED else F

    factor = _temper(batch, row, n, temperature, temperature_step)
    for head in range(low, tl.minimum(high, heads)):
        source, target = _rows(q, batch, head, row), _rows(q_out, batch, head, row)
        a, b = _load(source, inside, PAIRED, INTERLEAVED, F, BLOCK_N, BLOCK_F)
        c, s = cosine * factor, sine * factor
        if offset is not None:
            c, s = _offset(offset, head, c, s, F, BLOCK_F)
        first, second = MAP(a, b, c, s)
        _store(target, inside, first, second, True, INTERLEAVED, F, BLOCK_N, BLOCK_F)
        if REST > 0:
            _copy(source + IN, target + 2 * F, inside, factor, REST, BLOCK_R)

    if k_out is not None:
        for head in range(tl.maximum(low, heads) - heads, high - heads):
            source, target = _rows(k, batch, head, row), _rows(k_out, batch, head, row)
            a, b = _load(source, inside, PAIRED, INTERLEAVED, F, BLOCK_N, BLOCK_F)
            first, second = MAP(a, b, cosine, sine)
            _store(target, inside, first, second, True, INTERLEAVED, F, BLOCK_N, BLOCK_F)
            if REST > 0:
                _copy(source + IN, target + 2 * F, inside, 1.0, REST, BLOCK_R)


@triton.jit(do_not_specialize=["n", "blocks", "groups", "heads", "kv_heads", "position_step",
                               "temperature_step", "start", "direction"])  # fmt: skip
def backward(q, k, q_grad, k_grad, q_out, k_out, partial, positions, turns, early_turns, offset,
             temperature, n, blocks, groups, heads, kv_heads, position_step, temperature_step,
             start, direction, amplitude, MAP: tl.constexpr, BACK: tl.constexpr,
             PAIRED: tl.constexpr, INTERLEAVED: tl.constexpr, F: tl.constexpr, REST: tl.constexpr,
             BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_R: tl.constexpr):  # fmt: skip
    """Gradients of raw queries and keys (q_out, k_out) from those of their features.

    Features are y = m e^(I φ), so d loss / d φ = grad_1 y_0 - grad_0 y_1 for every map. Its sum
    over the block's positions goes to partial (batch · blocks, heads, F) float32, each element
    written by one program: the sum over blocks that follows has a fixed order (no atomics).
    """
    batch, block, group, row, inside = _program(n, blocks, groups, BLOCK_N)
    cosine, sine = _angles(batch, row, n, positions, position_step, turns, early_turns, start,
                           direction, amplitude, F, BLOCK_F)  # fmt: skip
    total = heads + kv_heads
    low, high = group * total // groups, (group + 1) * total // groups
    IN: tl.constexpr = 2 * F if PAIRED else F

    factor = _temper(batch, row, n, temperature, temperature_step)
    for head in range(low, tl.minimum(high, heads)):
        source, target = _rows(q_grad, batch, head, row), _rows(q_out, batch, head, row)
        first, second = _load(source, inside, True, INTERLEAVED, F, BLOCK_N, BLOCK_F)
        a, b = first, second
        if q is not None:
            a, b = _load(_rows(q, batch, head, row), inside, PAIRED, INTERLEAVED, F,
                         BLOCK_N, BLOCK_F)  # fmt: skip
        c, s = cosine * factor, sine * factor
        if offset is not None:
            c, s = _offset(offset, head, c, s, F, BLOCK_F)
        if partial is not None:
            y_0, y_1 = MAP(a, b, c, s)
            column, exists = _columns(F, BLOCK_F)
            turned = tl.sum(second * y_0 - first * y_1, axis=0)[None, :]
            at = partial + (block.to(tl.int64) * heads + head) * F
            tl.store(at + column, turned, exists)
        a, b = BACK(first, second, a, c, s)
        _store(target, inside, a, b, PAIRED, INTERLEAVED, F, BLOCK_N, BLOCK_F)
        if REST > 0:
            _copy(source + 2 * F, target + IN, inside, factor, REST, BLOCK_R)

    if k_out is not None:
        for head in range(tl.maximum(low, heads) - heads, high - heads):
            source, target = _rows(k_grad, batch, head, row), _rows(k_out, batch, head, row)
            first, second = _load(source, inside, True, INTERLEAVED, F, BLOCK_N, BLOCK_F)
            a = first
            if k is not None:
                a, b = _load(_rows(k, batch, head, row), inside, PAIRED, INTERLEAVED, F,
                             BLOCK_N, BLOCK_F)  # fmt: skip
            a, b = BACK(first, second, a, cosine, sine)
            _store(target, inside, a, b, PAIRED, INTERLEAVED, F, BLOCK_N, BLOCK_F)
            if REST > 0:
                _copy(source + 2 * F, target + IN, inside, 1.0, REST, BLOCK_R)
