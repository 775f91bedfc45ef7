"""Blocks of a mask that their positions alone decide: all pairs visible, or none.

Of 65,536 tokens there are 4.3 billion pairs and 262,144 blocks, and a causal mask is mixed in 512
of them. So bounds come first, and pairs are looked at only where bounds leave a block open.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from whatwhere.attention.where import Where
from whatwhere.regions import Region

__all__ = ["certain"]


def certain(
    where: Where, region: Region, block: int
) -> tuple[Bool[Tensor, "b down across"], Bool[Tensor, "b down across"]]:
    """Blocks of block x block pairs that are wholly visible, and those that are wholly hidden.

    From the least and the greatest position (document) of a block's queries and keys: with
    distances between near = min i - max j and far = max i - min j, causality holds everywhere if
    near >= 0 and nowhere if far < 0; window, region and documents alike. A block in neither may
    still be either; pairs beyond the last query or key count as hidden.
    """
    (i_low, i_high), (j_low, j_high) = _bounds(where.q_pos, where.k_pos, block)
    near, far = i_low - j_high, i_high - j_low
    visible, hidden = _inside(near, far, 0 if where.causal else None, None)
    if where.window is not None:
        last = where.window - 1
        found = _inside(near, far, -last, last)
        visible, hidden = visible & found[0], hidden | found[1]
    chunks = [x.div(region.chunk, rounding_mode="floor") for x in (i_low, i_high, j_low, j_high)]
    found = _inside(chunks[0] - chunks[3], chunks[1] - chunks[2], region.least, region.most)
    visible, hidden = visible & found[0], hidden | found[1]
    if where.q_documents is not None:
        (i_low, i_high), (j_low, j_high) = _bounds(where.q_documents, where.k_documents, block)
        visible = visible & (i_low == j_high) & (i_high == j_low)
        hidden = hidden | (i_high < j_low) | (j_high < i_low)
    if where.k_valid is not None:
        low, high = _extremes(where.k_valid.to(torch.int8), block)
        visible, hidden = visible & (low > 0)[:, None], hidden | (high == 0)[:, None]
    visible = visible & _whole(where.queries, block, visible)[:, None]
    return visible & _whole(where.keys, block, visible), hidden


def _inside(
    smallest: Tensor, largest: Tensor, least: int | None, most: int | None
) -> tuple[Tensor, Tensor]:
    """Where all numbers from smallest to largest lie within least to most, and where none can."""
    every = smallest == smallest
    none = ~every
    if least is not None:
        every, none = every & (smallest >= least), none | (largest < least)
    if most is not None:
        every, none = every & (largest <= most), none | (smallest > most)
    return every, none


def _bounds(
    of_queries: Int[Tensor, "#b nq"], of_keys: Int[Tensor, "#b nk"], block: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Extremes of each block of queries (b, down, 1) and of keys (b, 1, across)."""
    i_low, i_high = _extremes(of_queries, block)
    j_low, j_high = _extremes(of_keys, block)
    return (i_low[:, :, None], i_high[:, :, None]), (j_low[:, None], j_high[:, None])


def _extremes(x: Int[Tensor, "b n"], block: int) -> tuple[Tensor, Tensor]:
    n = x.shape[1]
    # The last block is filled up with its last number, which changes no extreme.
    at = torch.arange(-(-n // block) * block, device=x.device).clamp(max=n - 1)
    blocks = x[:, at].unflatten(1, (-1, block))
    return blocks.amin(dim=-1), blocks.amax(dim=-1)


def _whole(length: int, block: int, like: Tensor) -> Bool[Tensor, " blocks"]:
    ends = (torch.arange(-(-length // block), device=like.device) + 1) * block
    return ends <= length
