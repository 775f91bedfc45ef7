"""Launching the Hopper kernels: sizes per shape, descriptors, grids. Sizes are stored, not tuned.

The table holds what compiles without spills for sm_90a (a test compiles it offline) and measured
best; nothing is tried out at a user's first call.
"""

from __future__ import annotations

import functools
import math

import torch
import triton
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from whatwhere.kernels import hopper, hopper_backward

__all__ = ["SIZES", "backward", "forward"]

#: (features, value width) -> (block, stages) of forward, of dQ, of dK and dV.
SIZES: dict[tuple[int, int], tuple[tuple[int, int], tuple[int, int], tuple[int, int]]] = {
    (64, 64): ((128, 3), (128, 3), (128, 3)),
    (128, 64): ((128, 2), (128, 2), (64, 3)),
    (128, 128): ((128, 2), (64, 2), (64, 3)),
    (256, 128): ((64, 2), (64, 2), (64, 3)),
}
_L2_BYTES = 24 << 20  # about half of the L2: what the K and V of the heads in flight may fill
_TYPES = {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16}
_OPTIONS = {"num_warps": 4, "maxnreg": 168}


@functools.cache
def _layout(rows: int, columns: int, dtype: torch.dtype) -> gl.NVMMASharedLayout:
    return gl.NVMMASharedLayout.get_default_for([rows, columns], _TYPES[dtype])


def _descriptor(x: Tensor, rows: int) -> TensorDescriptor:
    flat = x.view(-1, x.shape[-1])
    layout = _layout(rows, flat.shape[1], x.dtype)
    return TensorDescriptor.from_tensor(flat, [rows, flat.shape[1]], layout)


def _bundle(bytes_per_head: int, heads: int, step: int = 1) -> int:
    return min(heads, max(1, _L2_BYTES // bytes_per_head) * step)


def forward(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """Output (b, h, n, dv) and log-sum-exp (b, h, n) float32 of contiguous features."""
    (b, h, n, f), (g, m), dv = q.shape, k.shape[1:3], v.shape[-1]
    block, stages = SIZES[f, dv][0]
    out = q.new_empty(b, h, n, dv)
    lse = q.new_empty(b, h, n, dtype=torch.float32)
    grid = (triton.cdiv(n, 128) * b * h,)
    hopper.forward[grid](
        _descriptor(q, 64), _descriptor(k, block), _descriptor(v, block), out, lse, n, m, h, h // g,
        _bundle(m * (f + dv) * 2, b * h, h // g), *out.stride()[:3], scale * math.log2(math.e),
        BLOCK=block, F=f, DV=dv, STAGES=stages, CAUSAL=causal, **_OPTIONS,
    )  # fmt: skip
    return out, lse


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of contiguous q, k, v; the same bits on every run."""
    (b, h, n, f), (g, m), dv = q.shape, k.shape[1:3], v.shape[-1]
    deltas = torch.empty_like(lse)
    rows = b * h * n
    hopper_backward.delta[(triton.cdiv(rows, 64),)](out, grad, deltas, rows, WIDTH=dv, BLOCK=64)
    dq, dk, dv_ = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    common = {"F": f, "DV": dv, "CAUSAL": causal, **_OPTIONS}

    block, stages = SIZES[f, dv][1]
    hopper_backward.queries[(triton.cdiv(n, 128) * b * h,)](
        _descriptor(q, 64), _descriptor(grad, 64), _descriptor(k, block), _descriptor(v, block),
        dq, lse, deltas, n, m, h, h // g, _bundle(m * (f + dv) * 2, b * h, h // g), scale,
        BLOCK=block, STAGES=stages, **common,
    )  # fmt: skip
    block, stages = SIZES[f, dv][2]
    hopper_backward.keys[(triton.cdiv(m, 64) * b * g,)](
        _descriptor(q, block), _descriptor(grad, block), _descriptor(k, 64), _descriptor(v, 64),
        dk, dv_, lse, deltas, n, m, h, h // g, _bundle(n * (f + dv) * 2 * (h // g), b * g), scale,
        BLOCK=block, STAGES=stages, **common,
    )  # fmt: skip
    return dq, dk, dv_
