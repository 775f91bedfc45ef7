"""What the Hopper kernels share: which block a CTA owns, rings of tiles, and which pairs are seen.

A *ring* is (tiles, full, free): stages of shared memory, and a barrier of each stage that the copy
engine arrives at when a tile is there, and one that its readers arrive at when they have done with
it. A producer calls `put` for step 0, 1, …, every reader `take` and `release` in the same order.

Operands are (b, h, n, f) tensors of any strides, described to the copy engine in blocks of
(1, 1, rows, width): what lies past a head's end or past its width arrives as zeros, so a tile may
be wider than the tensor.
"""

import triton.experimental.gluon.language as gl
from triton.experimental import gluon
from triton.experimental.gluon.language.nvidia.hopper import mbarrier
from triton.runtime.jit import constexpr_function

from whatwhere.kernels import pairs
from whatwhere.kernels.gluon_names import load_block, viewed

__all__ = [
    "BIASES",
    "accumulator",
    "block_of",
    "fetch",
    "fill",
    "flag",
    "judge",
    "operand",
    "put",
    "release",
    "ring",
    "scheduled",
    "seen",
    "stage",
    "stand",
    "take",
    "task",
    "turns",
    "visits",
]

seen = gluon.jit(pairs._seen)
index_bounds = gluon.jit(pairs._index_bounds)
block_of = gluon.jit(pairs._block_of)
#: name of a bias -> the function (i, j, parameter) that a score gains
BIASES = {name: bias and gluon.jit(bias.fn) for name, bias in pairs.BIASES.items()}


@constexpr_function
def accumulator(columns):
    """Layout of 64 rows that a warpgroup multiplies into registers."""
    return gl.NVMMADistributedLayout([3, 0], [4, 1], [16, columns, 16])


@constexpr_function
def operand(columns):
    """Layout of the left factor of a product that has so many columns, in registers."""
    return gl.DotOperandLayout(0, accumulator(columns), 2)


