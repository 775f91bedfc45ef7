"""Features and their gradients as plain functions on tensors: what the custom operators wrap.

The gradient of a rotation needs no raw vectors, that of a magnitude does.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from whatwhere.kernels.prep_launch import RECIPES, Inputs, empty, launch, plan, tokens_first, total

__all__ = ["backward", "forward", "keys", "needs_raw"]


def forward(
    q: Tensor, k: Tensor | None, inputs: Inputs, recipe: str, by_heads: bool
) -> tuple[Tensor, Tensor | None]:
    """Features of q and k, in one launch: stored as these are, or head after head."""
    width = q.shape[-1] + _more(inputs, recipe)
    q_out = empty(q, width, not by_heads and tokens_first(q))
    k_out = None if k is None else empty(k, width, not by_heads and tokens_first(k))
    launch("forward", (q, k, q_out, k_out), (), inputs, recipe, q.shape[-1])
    return q_out, k_out


def backward(
    grads: tuple[Tensor, Tensor | None],
    raw: tuple[Tensor | None, Tensor | None],
    inputs: Inputs,
    recipe: str,
    by_tokens: bool,
    wants_offset: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of raw q and k from those of their features, and of δ, in δ's shape.

    Stored (b, n, heads, d) if `by_tokens`. The sum for δ has a fixed order.
    """
    q_grad, k_grad = grads
    width = q_grad.shape[-1] - _more(inputs, recipe)
    q_out = empty(q_grad, width, by_tokens)
    k_out = None if k_grad is None else empty(k_grad, width, by_tokens)
    tensors = (*raw, q_grad, k_grad, q_out, k_out)
    if not wants_offset:
        launch("backward", tensors, (), inputs, recipe, width)
        return q_out, k_out, None
    count, kv_heads = inputs.turns.shape[0], 0 if k_grad is None else k_grad.shape[1]
    chunks = len(q_grad) * plan("sums", recipe, count, q_grad, kv_heads).chunks
    partial = q_grad.new_empty((chunks, q_grad.shape[1], count), dtype=torch.float32)
    launch("sums", tensors, (partial,), inputs, recipe, width)
    return q_out, k_out, total(partial).view_as(inputs.offset)  # (h, F), or (1, h, F)


def keys(inputs: Inputs, positions: Tensor) -> Inputs:
    """What keys at positions of their own read: no δ, no temperature, the reciprocal decay."""
    decay = inputs.decay
    if decay:
        decay = (decay[0], -decay[1], decay[2])
    return replace(inputs, positions=positions, offset=None, temperature=None, decay=decay)


def needs_raw(recipe: str, wants_offset: bool) -> bool:
    """Whether the backward pass looks at raw vectors."""
    return wants_offset or not RECIPES[recipe].paired


def _more(inputs: Inputs, recipe: str) -> int:
    count = inputs.turns.shape[0]
    return 2 * count - RECIPES[recipe].channels(count)
