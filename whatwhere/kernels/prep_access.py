"""How the preparation kernels read and write: tiles of positions times frequencies of one head.

Every access has the shape of the tile, tables of a head or a frequency included: then all of them
get one layout, 16 bytes a thread, and no value ever passes through shared memory (a table loaded as
one row would be an anchor of its own layout, and the compiler would convert vectors to it).

A tensor enters as the tuple (pointer, stride of batch, of head, of token); channels are contiguous.
"""

import triton
import triton.language as tl

from whatwhere.kernels.maps import widen

__all__ = ["columns", "copy", "opened", "packed", "read", "rows", "unpacked", "write"]


@triton.jit
def rows(tensor, batch, head, row):
    """Pointers to the first channel of each row of one head."""
    pointer, by_batch, by_head, by_row = tensor
    start = batch.to(tl.int64) * by_batch + tl.cast(head, tl.int64) * by_head
    return pointer + start + row.to(tl.int64)[:, None] * by_row


@triton.jit
def columns(row, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """Column indices in the shape of the tile, and which of them exist."""
    column = tl.arange(0, BLOCK)[None, :] + (row * 0)[:, None]
    return column, column < COUNT


@triton.jit
def read(tensor, batch, head, high, row, inside, PAIRED: tl.constexpr, INTERLEAVED: tl.constexpr,
          F: tl.constexpr, BLOCK_F: tl.constexpr):  # fmt: skip
    """What one head needs from one tensor, as stored: in flight until `opened` looks at it."""
    tiles = ()
    if tensor is not None:
        at = rows(tensor, batch, head, row)
        wanted = inside & (head < high)
        if INTERLEAVED:
            # One wide load, then split: two loads with a stride of two would be two bytes each.
            column, exists = columns(row, 2 * F, 2 * BLOCK_F)
            tiles = (tl.load(at + column, wanted & exists, other=0.0),)
        else:
            column, exists = columns(row, F, BLOCK_F)
            tiles = (tl.load(at + column, wanted & exists, other=0.0),)
            if PAIRED:
                tiles += (tl.load(at + F + column, wanted & exists, other=0.0),)
    return tiles


@triton.jit
def opened(tiles, PAIRED: tl.constexpr, INTERLEAVED: tl.constexpr, BLOCK_N: tl.constexpr,
          BLOCK_F: tl.constexpr):  # fmt: skip
    """Two float32 tiles: channels (a, b) of each frequency, or one channel twice."""
    if INTERLEAVED:
        both = widen(tiles[0])
        a, b = tl.split(tl.reshape(both, (BLOCK_N, BLOCK_F, 2)))
    elif PAIRED:
        a, b = widen(tiles[0]), widen(tiles[1])
    else:
        a = widen(tiles[0])
        b = a
    return a, b


@triton.jit
def _pairs(x, BLOCK_N: tl.constexpr, BLOCK: tl.constexpr):
    """Neighbouring 16-bit values as one int32: (BLOCK_N, BLOCK) -> (BLOCK_N, BLOCK / 2)."""
    bits = x.to(tl.uint16, bitcast=True).to(tl.uint32)
    low, high = tl.split(tl.reshape(bits, (BLOCK_N, BLOCK // 2, 2)))
    return low | (high << 16)


@triton.jit
def packed(tiles, BLOCK_N: tl.constexpr, BLOCK: tl.constexpr):
    """Tiles as they wait in a loop: what a loop carries has a register for each value, so 16-bit
    values wait in pairs."""
    waiting = ()
    for index in tl.static_range(len(tiles)):
        x = tiles[index]
        if x.dtype.primitive_bitwidth == 16 and BLOCK > 1:
            x = _pairs(x, BLOCK_N, BLOCK)
        waiting += (x,)
    return waiting


@triton.jit
def unpacked(waiting, kind: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK: tl.constexpr):
    """The inverse of `packed`."""
    tiles = ()
    for index in tl.static_range(len(waiting)):
        x = waiting[index]
        if x.dtype == tl.uint32:
            low, high = x & 0xFFFF, x >> 16
            x = tl.reshape(tl.join(low, high), (BLOCK_N, BLOCK))
            x = x.to(tl.uint16).to(kind, bitcast=True)
        tiles += (x,)
    return tiles


@triton.jit
def write(tensor, batch, head, row, inside, a, b, PAIRED: tl.constexpr,
           INTERLEAVED: tl.constexpr, F: tl.constexpr, BLOCK_N: tl.constexpr,
           BLOCK_F: tl.constexpr):  # fmt: skip
    """The inverse of `read` and `opened`."""
    at = rows(tensor, batch, head, row)
    kind = at.dtype.element_ty
    if INTERLEAVED:
        column, exists = columns(row, 2 * F, 2 * BLOCK_F)
        both = tl.reshape(tl.join(a.to(kind), b.to(kind)), (BLOCK_N, 2 * BLOCK_F))
        tl.store(at + column, both, inside & exists)
    else:
        column, exists = columns(row, F, BLOCK_F)
        tl.store(at + column, a.to(kind), inside & exists)
        if PAIRED:
            tl.store(at + F + column, b.to(kind), inside & exists)


@triton.jit
def copy(source, target, batch, head, row, inside, temper, IN: tl.constexpr, OUT: tl.constexpr,
          REST: tl.constexpr, BLOCK_R: tl.constexpr):  # fmt: skip
    """Channels without a frequency: only the temperature touches them."""
    if REST > 0:
        column, exists = columns(row, REST, BLOCK_R)
        x = tl.load(rows(source, batch, head, row) + IN + column, inside & exists, other=0.0)
        at = rows(target, batch, head, row) + OUT + column
        if temper is not None:
            x = x.to(tl.float32) * temper
        tl.store(at, x.to(at.dtype.element_ty), inside & exists)
