"""The preparation's backward pass where δ is learned: gradients, and their sums over positions.

δ's gradient is a sum over positions for every head and frequency. Taken block by block it goes
across threads each time: shuffles, shared memory, five barriers, and nothing is loaded meanwhile.
So here a program keeps a few heads from its first position to its last: every thread adds its own
rows in registers, and threads meet once, at the end. Heads are unrolled (each has its own registers
for the sum), blocks of positions are the loop; loads run DEPTH heads ahead, from block to block.

Loads under a mask zero their registers first: where groups of heads are FULL there is none. Rows
beyond a program's last read that one again, and cosine and sine are 0 there: sums stay as they are.
With four values a thread addresses are constants off one pointer a block and tensor (heads side by
side, NEAR); with eight these pointers are registers that are not there.
"""

import triton
import triton.language as tl

from whatwhere.kernels.interpreter import interpreted
from whatwhere.kernels.prep import _head_angles, _temper, positions_of, turned
from whatwhere.kernels.prep_access import columns, copy, opened, packed, unpacked, write

__all__ = ["backward", "total"]


if interpreted():

    @triton.jit
    def _computed(x):
        return x

else:

    @triton.jit
    def _computed(x):
        """x, computed by now: else LLVM takes all sums at the end of a block, and what they are
        made of fills the registers until then."""
        return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], tl.float32,
                                         is_pure=False, pack=1)  # fmt: skip


@triton.jit
def _moved(tensor, batch, low, NEAR: tl.constexpr, WIDTH: tl.constexpr):
    """A tensor as seen from a program's first head: others are small offsets away, and known to the
    compiler where heads stand side by side."""
    moved = tensor
    if tensor is not None:
        pointer, by_batch, by_head, by_row = tensor
        start = batch.to(tl.int64) * by_batch + low.to(tl.int64) * by_head
        if NEAR:
            moved = (pointer + start, 0, WIDTH, by_row)
        else:
            moved = (pointer + start, 0, by_head, by_row)
    return moved


@triton.jit
def _begin(tensor, row):
    """Where a row of a program's first head begins."""
    return tensor[0] + row.to(tl.int64) * tensor[3]


@triton.jit
def _tiles(tensor, index, count, start, lane, PAIRED: tl.constexpr, INTERLEAVED: tl.constexpr,
           F: tl.constexpr, BLOCK_F: tl.constexpr, FULL: tl.constexpr,
           NEAR: tl.constexpr):  # fmt: skip
    """What head `index` has at rows start + lane, as stored; 16-bit values in pairs."""
    _, _, by_head, by_row = tensor
    wide: tl.constexpr = 2 if INTERLEAVED else 1
    column, exists = columns(lane, wide * F, wide * BLOCK_F)
    if NEAR:
        at = _begin(tensor, start) + (lane[:, None] * by_row + column) + index * by_head
    else:
        at = _begin(tensor, start) + index * by_head.to(tl.int64)
        at += lane[:, None] * by_row + column
    wanted = None
    if not (FULL and F == BLOCK_F):
        wanted = exists & (index < count)
    tiles = (tl.load(at, wanted),)
    if PAIRED and not INTERLEAVED:
        tiles += (tl.load(at + F, wanted),)
    return packed(tiles, lane.shape[0], wide * BLOCK_F)


@triton.jit
def _step(source, raw, index, count, start, lane, PAIRED: tl.constexpr, INTERLEAVED: tl.constexpr,
          F: tl.constexpr, BLOCK_F: tl.constexpr, FULL: tl.constexpr,
          NEAR: tl.constexpr):  # fmt: skip
    """What one head of one block needs: gradients of its features, and its raw vectors."""
    return (
        _tiles(source, index, count, start, lane, True, INTERLEAVED, F, BLOCK_F, FULL, NEAR[1]),
        _tiles(raw, index, count, start, lane, PAIRED, INTERLEAVED, F, BLOCK_F, FULL, NEAR[0]),
    )


