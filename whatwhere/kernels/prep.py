"""The preparation kernels: raw queries and keys -> the features that attention reads, and back.

One program takes a block of positions and a range of heads. Cosine and sine depend on position and
frequency only, so they are computed once and serve all heads of the range. Heads stream through a
ring of registers: while one is computed, the next DEPTH are being loaded, so the kernel stays bound
by memory (forward 3 d, backward 4 d values a token and PoPE head). Query heads come first, then
key heads, in one launch: they share the cosines too.

Frequencies, channels and maps are compile-time values, sizes are not: nothing is compiled again for
another length, batch or number of heads.
"""

import triton
import triton.language as tl

from whatwhere.kernels.maps import cosine_sine, decayed
from whatwhere.kernels.prep_access import columns, copy, opened, packed, read, unpacked, write

__all__ = ["backward", "forward", "turn_table"]


@triton.jit
def turn_table(offset, table, count, BLOCK: tl.constexpr):
    """Cosines, then sines, of every head's own angles: offset (count,) -> table (2, count).

    Once a launch instead of once a position; any float32 angle, exactly reduced.
    """
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    angle = tl.load(offset + at, at < count, other=0.0)
    tl.store(table + at, tl.cos(angle), at < count)
    tl.store(table + count + at, tl.sin(angle), at < count)


