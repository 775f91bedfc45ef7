"""What the Hopper kernels share: which block a CTA owns, rings of tiles, and the copies into them.

A *ring* is (tiles, full, free): stages of shared memory, and a barrier of each stage that the copy
engine arrives at when a tile is there, and one that its readers arrive at when they have done with
it. A producer calls `put` for step 0, 1, …, every reader `take` and `release` in the same order.
"""

import triton.experimental.gluon.language as gl
from triton.experimental import gluon
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

__all__ = ["fetch", "flag", "origin", "put", "release", "ring", "scheduled", "take"]


@gluon.jit
def origin(at, batch, head):
    """Row and column of a head's first element in a tensor's matrix."""
    return batch * at[0] + head * at[1], head * at[2]


@gluon.jit
def scheduled(blocks, bundle):
    """(head of the whole batch, rank of its block) that this CTA works on.

    Heads come in bundles whose streamed tensors fit into the L2 cache; within a bundle, all heads'
    blocks of rank 0 start first: let those be the longest, and the short ones fill the gaps.
    """
    program = gl.program_id(0)
    first = program // (blocks * bundle)
    inner = program % (blocks * bundle)
    width = gl.minimum(bundle, gl.num_programs(0) // blocks - first * bundle)
    return first * bundle + inner % width, inner // width


@gluon.jit
def flag(STAGES: gl.constexpr, COUNT: gl.constexpr):
    """A barrier of each stage that opens after COUNT arrivals."""
    barriers = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(barriers.index(stage), count=COUNT)
    return barriers


@gluon.jit
def ring(desc, STAGES: gl.constexpr, READERS: gl.constexpr):
    """Room for STAGES tiles of a descriptor, each released by READERS warpgroups."""
    SHAPE: gl.constexpr = [STAGES, desc.block_type.shape[0], desc.block_type.shape[1]]
    tiles = gl.allocate_shared_memory(desc.dtype, SHAPE, desc.layout)
    return tiles, flag(STAGES, 1), flag(STAGES, READERS)


@gluon.jit
def fetch(desc, at, batch, head, row, barrier, tile):
    """Start copying the rows of a head from `row` on; the barrier expects their bytes already."""
    first, column = origin(at, batch, head)
    tma.async_copy_global_to_shared(desc, [first + row, column], barrier, tile)


@gluon.jit
def put(ring, step, desc, at, batch, head, row):
    """Producer: as soon as the stage of this step is free, start filling it."""
    tiles, full, free = ring
    STAGES: gl.constexpr = tiles.shape[0]
    stage = step % STAGES
    mbarrier.wait(free.index(stage), ((step // STAGES) & 1) ^ 1)
    mbarrier.expect(full.index(stage), desc.block_type.nbytes)
    fetch(desc, at, batch, head, row, full.index(stage), tiles.index(stage))


@gluon.jit
def take(ring, step):
    """Reader: the tile of this step, waited for."""
    tiles, full, _ = ring
    STAGES: gl.constexpr = tiles.shape[0]
    mbarrier.wait(full.index(step % STAGES), (step // STAGES) & 1)
    return tiles.index(step % STAGES)


@gluon.jit
def release(ring, step):
    """Reader: the tile of this step is not needed any more."""
    tiles, _, free = ring
    STAGES: gl.constexpr = tiles.shape[0]
    mbarrier.arrive(free.index(step % STAGES), count=1)