@triton.jit
def _heads(source, raw, target, count, table, table_step, temperature, temperature_step, side,
           partial, batch, first, last, n, angles, BACK: tl.constexpr, LEARNED: tl.constexpr,
           PAIRED: tl.constexpr, INTERLEAVED: tl.constexpr, F: tl.constexpr, REST: tl.constexpr,
           BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_R: tl.constexpr,
           HEADS: tl.constexpr, DEPTH: tl.constexpr, FULL: tl.constexpr,
           NEAR: tl.constexpr):  # fmt: skip
    """Gradients of the first `count` (at most HEADS) heads at blocks first to last - 1."""
    IN: tl.constexpr = 2 * F if PAIRED else F
    WIDE: tl.constexpr = 2 * BLOCK_F if INTERLEAVED else BLOCK_F
    kind: tl.constexpr = target[0].dtype.element_ty
    zero = count * 0
    lanes = tl.arange(0, BLOCK_N)
    start = first * BLOCK_N
    final = tl.minimum(n, last * BLOCK_N) - 1
    lane = tl.minimum(lanes, final - start)
    ring, sums = (), ()
    for index in tl.static_range(HEADS):
        if index < DEPTH:
            ring += (_step(source, raw, index, count, start, lane, PAIRED, INTERLEAVED, F, BLOCK_F,
                           FULL, NEAR),)  # fmt: skip
        if partial is not None:
            sums += (tl.zeros((BLOCK_N, BLOCK_F), tl.float32),)
    position = positions_of(batch, start + lanes, n, angles)
    for block in range(first, last):
        start = block * BLOCK_N
        row = start + lanes
        inside = (row < n)[:, None]
        # A program's last block has no next one: its first heads are the next program's.
        lane, ahead = tl.minimum(lanes, final - start), tl.minimum(lanes, final - start - BLOCK_N)
        seen = angles
        if partial is not None:
            # Nothing is added at positions that do not exist: the amplitude is 0 there.
            seen = (angles[0], angles[1], angles[2], angles[3], angles[4], angles[5],
                    tl.where(inside, angles[6], 0.0), angles[7], angles[8])  # fmt: skip
        cosine, sine = turned(position, row, seen, side, F, BLOCK_F)
        position = positions_of(batch, row + BLOCK_N, n, angles)
        temper = _temper(batch, row, n, temperature, temperature_step)
        if temper is not None:
            cosine, sine = cosine * temper, sine * temper
        for index in tl.static_range(HEADS):
            if index + DEPTH < HEADS:
                ring += (_step(source, raw, index + DEPTH, count, start, lane, PAIRED, INTERLEAVED,
                               F, BLOCK_F, FULL, NEAR),)  # fmt: skip
            else:
                ring += (_step(source, raw, index + DEPTH - HEADS, count, start + BLOCK_N, ahead,
                               PAIRED, INTERLEAVED, F, BLOCK_F, FULL, NEAR),)  # fmt: skip
            grads, vectors = ring[0]
            ring = ring[1:]
            grads = unpacked(grads, source[0].dtype.element_ty, BLOCK_N, WIDE)
            g, h = opened(grads, True, INTERLEAVED, BLOCK_N, BLOCK_F)
            vectors = unpacked(vectors, raw[0].dtype.element_ty, BLOCK_N, WIDE)
            a, b = opened(vectors, PAIRED, INTERLEAVED, BLOCK_N, BLOCK_F)
            c, s = _head_angles(table, index, table_step, row, cosine, sine, F, BLOCK_F)
            if partial is not None:
                a, b, phase = LEARNED(g, h, a, b, c, s, kind)
                sums = sums[1:] + (_computed(sums[0] + phase),)  # noqa: RUF005 - no starred tuples
            else:
                a, b = BACK(g, h, a, c, s, kind)
            mine = inside
            if not FULL:
                mine = inside & (index < count)
            write(target, zero, zero + index, row, mine, a, b, PAIRED, INTERLEAVED, F, BLOCK_N,
                  BLOCK_F)  # fmt: skip
            copy(source, target, zero, zero + index, row, mine, temper, 2 * F, IN, REST, BLOCK_R)
    if partial is not None:
        for index in tl.static_range(HEADS):
            column = tl.arange(0, BLOCK_F)
            wanted = (column < F) & (index < count)
            tl.store(partial + index * F + column, tl.sum(sums[index], axis=0), wanted)


@triton.jit(do_not_specialize=["n", "blocks", "span", "chunks", "groups", "heads", "kv_heads",
                               "position_step", "temperature_step", "start", "direction",
                               "centre"])  # fmt: skip