@triton.jit
def _program(n, blocks, groups, BLOCK_N: tl.constexpr):
    """Which batch element, group of heads and block of positions this program has.

    Groups of heads are neighbours: with (batch, token, head) storage they share memory pages.
    """
    program = tl.program_id(0)
    group = program % groups
    block = program // groups
    row = (block % blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    return block // blocks, group, row, (row < n)[:, None]


@triton.jit
def positions_of(batch, row, n, angles):
    """The positions of a block's rows, a column."""
    at = angles[0] + batch.to(tl.int64) * angles[1] + row
    return tl.load(at, row < n, other=0)[:, None]


@triton.jit
def turned(position, row, angles, side, F: tl.constexpr, BLOCK_F: tl.constexpr):
    """Cosine and sine, times amplitude and decay, of every position of the block and frequency.

    side is 1 for queries, -1 for keys: xPos's keys grow as its queries shrink.
    """
    _, _, turns, early_turns, start, direction, amplitude, decay, centre = angles
    column, exists = columns(row, F, BLOCK_F)
    turn = tl.load(turns + column, exists, other=0)
    if early_turns is not None:
        early = tl.load(early_turns + column, exists, other=0)
        turn = tl.where(position < start, early, turn)
    cosine, sine = cosine_sine(position * direction, turn)
    if decay is not None:
        amplitude = amplitude * decayed(position, column, F, decay, centre, side)
    return cosine * amplitude, sine * amplitude


@triton.jit
def _angles(batch, row, n, angles, side, F: tl.constexpr, BLOCK_F: tl.constexpr):
    """The same of a block whose positions are not known yet."""
    return turned(positions_of(batch, row, n, angles), row, angles, side, F, BLOCK_F)


@triton.jit
def _head_angles(table, head, heads, row, cosine, sine, F: tl.constexpr, BLOCK_F: tl.constexpr):
    """Cosine and sine turned on by the head's own angles: angle addition."""
    if table is not None:
        column, exists = columns(row, F, BLOCK_F)
        at = table + head * F + column
        co = tl.load(at, exists, other=0.0)
        so = tl.load(at + heads * F, exists, other=0.0)
        cosine, sine = cosine * co - sine * so, sine * co + cosine * so
    return cosine, sine


@triton.jit
def _temper(batch, row, n, temperature, temperature_step):
    """The temperature of every query position of the block, float32, if there is one."""
    temper = None
    if temperature is not None:
        at = temperature + batch.to(tl.int64) * temperature_step + row
        temper = tl.load(at, row < n, other=0.0)[:, None]
    return temper


@triton.jit
def _packed(ring, BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr):
    waiting = ()
    for index in tl.static_range(len(ring)):
        waiting += (packed(ring[index], BLOCK_N, BLOCK_F),)
    return waiting


@triton.jit
def _forward_heads(source, target, low, high, table, heads, temper, side, batch, row, inside, n,
                   angles, MAP: tl.constexpr, PAIRED: tl.constexpr, INTERLEAVED: tl.constexpr,
                   F: tl.constexpr, REST: tl.constexpr, BLOCK_N: tl.constexpr,
                   BLOCK_F: tl.constexpr, BLOCK_R: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """Features of heads low to high - 1 of one tensor."""
    IN: tl.constexpr = 2 * F if PAIRED else F
    ring = ()
    for ahead in tl.static_range(DEPTH):
        ring += (read(source, batch, low + ahead, high, row, inside, PAIRED, INTERLEAVED,
                             F, BLOCK_F),)  # fmt: skip
    if not PAIRED:
        # In pairs a twentieth fewer instructions; a rotation would take a few registers more.
        ring = _packed(ring, BLOCK_N, BLOCK_F)
    cosine, sine = _angles(batch, row, n, angles, side, F, BLOCK_F)
    if temper is not None:
        cosine, sine = cosine * temper, sine * temper
    for head in range(low, high):
        if PAIRED:
            ring += (read(source, batch, head + DEPTH, high, row, inside, True, INTERLEAVED, F,
                          BLOCK_F),)  # fmt: skip
            a, b = opened(ring[0], PAIRED, INTERLEAVED, BLOCK_N, BLOCK_F)
        else:
            ring += (packed(read(source, batch, head + DEPTH, high, row, inside, False, False, F,
                                 BLOCK_F), BLOCK_N, BLOCK_F),)  # fmt: skip
            a, b = opened(unpacked(ring[0], source[0].dtype.element_ty, BLOCK_N, BLOCK_F), False,
                          False, BLOCK_N, BLOCK_F)  # fmt: skip
        ring = ring[1:]
        c, s = _head_angles(table, head, heads, row, cosine, sine, F, BLOCK_F)
        first, second = MAP(a, b, c, s, target[0].dtype.element_ty)
        write(target, batch, head, row, inside, first, second, True, INTERLEAVED, F, BLOCK_N,
               BLOCK_F)  # fmt: skip
        copy(source, target, batch, head, row, inside, temper, IN, 2 * F, REST, BLOCK_R)


@triton.jit(do_not_specialize=["n", "blocks", "groups", "heads", "kv_heads", "position_step",
                               "temperature_step", "start", "direction", "centre"])  # fmt: skip
def forward(q, k, q_out, k_out, positions, turns, early_turns, table, temperature,
            n, blocks, groups, heads, kv_heads, position_step, temperature_step, start, direction,
            amplitude, decay, centre, MAP: tl.constexpr, PAIRED: tl.constexpr,
            INTERLEAVED: tl.constexpr, F: tl.constexpr, REST: tl.constexpr, BLOCK_N: tl.constexpr,
            BLOCK_F: tl.constexpr, BLOCK_R: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """Features of queries (with offset and temperature) and of keys.

    positions (1 or b, n) int64, turns and early_turns (F,) int64, table (2, heads, F) float32 of
    `turn_table`, temperature (1 or b, n) float32, decay (gamma, side / span) of
    queries; keys get its reciprocal. A step is 0 where all batch elements share a row.
    """
    batch, group, row, inside = _program(n, blocks, groups, BLOCK_N)
    angles = (positions, position_step, turns, early_turns, start, direction, amplitude, decay,
              centre)  # fmt: skip
    total = heads + kv_heads
    low, high = group * total // groups, (group + 1) * total // groups
    if low < heads:
        temper = _temper(batch, row, n, temperature, temperature_step)
        _forward_heads(q, q_out, low, tl.minimum(high, heads), table, heads, temper, 1, batch,
                       row, inside, n, angles, MAP, PAIRED, INTERLEAVED, F, REST, BLOCK_N,
                       BLOCK_F, BLOCK_R, DEPTH)  # fmt: skip
    if k_out is not None:  # noqa: SIM102 - one is known to the compiler, the other at run time
        if high > heads:
            _forward_heads(k, k_out, tl.maximum(low, heads) - heads, high - heads, None, heads,
                           None, -1, batch, row, inside, n, angles, MAP, PAIRED, INTERLEAVED,
                           F, REST, BLOCK_N, BLOCK_F, BLOCK_R, DEPTH)  # fmt: skip


@triton.jit
def _backward_heads(source, raw, target, low, high, table, heads, temper, side, batch, row, inside,
                    n, angles, BACK: tl.constexpr, PAIRED: tl.constexpr,
                    INTERLEAVED: tl.constexpr, F: tl.constexpr, REST: tl.constexpr,
                    BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_R: tl.constexpr,
                    DEPTH: tl.constexpr):  # fmt: skip
    """Gradients of heads low to high - 1 of one tensor."""
    IN: tl.constexpr = 2 * F if PAIRED else F
    ring, raw_ring = (), ()
    for ahead in tl.static_range(DEPTH):
        ring += (read(source, batch, low + ahead, high, row, inside, True, INTERLEAVED,
                             F, BLOCK_F),)  # fmt: skip
        raw_ring += (read(raw, batch, low + ahead, high, row, inside, PAIRED, INTERLEAVED,
                                     F, BLOCK_F),)  # fmt: skip
    cosine, sine = _angles(batch, row, n, angles, side, F, BLOCK_F)
    if temper is not None:
        cosine, sine = cosine * temper, sine * temper
    for head in range(low, high):
        ring += (read(source, batch, head + DEPTH, high, row, inside, True, INTERLEAVED,
                             F, BLOCK_F),)  # fmt: skip
        raw_ring += (read(raw, batch, head + DEPTH, high, row, inside, PAIRED, INTERLEAVED,
                                     F, BLOCK_F),)  # fmt: skip
        first, second = opened(ring[0], True, INTERLEAVED, BLOCK_N, BLOCK_F)
        a, b = first, second
        if raw is not None:
            a, b = opened(raw_ring[0], PAIRED, INTERLEAVED, BLOCK_N, BLOCK_F)
        ring, raw_ring = ring[1:], raw_ring[1:]
        c, s = _head_angles(table, head, heads, row, cosine, sine, F, BLOCK_F)
        a, b = BACK(first, second, a, c, s, target[0].dtype.element_ty)
        write(target, batch, head, row, inside, a, b, PAIRED, INTERLEAVED, F, BLOCK_N, BLOCK_F)
        copy(source, target, batch, head, row, inside, temper, 2 * F, IN, REST, BLOCK_R)


@triton.jit(do_not_specialize=["n", "blocks", "groups", "heads", "kv_heads", "position_step",
                               "temperature_step", "start", "direction", "centre"])  # fmt: skip
def backward(q, k, q_grad, k_grad, q_out, k_out, positions, turns, early_turns, table,
             temperature, n, blocks, groups, heads, kv_heads, position_step, temperature_step,
             start, direction, amplitude, decay, centre, BACK: tl.constexpr,
             PAIRED: tl.constexpr, INTERLEAVED: tl.constexpr, F: tl.constexpr,
             REST: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr,
             BLOCK_R: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """Gradients of raw queries and keys (q_out, k_out) from those of their features.

    That of δ is `prep_sums.backward`'s.
    """
    batch, group, row, inside = _program(n, blocks, groups, BLOCK_N)
    angles = (positions, position_step, turns, early_turns, start, direction, amplitude, decay,
              centre)  # fmt: skip
    total = heads + kv_heads
    low, high = group * total // groups, (group + 1) * total // groups
    if low < heads:
        temper = _temper(batch, row, n, temperature, temperature_step)
        _backward_heads(q_grad, q, q_out, low, tl.minimum(high, heads), table, heads, temper, 1,
                        batch, row, inside, n, angles, BACK, PAIRED, INTERLEAVED, F, REST,
                        BLOCK_N, BLOCK_F, BLOCK_R, DEPTH)  # fmt: skip
    if k_out is not None:  # noqa: SIM102 - one is known to the compiler, the other at run time
        if high > heads:
            _backward_heads(k_grad, k, k_out, tl.maximum(low, heads) - heads, high - heads, None,
                            heads, None, -1, batch, row, inside, n, angles, BACK, PAIRED,
                            INTERLEAVED, F, REST, BLOCK_N, BLOCK_F, BLOCK_R, DEPTH)  # fmt: skip
