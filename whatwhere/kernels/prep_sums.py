"""The preparation's backward pass where δ is learned: gradients, and their sums over positions.

δ's gradient is a sum over positions for every head and frequency. Taken block by block it goes
across threads each time: shuffles, shared memory, five barriers, and nothing is loaded meanwhile.
So here a program keeps a few heads from its first position to its last: every thread adds its own
rows in registers, and threads meet once, at the end. Heads are unrolled (each has its own registers
for the sum), blocks of positions are the loop; loads run DEPTH heads ahead, from block to block.
"""

import triton
import triton.language as tl

from whatwhere.kernels.interpreter import interpreted
from whatwhere.kernels.prep import _head_angles, _temper, positions_of, turned
from whatwhere.kernels.prep_access import copy, opened, packed, read, unpacked, write

__all__ = ["backward"]


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
def _moved(tensor, batch, low):
    """A tensor as seen from a program's first head: others are small offsets away."""
    moved = tensor
    if tensor is not None:
        pointer, by_batch, by_head, by_row = tensor
        start = batch.to(tl.int64) * by_batch + low.to(tl.int64) * by_head
        moved = (pointer + start, by_batch, by_head, by_row)
    return moved


@triton.jit
def _step(source, raw, index, count, row, inside, PAIRED: tl.constexpr,
          INTERLEAVED: tl.constexpr, F: tl.constexpr, BLOCK_N: tl.constexpr,
          BLOCK_F: tl.constexpr):  # fmt: skip
    """What one head of one block needs: gradients of its features, and its raw vectors."""
    zero = count * 0
    grads = read(source, zero, zero + index, count, row, inside, True, INTERLEAVED, F, BLOCK_F)
    vectors = read(raw, zero, zero + index, count, row, inside, PAIRED, INTERLEAVED, F, BLOCK_F)
    wide: tl.constexpr = 2 * BLOCK_F if INTERLEAVED else BLOCK_F
    return packed(grads, BLOCK_N, wide), packed(vectors, BLOCK_N, wide)


@triton.jit
def _heads(source, raw, target, count, table, table_step, temperature, temperature_step, side,
           partial, batch, first, last, n, angles, BACK: tl.constexpr, TURNED: tl.constexpr,
           PAIRED: tl.constexpr, INTERLEAVED: tl.constexpr, F: tl.constexpr, REST: tl.constexpr,
           BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_R: tl.constexpr,
           HEADS: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """Gradients of the first `count` (at most HEADS) heads at blocks first to last - 1."""
    IN: tl.constexpr = 2 * F if PAIRED else F
    WIDE: tl.constexpr = 2 * BLOCK_F if INTERLEAVED else BLOCK_F
    kind: tl.constexpr = target[0].dtype.element_ty
    zero = count * 0
    row = first * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (row < n)[:, None]
    ring, sums = (), ()
    for index in tl.static_range(HEADS):
        if index < DEPTH:
            ring += (_step(source, raw, index, count, row, inside, PAIRED, INTERLEAVED, F,
                           BLOCK_N, BLOCK_F),)  # fmt: skip
        if partial is not None:
            sums += (tl.zeros((BLOCK_N, BLOCK_F), tl.float32),)
    position = positions_of(batch, row, n, angles)
    for block in range(first, last):
        row = block * BLOCK_N + tl.arange(0, BLOCK_N)
        inside = (row < n)[:, None]
        following = row + BLOCK_N
        # A program's last block has no next one: its first heads are the next program's.
        wanted = (following < tl.minimum(n, last * BLOCK_N))[:, None]
        cosine, sine = turned(position, row, angles, side, F, BLOCK_F)
        position = positions_of(batch, following, n, angles)
        temper = _temper(batch, row, n, temperature, temperature_step)
        if temper is not None:
            cosine, sine = cosine * temper, sine * temper
        for index in tl.static_range(HEADS):
            if index + DEPTH < HEADS:
                ring += (_step(source, raw, index + DEPTH, count, row, inside, PAIRED,
                               INTERLEAVED, F, BLOCK_N, BLOCK_F),)  # fmt: skip
            else:
                ring += (_step(source, raw, index + DEPTH - HEADS, count, following, wanted,
                               PAIRED, INTERLEAVED, F, BLOCK_N, BLOCK_F),)  # fmt: skip
            grads, vectors = ring[0]
            ring = ring[1:]
            grads = unpacked(grads, source[0].dtype.element_ty, BLOCK_N, WIDE)
            g, h = opened(grads, True, INTERLEAVED, BLOCK_N, BLOCK_F)
            a, b = g, h
            if raw is not None:
                vectors = unpacked(vectors, raw[0].dtype.element_ty, BLOCK_N, WIDE)
                a, b = opened(vectors, PAIRED, INTERLEAVED, BLOCK_N, BLOCK_F)
            c, s = _head_angles(table, index, table_step, row, cosine, sine, F, BLOCK_F)
            if partial is not None:
                total = _computed(sums[0] + TURNED(g, h, a, b, c, s, kind))
                sums = sums[1:] + (total,)  # noqa: RUF005 - Triton knows no starred tuples
            a, b = BACK(g, h, a, c, s, kind)
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
             TURNED: tl.constexpr, PAIRED: tl.constexpr, INTERLEAVED: tl.constexpr,
             F: tl.constexpr, REST: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr,
             BLOCK_R: tl.constexpr, HEADS: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """Gradients of raw queries and keys (q_out, k_out) from those of their features.

    Features are y = m e^(I φ), so d loss / d φ = grad_1 y_0 - grad_0 y_1 for every map. Its sum
    over a chunk of `span` blocks of positions goes to partial (batch · chunks, heads, F) float32,
    each element written by one program: the sum over chunks that follows has a fixed order (no
    atomics). Programs are (chunk, group of at most HEADS heads), groups of queries first.
    """
    program = tl.program_id(0)
    group, chunk = program % groups, program // groups
    batch = chunk // chunks
    angles = (positions, position_step, turns, early_turns, start, direction, amplitude, decay,
              centre)  # fmt: skip
    first = (chunk % chunks) * span
    last = tl.minimum(first + span, blocks)
    q_groups = tl.cdiv(heads, HEADS)
    if group < q_groups:
        low, high = group * heads // q_groups, (group + 1) * heads // q_groups
        own, sums = table, partial
        if table is not None:
            own += low * F
        if partial is not None:
            sums += (chunk.to(tl.int64) * heads + low) * F
        _heads(_moved(q_grad, batch, low), _moved(q, batch, low), _moved(q_out, batch, low),
               high - low, own, heads, temperature, temperature_step, 1, sums, batch, first, last,
               n, angles, BACK, TURNED, PAIRED, INTERLEAVED, F, REST, BLOCK_N, BLOCK_F, BLOCK_R,
               HEADS, DEPTH)  # fmt: skip
    elif k_out is not None:
        k_groups = groups - q_groups
        low = (group - q_groups) * kv_heads // k_groups
        high = (group - q_groups + 1) * kv_heads // k_groups
        _heads(_moved(k_grad, batch, low), _moved(k, batch, low), _moved(k_out, batch, low),
               high - low, None, 0, None, 0, -1, None, batch, first, last, n, angles, BACK,
               TURNED, PAIRED, INTERLEAVED, F, REST, BLOCK_N, BLOCK_F, BLOCK_R, HEADS,
               DEPTH)  # fmt: skip
