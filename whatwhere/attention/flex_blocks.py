"""The blocks of a FlexAttention mask, found without sorting.

torch's `create_block_mask` orders the blocks of each row by an argsort. Compiled for 16k tokens and
more (128 blocks a row), Inductor fuses it with the rest into one bitonic sort that ptxas works on
for minutes; uncompiled, it makes all pairs at once. Here blocks are counted chunk by chunk, and a
running sum says where each one's index goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["block_mask"]

BLOCK = 128  # torch's default, which its kernels are tuned for
PAIRS = 2**25  # evaluated at once: a comparison of positions holds 8 bytes a pair, 256 MiB


def block_mask(
    mask_mod: Callable[..., Tensor],
    batch: int,
    queries: int,
    keys: int,
    device: torch.device,
) -> Any:
    """torch's BlockMask of mask_mod(b, h, q, k) for every head: what `create_block_mask` gives.

    A block of 128 x 128 pairs is full where all of them are visible, partial where some are; pairs
    beyond the lengths count as not visible. mask_mod must take tensors that broadcast. Outside of
    torch.compile memory is that of about 32 million pairs (one row of blocks at least); inside, it
    is one expression, which Inductor reduces without storing any pair.
    """
    from torch.nn.attention.flex_attention import BlockMask  # slow: only for who needs it

    partial, full = _kinds(mask_mod, batch, queries, keys, device)
    # Not from_kv_blocks: it sorts for the backward pass's indices, which lists those of the keys.
    names = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")
    by_query = dict(zip(names, (*_ordered(partial), *_ordered(full)), strict=True))
    names = ("q_num_blocks", "q_indices", "full_q_num_blocks", "full_q_indices")
    turned = (partial.transpose(-2, -1), full.transpose(-2, -1))
    by_key = dict(zip(names, (*_ordered(turned[0]), *_ordered(turned[1])), strict=True))
    return BlockMask(
        seq_lengths=(queries, keys),
        **by_query,
        **by_key,
        BLOCK_SIZE=(BLOCK, BLOCK),
        mask_mod=mask_mod,
    )


def _kinds(
    mask_mod: Callable[..., Tensor], batch: int, queries: int, keys: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Which blocks are partial and which full, bool (batch, 1, query blocks, key blocks)."""
    across, down = -(-keys // BLOCK), -(-queries // BLOCK)
    rows = torch.arange(batch * down, device=device)
    if torch.compiler.is_compiling():
        counts = _visible_pairs(mask_mod, rows, down, across, queries, keys)
    else:
        at_once = max(1, PAIRS // (BLOCK * BLOCK * across))
        chunks = rows.split(at_once)
        counts = torch.cat(
            [_visible_pairs(mask_mod, part, down, across, queries, keys) for part in chunks]
        )
    counts = counts.view(batch, 1, down, across)
    full = counts == BLOCK * BLOCK
    return (counts > 0) & ~full, full


def _visible_pairs(
    mask_mod: Callable[..., Tensor], rows: Tensor, down: int, across: int, queries: int, keys: int
) -> Tensor:
    """How many pairs of each block are visible, (rows, across).

    Row r is the block r % down of queries of the batch element r // down.
    """
    inside = torch.arange(BLOCK, device=rows.device)
    b = (rows // down)[:, None, None, None]
    q = ((rows % down)[:, None] * BLOCK + inside)[:, :, None, None]
    k = (torch.arange(across, device=rows.device)[:, None] * BLOCK + inside)[None, None]
    seen = mask_mod(b, torch.zeros_like(b), q.clamp(max=queries - 1), k.clamp(max=keys - 1))
    seen = seen & (q < queries) & (k < keys)
    return seen.sum(dim=(1, 3), dtype=torch.int32)


def _ordered(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """How many are chosen per row, and all columns, the chosen ones first; int32, as in torch."""
    width = chosen.shape[-1]
    columns = torch.arange(width, device=chosen.device).expand(chosen.shape)
    upto = chosen.cumsum(dim=-1)
    count = upto[..., -1:]
    place = torch.where(chosen, upto - 1, count + columns - upto)
    indices = torch.empty_like(columns, memory_format=torch.contiguous_format)
    indices = indices.scatter(-1, place, columns)
    return count[..., 0].to(torch.int32).contiguous(), indices.to(torch.int32)
