"""What the kernels for short sequences hold in a tile: raw vectors, angles, features, and back.

A tensor enters as the tuple (pointer, stride of batch, of head, of token); channels are contiguous.
"""

import triton
import triton.language as tl

from whatwhere.kernels.maps import cosine_sine, decayed, wrapped_cosine_sine
from whatwhere.kernels.prep_access import opened
from whatwhere.kernels.tiled import matrix, rows, start_of

__all__ = [
    "angles_of",
    "features_of",
    "of_keys",
    "of_queries",
    "plain",
    "plain_back",
    "put_raw",
    "put_tile",
    "raw_tile",
]


@triton.jit
def plain(a, b, cosine, sine, KIND: tl.constexpr):
    """The map that changes nothing: features made elsewhere, or none (NoPE, ALiBi)."""
    return a, b


@triton.jit
def plain_back(grad_0, grad_1, a, cosine, sine, KIND: tl.constexpr):
    """Its gradient."""
    return grad_0, grad_1


@triton.jit
def angles_of(batch, row, count, positions, step, spectrum, side, FIRST: tl.constexpr,
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
        size = decayed(position, column[None, :], F, decay, centre, side)
        cosine, sine = cosine * size, sine * size
    if amplitude is not None:
        cosine, sine = cosine * amplitude, sine * amplitude
    if F < FIRST + WIDTH:
        exists = (column < F)[None, :]
        cosine, sine = tl.where(exists, cosine, 0.0), tl.where(exists, sine, 0.0)
    return cosine, sine


@triton.jit
def of_keys(batch, row, n, m, where, spectrum, FIRST: tl.constexpr, F: tl.constexpr,
            WIDTH: tl.constexpr):  # fmt: skip
    """Cosine and sine of keys, (None, None) if nothing turns."""
    positions, position_step, k_positions, k_position_step = where
    if k_positions is not None:
        return angles_of(batch, row, m, k_positions, k_position_step, spectrum, -1, FIRST, F, WIDTH)
    else:
        return angles_of(batch, row, m, positions, position_step, spectrum, -1, FIRST, F, WIDTH)


@triton.jit
def of_queries(cosine, sine, batch, row, n, where, spectrum, offset, at, temper,
               FIRST: tl.constexpr, F: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """Those of queries: the keys' where positions are shared, turned on by a head's own angles δ
    (angle addition), times temperature."""
    positions, position_step, k_positions, _ = where
    if k_positions is not None or spectrum[5] is not None:
        cosine, sine = angles_of(batch, row, n, positions, position_step, spectrum, 1, FIRST, F,
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
def raw_tile(tensor, batch, head, count, FIRST: tl.constexpr, F: tl.constexpr, PAIRED: tl.constexpr,
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
def put_tile(tensor, batch, head, count, FIRST: tl.constexpr, COLUMNS: tl.constexpr, tile,
             BLOCK: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """Write columns of one head, rows beyond `count` and columns beyond COLUMNS left out."""
    at = rows(start_of(tensor, batch, head) + FIRST, tensor[3], 0, BLOCK, WIDTH)
    exists = (tl.arange(0, BLOCK) < count)[:, None] & (tl.arange(0, WIDTH) < COLUMNS)[None, :]
    tl.store(at, tile.to(at.dtype.element_ty), exists)


@triton.jit
def put_raw(tensor, batch, head, count, a, b, FIRST: tl.constexpr, F: tl.constexpr,
            PAIRED: tl.constexpr, INTERLEAVED: tl.constexpr, BLOCK: tl.constexpr,
            WIDTH: tl.constexpr):  # fmt: skip
    """The inverse of `raw_tile` and `opened`."""
    if INTERLEAVED:
        kind = tensor[0].dtype.element_ty
        both = tl.reshape(tl.join(a.to(kind), b.to(kind)), (BLOCK, 2 * WIDTH))
        put_tile(tensor, batch, head, count, 2 * FIRST, 2 * (F - FIRST), both, BLOCK, 2 * WIDTH)
    else:
        put_tile(tensor, batch, head, count, FIRST, F - FIRST, a, BLOCK, WIDTH)
        if PAIRED:
            put_tile(tensor, batch, head, count, F + FIRST, F - FIRST, b, BLOCK, WIDTH)


@triton.jit
def features_of(q, k, batch, head, own, row, n, m, where, spectrum, offset, slot, temper,
                MAP: tl.constexpr, PAIRED: tl.constexpr, INTERLEAVED: tl.constexpr, F: tl.constexpr,
                REST: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
                BLOCK_R: tl.constexpr):  # fmt: skip
    """Features of one head's queries and keys in parts, rounded as the preparation kernel does."""
    KIND: tl.constexpr = q[0].dtype.element_ty
    SKIP: tl.constexpr = 2 * F if PAIRED else F
    queries, keys = (), ()
    q_tiles, k_tiles = (), ()
    for first in tl.static_range(0, F, WIDTH):
        q_tiles += (raw_tile(q, batch, head, n, first, F, PAIRED, INTERLEAVED, BLOCK, WIDTH),)
        k_tiles += (raw_tile(k, batch, own, m, first, F, PAIRED, INTERLEAVED, BLOCK, WIDTH),)
    for first in tl.static_range(0, F, WIDTH):
        c, s = None, None
        if spectrum[0] is not None:
            c, s = of_keys(batch, row, n, m, where, spectrum, first, F, WIDTH)
        a, b = opened(k_tiles[first // WIDTH], PAIRED, INTERLEAVED, BLOCK, WIDTH)
        a, b = MAP(a, b, c, s, KIND)
        keys += (a.to(KIND), b.to(KIND))
        if spectrum[0] is not None:
            c, s = of_queries(c, s, batch, row, n, where, spectrum, offset, slot, temper, first,
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