def backward(q, k, q_grad, k_grad, q_out, k_out, partial, positions, turns, early_turns, table,
             temperature, n, blocks, span, chunks, groups, heads, kv_heads, position_step,
             temperature_step, start, direction, amplitude, decay, centre, BACK: tl.constexpr,
             LEARNED: tl.constexpr, PAIRED: tl.constexpr, INTERLEAVED: tl.constexpr,
             F: tl.constexpr, REST: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr,
             BLOCK_R: tl.constexpr, HEADS: tl.constexpr, DEPTH: tl.constexpr, NEAR: tl.constexpr,
             FULL: tl.constexpr, APART: tl.constexpr):  # fmt: skip
    """Gradients of raw queries and keys (q_out, k_out) from those of their features.

    Features are y = m e^(I φ), so d loss / d φ = grad_1 y_0 - grad_0 y_1 for every map. Its sum
    over a chunk of `span` blocks of positions goes to partial (batch · chunks, heads, F) float32,
    each element written by one program: the sum over chunks that follows (`total`) has a fixed
    order (no atomics). Programs are (chunk, group of at most HEADS heads), groups of queries first
    (APART: all programs of keys, which have less to do, after those of queries).
    NEAR: in which tensors (raw, gradients, results) every head's channels follow the previous
    one's. FULL: whether every group (of queries, of keys) has HEADS heads.
    """
    program = tl.program_id(0)
    q_groups = tl.cdiv(heads, HEADS)
    group, chunk = program % groups, program // groups
    if APART:
        of_queries = tl.num_programs(0) // groups * q_groups
        mine = program < of_queries
        low, count = tl.where(mine, 0, of_queries), tl.where(mine, q_groups, groups - q_groups)
        group = tl.where(mine, 0, q_groups) + (program - low) % count
        chunk = (program - low) // count
    batch = chunk // chunks
    angles = (positions, position_step, turns, early_turns, start, direction, amplitude, decay,
              centre)  # fmt: skip
    IN: tl.constexpr = (2 * F if PAIRED else F) + REST
    OUT: tl.constexpr = 2 * F + REST
    first = (chunk % chunks) * span
    last = tl.minimum(first + span, blocks)
    if group < q_groups:
        low, high = group * heads // q_groups, (group + 1) * heads // q_groups
        own, sums = table, partial
        if table is not None:
            own += low * F
        if partial is not None:
            sums += (chunk.to(tl.int64) * heads + low) * F
        _heads(_moved(q_grad, batch, low, NEAR[1], OUT), _moved(q, batch, low, NEAR[0], IN),
               _moved(q_out, batch, low, NEAR[2], IN), high - low, own, heads, temperature,
               temperature_step, 1, sums, batch, first, last, n, angles, BACK, LEARNED, PAIRED,
               INTERLEAVED, F, REST, BLOCK_N, BLOCK_F, BLOCK_R, HEADS, DEPTH, FULL[0],
               NEAR)  # fmt: skip
    elif k_out is not None:
        k_groups = groups - q_groups
        low = (group - q_groups) * kv_heads // k_groups
        high = (group - q_groups + 1) * kv_heads // k_groups
        _heads(_moved(k_grad, batch, low, NEAR[1], OUT), _moved(k, batch, low, NEAR[0], IN),
               _moved(k_out, batch, low, NEAR[2], IN), high - low, None, 0, None, 0, -1, None,
               batch, first, last, n, angles, BACK, LEARNED, PAIRED, INTERLEAVED, F, REST, BLOCK_N,
               BLOCK_F, BLOCK_R, HEADS, DEPTH, FULL[1], NEAR)  # fmt: skip


@triton.jit(do_not_specialize=["chunks"])
def total(partial, out, chunks, count, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Sums over chunks, in a fixed order: partial (chunks, count) float32 -> out (count,).

    A program takes a few columns and all chunks, so that as many programs as a GPU has
    multiprocessors share a few megabytes: torch's sum took 9 to 19 µs of 205.
    """
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    exists = (column < count)[None, :]
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, chunks, ROWS):
        row = (first + tl.arange(0, ROWS))[:, None]
        at = partial + row.to(tl.int64) * count + column[None, :]
        sums += tl.load(at, exists & (row < chunks), other=0.0)
    tl.store(out + column, tl.sum(sums, axis=0), column < count)
