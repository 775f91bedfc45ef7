"""Where the tokens of a call stand: their positions, and who sees whom among them and the cache."""

from __future__ import annotations

import torch
from torch import Tensor

from whatwhere import positions as at
from whatwhere.attention import Where
from whatwhere.cache import KVCache

__all__ = ["where_of"]


def where_of(
    tokens: Tensor,
    positions: Tensor | None,
    documents: Tensor | None,
    valid: Tensor | None,
    cache: KVCache | None,
) -> tuple[Where, Tensor]:
    """Positions of the new tokens, and who sees whom among all."""
    batch, n = tokens.shape
    if positions is None and documents is None:
        if cache is not None and (followed := _follow(tokens, valid, cache)) is not None:
            return followed
        if cache is None and valid is None:
            where = Where(n, n, device=tokens.device)
            return where, where.q_pos
    if positions is None:
        positions = _default_positions(tokens, documents, valid, cache)
    positions = positions[None] if positions.dim() == 1 else positions
    if cache is None:
        where = Where(
            n,
            n,
            positions,
            positions,
            q_documents=documents,
            k_documents=documents,
            k_valid=valid,
        )
        return where, where.q_pos
    cache.advance(positions.expand(batch, n), valid)
    known = cache.valid if cache.padded else None
    return Where(n, cache.length, positions, cache.positions, k_valid=known), positions


def _follow(tokens: Tensor, valid: Tensor | None, cache: KVCache) -> tuple[Where, Tensor] | None:
    """`where_of` of tokens known to follow the cached ones one by one, else None."""
    batch, n = tokens.shape
    if cache.length:
        if valid is not None or cache.first is None:
            return None
        positions = cache.follow(n)
    elif valid is None:
        positions = cache.follow(n, batch=batch, device=tokens.device)
        where = Where(n, n, device=tokens.device)
        return where, where.q_pos
    elif torch.compiler.is_compiling() or not _left_padded(valid):
        return None
    else:
        positions = cache.follow(n, first=-(~valid).sum(dim=-1)).clamp(min=0)
    return Where(n, cache.length, positions, k_first=cache.first), positions


def _left_padded(valid: Tensor) -> bool:
    """Whether nothing but the left is padding. Reads the tensor: once, when a cache begins."""
    return bool((valid[:, 1:] | ~valid[:, :-1]).all())


def _default_positions(
    tokens: Tensor, documents: Tensor | None, valid: Tensor | None, cache: KVCache | None
) -> Tensor:
    if documents is not None:
        return at.from_documents(documents)
    if cache is None or cache.length == 0:
        assert valid is not None
        return at.left_padded(valid)
    # A row goes on after its last real token, wherever padding put that.
    last = cache.positions.masked_fill(~cache.valid, -1).amax(dim=-1, keepdim=True)
    steps = torch.ones_like(tokens) if valid is None else valid.to(torch.int64)
    return (last + steps.cumsum(dim=-1)).clamp(min=0)