@gluon.jit
def scheduled(program, programs, blocks, bundle):
    """(head of the whole batch, rank of its block) that a program of so many works on.

    Heads come in bundles whose streamed tensors fit into the L2 cache; within a bundle, all heads'
    blocks of rank 0 start first: let those be the longest, and the short ones fill the gaps.
    """
    first = program // (blocks * bundle)
    inner = program % (blocks * bundle)
    width = gl.minimum(bundle, programs // blocks - first * bundle)
    return first * bundle + inner % width, inner // width


@gluon.jit
def flag(STAGES: gl.constexpr, COUNT: gl.constexpr):
    """A barrier of each stage that opens after COUNT arrivals."""
    barriers = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for at in gl.static_range(STAGES):
        mbarrier.init(barriers.index(at), count=COUNT)
    return barriers


@gluon.jit
def ring(desc, STAGES: gl.constexpr, READERS: gl.constexpr):
    """Room for STAGES blocks of a descriptor, each released by READERS warpgroups."""
    ROWS: gl.constexpr = desc.block_type.shape[2]
    WIDTH: gl.constexpr = desc.block_type.shape[3]
    LAYOUT: gl.constexpr = gl.NVMMASharedLayout.get_default_for([ROWS, WIDTH], desc.dtype)
    tiles = gl.allocate_shared_memory(desc.dtype, [STAGES, ROWS, WIDTH], LAYOUT)
    return tiles, flag(STAGES, 1), flag(STAGES, READERS)


@gluon.jit
def fetch(desc, batch, head, row, barrier, tile):
    """Start copying the rows of a head from `row` on; the barrier expects their bytes already."""
    block = viewed(tile, desc.dtype, desc.block_type.shape, desc.layout)
    load_block(desc, [batch, head, row, 0], barrier, block)


@gluon.jit
def fill(ring, step, desc, batch, head, row):
    """Producer: start filling the stage of this step, which is known to be free."""
    tiles, full, _free = ring
    STAGES: gl.constexpr = tiles.shape[0]
    at = step % STAGES
    mbarrier.expect(full.index(at), desc.block_type.nbytes)
    fetch(desc, batch, head, row, full.index(at), tiles.index(at))


@gluon.jit
def put(ring, step, desc, batch, head, row):
    """Producer: as soon as the stage of this step is free, start filling it."""
    tiles, _full, free = ring
    STAGES: gl.constexpr = tiles.shape[0]
    mbarrier.wait(free.index(step % STAGES), ((step // STAGES) & 1) ^ 1)
    fill(ring, step, desc, batch, head, row)


@gluon.jit
def take(ring, step):
    """Reader: the tile of this step, waited for."""
    tiles, full, _free = ring
    STAGES: gl.constexpr = tiles.shape[0]
    mbarrier.wait(full.index(step % STAGES), (step // STAGES) & 1)
    return tiles.index(step % STAGES)


@gluon.jit
def stage(ring, step):
    """Reader: the tile of a step that it has waited for before."""
    tiles, _full, _free = ring
    STAGES: gl.constexpr = tiles.shape[0]
    return tiles.index(step % STAGES)


@gluon.jit
def release(ring, step):
    """Reader: the tile of this step is not needed any more."""
    tiles, _full, free = ring
    STAGES: gl.constexpr = tiles.shape[0]
    mbarrier.arrive(free.index(step % STAGES), count=1)


@gluon.jit
def turns(tasks, PERSISTENT: gl.constexpr):
    """How many of the tasks this CTA works on."""
    if PERSISTENT:
        return gl.cdiv(tasks - gl.program_id(0), gl.num_programs(0))
    else:
        return 1


@gluon.jit
def task(turn, all_heads, blocks, heads, bundle):
    """(batch, head, block) of a turn of this CTA, the last blocks first: causal, the longest."""
    program = gl.program_id(0) + turn * gl.num_programs(0)
    index, rank = scheduled(program, all_heads * blocks, blocks, bundle)
    return index // heads, index % heads, blocks - 1 - rank


@gluon.jit
def visits(batch, block, tasks, sight, ROWS: gl.constexpr, BLOCK: gl.constexpr,
           MODE: gl.constexpr):  # fmt: skip
    """Blocks of keys that a block of queries looks at: `pairs.bounds`, how many, how many masked.

    At least one, and the first always masked: rows that see nothing need no code of their own.
    """
    _q, _q_step, _k, _k_step, ranges, step, _slopes, window = sight
    if MODE[2]:
        at = ranges + batch * step + block * 4
        low, full_low = gl.load(at), gl.load(at + 1)
        full_high, high = gl.load(at + 2), gl.load(at + 3)
    else:
        low, full_low, full_high, high = index_bounds(
            block * ROWS, block * ROWS + ROWS, tasks[1], window, BLOCK, MODE[0], MODE[1], False
        )
    masked = gl.maximum(high - full_high + full_low - low, 1)
    return (low, full_low, full_high, high), gl.maximum(high - low, 1), masked


@gluon.jit
def stand(place, first, count, index, OTHER: gl.constexpr, PLACED: gl.constexpr):
    """Positions and documents of tokens; one past the end has document OTHER."""
    if PLACED:
        exists = index < count
        at = place + first + index
        return gl.load(at, mask=exists, other=0), gl.load(at + count, mask=exists, other=OTHER)
    else:
        return index, index


@gluon.jit
def judge(s, scale_log2, column, look, MODE: gl.constexpr, BIAS: gl.constexpr, MASK: gl.constexpr):
    """(scores, factor) of a tile: their product is in units of log2; -inf where a pair is unseen.

    look: positions and documents of the rows; places of the columns, where a batch's begin, how
    many; the bias' parameter and the window. MODE: CAUSAL, WINDOWED, PLACED of `Pairs.options`.
    """
    i, of_i, places, first, count, slope, window = look
    factor = scale_log2
    if MASK or BIAS is not None:
        index = column + gl.arange(0, s.shape[1], gl.SliceLayout(0, s.type.layout))
        j, of_j = stand(places, first, count, index, -1, MODE[2])
        if BIAS is not None:
            # Floats: one conversion for each row and column instead of one for each pair.
            row, key = i.to(gl.float32), j.to(gl.float32)
            s = s * scale_log2 + BIAS(row[:, None], key[None, :], slope, MODE[0])
            factor = 1.0
        if MASK:
            inside = seen(
                i[:, None], j[None, :], of_i[:, None], of_j[None, :], window, MODE[0], MODE[1],
                MODE[2],
            )  # fmt: skip
            if not MODE[2]:
                inside = inside & (index < count)[None, :]
            s = gl.where(inside, s, float("-inf"))
    return s, factor
