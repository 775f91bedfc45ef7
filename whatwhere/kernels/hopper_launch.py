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

from whatwhere.kernels import delta, hopper, hopper_keys, hopper_queries

__all__ = ["SIZES", "backward", "forward"]

#: (features, value width) -> (block, stages) of forward, of dQ, of dK and dV.
SIZES: dict[tuple[int, int], tuple[tuple[int, int], tuple[int, int], tuple[int, int]]] = {
    (64, 64): ((128, 3), (128, 3), (128, 3)),
    (128, 64): ((128, 3), (64, 3), (128, 2)),
    (128, 128): ((128, 2), (64, 2), (64, 3)),
    (256, 128): ((64, 2), (64, 2), (64, 3)),
}
_L2_BYTES = 24 << 20  # about half of the L2: what the K and V of the heads in flight may fill
_TYPES = {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16}
_OPTIONS = {"num_warps": 4, "maxnreg": 168}


@functools.cache
def _layout(rows: int, columns: int, dtype: torch.dtype) -> gl.NVMMASharedLayout:
    return gl.NVMMASharedLayout.get_default_for([rows, columns], _TYPES[dtype])


def _matrix(x: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """A (b, h, n, f) tensor as one matrix, and where a head lies in it (`hopper.origin`)."""
    b, h, n, f = x.shape
    if x.is_contiguous():
        return x.view(-1, f), (h * n, n, 0)
    if not x.transpose(1, 2).is_contiguous():
        return _matrix(x.contiguous())
    return x.transpose(1, 2).view(b * n, h * f), (n, 0, f)


def _bundle(bytes_per_head: int, heads: int, step: int = 1) -> int:
    return min(heads, max(1, _L2_BYTES // bytes_per_head) * step)


class _Operand:
    """A tensor for the copy engine: descriptors in blocks of any number of rows."""

    def __init__(self, x: Tensor) -> None:
        self.matrix, self.at = _matrix(x)
        self.width = x.shape[-1]

    def rows(self, count: int) -> TensorDescriptor:
        layout = _layout(count, self.width, self.matrix.dtype)
        return TensorDescriptor.from_tensor(self.matrix, [count, self.width], layout)


def forward(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """Output (b, h, n, dv), stored as (b, n, h, dv), and log-sum-exp (b, h, n) float32."""
    (b, h, n, f), (g, m), dv = q.shape, k.shape[1:3], v.shape[-1]
    block, stages = SIZES[f, dv][0]
    out = q.new_empty(b, n, h, dv).transpose(1, 2)
    lse = q.new_empty(b, h, n, dtype=torch.float32)
    Q, K, V = _Operand(q), _Operand(k), _Operand(v)
    hopper.forward[(triton.cdiv(n, 128) * b * h,)](
        Q.rows(64), K.rows(block), V.rows(block), Q.at, K.at, V.at, out, out.stride()[:3], lse,
        n, m, h, h // g, _bundle(m * (f + dv) * 2, b * h, h // g), scale * math.log2(math.e),
        BLOCK=block, F=f, DV=dv, STAGES=stages, CAUSAL=causal, **_OPTIONS,
    )  # fmt: skip
    return out, lse


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k, v, stored as these are; the same bits on every run."""
    (b, h, n, f), (g, m), dv = q.shape, k.shape[1:3], v.shape[-1]
    deltas = torch.empty_like(lse)
    grad = grad if grad.stride(-1) == 1 else grad.contiguous()
    delta.delta[(triton.cdiv(n, 64), b * h)](
        out, grad, out.stride()[:3], grad.stride()[:3], deltas, n, h, WIDTH=dv, BLOCK=64
    )
    grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    Q, G, K, V = _Operand(q), _Operand(grad), _Operand(k), _Operand(v)
    ats = (Q.at, G.at, K.at, V.at)
    sizes = (lse, deltas, n, m, h, h // g)
    common = {"F": f, "DV": dv, "CAUSAL": causal, **_OPTIONS}

    block, stages = SIZES[f, dv][1]
    hopper_queries.queries[(triton.cdiv(n, 128) * b * h,)](
        Q.rows(64), G.rows(64), K.rows(block), V.rows(block), ats, grad_q, grad_q.stride()[:3],
        *sizes, _bundle(m * (f + dv) * 2, b * h, h // g), scale,
        BLOCK=block, STAGES=stages, **common,
    )  # fmt: skip
    block, stages = SIZES[f, dv][2]
    hopper_keys.keys[(triton.cdiv(m, 64) * b * g,)](
        Q.rows(block), G.rows(block), K.rows(64), V.rows(64), ats, grad_k, grad_k.stride()[:3],
        grad_v, grad_v.stride()[:3], *sizes, _bundle(n * (f + dv) * 2 * (h // g), b * g), scale,
        BLOCK=block, STAGES=stages, **common,
    )  # fmt: skip
    return grad_q, grad_k, grad_v
