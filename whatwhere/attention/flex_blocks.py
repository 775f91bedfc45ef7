"""The blocks of a FlexAttention mask, found without sorting, and pair by pair only where needed.

torch's `create_block_mask` orders the blocks of each row by an argsort. Compiled for 16k tokens and
more (128 blocks a row), Inductor fuses it with the rest into one bitonic sort that ptxas works on
for minutes; uncompiled, it makes all pairs at once. Here bounds of positions decide most blocks
(`flex_bounds`), the pairs of the others are counted chunk by chunk, and a running sum says where
each one's index goes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from whatwhere.attention.flex_bounds import certain
from whatwhere.attention.where import Where
from whatwhere.regions import Region

__all__ = ["block_mask"]

BLOCK = 128  # torch's default, which its kernels are tuned for
PAIRS = 2**25  # evaluated at once: a comparison of positions holds 8 bytes a pair, 256 MiB


def block_mask(mask_mod: Callable[..., Tensor], where: Where, region: Region) -> Any:
    """torch's BlockMask of mask_mod(b, h, q, k) for every head: what `create_block_mask` gives.

    mask_mod says which pairs of `where` inside the region are visible, of tensors that broadcast.
    A block of 128 x 128 pairs is full where all of them are, partial where some are; pairs beyond
    the lengths count as not visible. Uncompiled, its memory is that of about 32 million pairs, and
    for more of them it waits once for the device. Inside torch.compile it is one expression over
    all pairs, which Inductor reduces without storing any.
    """
    from torch.nn.attention.flex_attention import BlockMask  # slow: only for who needs it

    counts = _counts(mask_mod, where, region)[:, None]
    full = counts == BLOCK * BLOCK
    partial = (counts > 0) & ~full
    # Not from_kv_blocks: it sorts for the backward pass's indices, which lists those of the keys.
    names = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")
    by_query = dict(zip(names, (*_ordered(partial), *_ordered(full)), strict=True))
    names = ("q_num_blocks", "q_indices", "full_q_num_blocks", "full_q_indices")
    turned = (partial.transpose(-2, -1), full.transpose(-2, -1))
    by_key = dict(zip(names, (*_ordered(turned[0]), *_ordered(turned[1])), strict=True))
    return BlockMask(
        seq_lengths=(where.queries, where.keys),
        **by_query,
        **by_key,
        BLOCK_SIZE=(BLOCK, BLOCK),
        mask_mod=mask_mod,
    )


def _counts(mask_mod: Callable[..., Tensor], where: Where, region: Region) -> Tensor:
    """How many pairs of each block are visible, (batch, query blocks, key blocks)."""
    sizes, device = (where.queries, where.keys), where.q_pos.device
    shape = (where.batch, *(-(-length // BLOCK) for length in sizes))
    numbers = [torch.arange(count, device=device) for count in shape]
    if torch.compiler.is_compiling():
        b, row, column = torch.meshgrid(*numbers, indexing="ij")
        return _visible_pairs(mask_mod, b, row, column, *sizes)
    chunk = max(1, PAIRS // (BLOCK * BLOCK))
    if not _worth_a_wait(device, math.prod(shape) <= chunk):
        counts = torch.zeros(shape, dtype=torch.int64, device=device)
        rest = torch.cartesian_prod(*numbers)
    else:
        visible, hidden = certain(where, region, BLOCK)
        counts = torch.where(visible, BLOCK * BLOCK, 0).expand(shape).contiguous()
        rest = (~(visible | hidden)).expand(shape).nonzero()
    for part in rest.split(chunk):
        b, row, column = part.unbind(1)
        counts[b, row, column] = _visible_pairs(mask_mod, b, row, column, *sizes)
    return counts


def _worth_a_wait(device: torch.device, few: bool) -> bool:
    """Whether the host should ask the device which blocks are open, and wait for its answer.

    Not while it captures a CUDA graph, which can not hold a wait, and not for few pairs, which take
    a GPU less time than waiting: steps of decoding stay asynchronous.
    """
    if device.type != "cuda":
        return True
    return not few and not torch.cuda.is_current_stream_capturing()


def _visible_pairs(
    mask_mod: Callable[..., Tensor], b: Tensor, row: Tensor, column: Tensor, queries: int, keys: int
) -> Tensor:
    """How many pairs are visible in the blocks of these numbers, in their shape, int64."""
    inside = torch.arange(BLOCK, device=b.device)
    b = b[..., None, None]
    q = (row[..., None] * BLOCK + inside)[..., :, None]
    k = (column[..., None] * BLOCK + inside)[..., None, :]
    seen = mask_mod(b, torch.zeros_like(b), q.clamp(max=queries - 1), k.clamp(max=keys - 1))
    return (seen & (q < queries) & (k < keys)).sum(dim=(-2, -1))


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
