"""Launching the plain Triton kernels: sizes per GPU, dtype and widths, grids, outputs.

Sizes are stored in `tiled_sizes`, not tuned: nothing is tried out at a user's first call.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
import triton
from torch import Tensor

from whatwhere.kernels import pairs as looks
from whatwhere.kernels import tiled, tiled_backward
from whatwhere.kernels.pairs import Pairs
from whatwhere.kernels.tiled_sizes import Sizes, Tile, of_device, padded, sizes_for

__all__ = ["backward", "forward", "like"]

_NOWHERE = contextlib.nullcontext()
_DELTA_ROWS = 32


def forward(
    q: Tensor, k: Tensor, v: Tensor, scale: float, pairs: Pairs, sizes: Sizes | None = None
) -> tuple[Tensor, Tensor]:
    """softmax(scale · q kᵀ + bias) v over the pairs that are seen, and its log-sum-exp.

    Shapes: q (b, h, n, f), k (b, g, m, f), v (b, g, m, dv) -> (b, h, n, dv), stored as
    (b, n, h, dv), and (b, h, n) float32, natural logarithm. A row that sees nothing has output 0
    and +inf. scale is positive. Any widths, any strides; bfloat16, float16 or float32, one for all.
    """
    (b, h, n, _), dv = q.shape, v.shape[-1]
    out = q.new_empty(b, n, h, dv).transpose(1, 2)
    lse = q.new_empty(b, h, n, dtype=torch.float32)
    tile = (sizes or _sizes(q, dv)).forward
    with _on_device(q):
        tiled.forward[(triton.cdiv(n, tile.queries) * b * h,)](
            _described(q), _described(k), _described(v), _described(out), lse,
            *_places(pairs, looks.bounds(pairs, tile.queries, tile.keys)),
            *_numbers(q, k), scale * math.log2(math.e), **_options(q, v, tile, pairs),
        )  # fmt: skip
    return out, lse


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    pairs: Pairs,
    deterministic: bool = True,
    sizes: Sizes | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, stored as these are; the same bits on every run if deterministic."""
    (b, h, n, f), (g, m), dv = q.shape, k.shape[1:3], v.shape[-1]
    sizes = sizes or _sizes(q, dv)
    deltas = torch.empty_like(lse)
    dk, dv_out = like(k), like(v)
    dq = like(q) if deterministic else q.new_zeros(b, h, n, f, dtype=torch.float32)
    inputs = [_described(x) for x in (q, k, v, grad)]
    with _on_device(q):
        tiled_backward.delta[(triton.cdiv(n, _DELTA_ROWS) * b * h,)](
            _described(out), inputs[3], deltas, n, h, DV=dv, BLOCK=_DELTA_ROWS, WIDTH=padded(dv)
        )
        if deterministic:
            tile = sizes.queries
            tiled_backward.queries[(triton.cdiv(n, tile.queries) * b * h,)](
                *inputs, _described(dq), lse, deltas,
                *_places(pairs, looks.bounds(pairs, tile.queries, tile.keys)),
                *_numbers(q, k), scale, **_options(q, v, tile, pairs),
            )  # fmt: skip
        tile = sizes.both if deterministic else sizes.fast
        tiled_backward.keys[(triton.cdiv(m, tile.keys) * b * g,)](
            *inputs, None if deterministic else dq, _described(dk), _described(dv_out), lse, deltas,
            *_places(pairs, looks.bounds(pairs, tile.queries, tile.keys, flip=True)),
            *_numbers(q, k), scale, **_options(q, v, tile, pairs), FAST=not deterministic,
        )  # fmt: skip
    return dq if deterministic else like(q).copy_(dq), dk, dv_out


def like(x: Tensor) -> Tensor:
    """An empty tensor stored in x's order of axes, channels next to each other."""
    return torch.empty_like(x) if x.stride(3) == 1 else x.new_empty(x.shape)


def _sizes(q: Tensor, values: int) -> Sizes:
    return sizes_for(of_device(q.device), q.dtype, q.shape[-1], values)


def _on_device(x: Tensor) -> Any:
    return torch.cuda.device(x.device) if x.is_cuda else _NOWHERE


def _described(x: Tensor) -> tuple[Any, ...]:
    x = x if x.stride(3) == 1 else x.contiguous()
    return x, x.stride(0), x.stride(1), x.stride(2)


def _places(pairs: Pairs, bounds: Tensor | None) -> tuple[Any, ...]:
    """Places, bounds and slopes, the steps from one batch element to the next, the window."""
    steps = []
    for tensor in (pairs.q_place, pairs.k_place, bounds):
        steps.append(0 if tensor is None or len(tensor) == 1 else tensor.stride(0))
    # Bounds are counted in rows of four numbers.
    steps[2] //= 4
    return pairs.q_place, pairs.k_place, bounds, pairs.slopes, *steps, pairs.window


def _numbers(q: Tensor, k: Tensor) -> tuple[int, ...]:
    return q.shape[2], k.shape[2], q.shape[1], q.shape[1] // k.shape[1]


def _options(q: Tensor, v: Tensor, tile: Tile, pairs: Pairs) -> dict[str, Any]:
    """The compile-time arguments that all kernels share."""
    return {
        "F": q.shape[-1],
        "DV": v.shape[-1],
        "BLOCK_Q": tile.queries,
        "BLOCK_K": tile.keys,
        "BLOCK_F": padded(q.shape[-1]),
        "BLOCK_DV": padded(v.shape[-1]),
        "SEEN": looks.seen,
        **pairs.options,
        "BIAS": looks.BIASES[pairs.options["BIAS"]],
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }
