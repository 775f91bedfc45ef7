"""Our own attention as torch operators: features and values -> outputs, with gradients.

`whatwhere::attention` and its backward are custom operators: torch.compile keeps them whole and
autograd knows them. Saved for the backward pass: features, values, output, log-sum-exp.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

__all__ = ["attention", "why_not"]


def why_not(features: int, values: int, dtype: torch.dtype, device: int) -> str | None:
    """None if the Hopper kernels take these widths on this device, else a sentence."""
    if dtype not in (torch.bfloat16, torch.float16):
        return f"it multiplies in bfloat16 or float16, and q is {dtype}"
    if torch.cuda.get_device_capability(device)[0] != 9:
        name = torch.cuda.get_device_name(device)
        return f"it is written for Hopper (compute capability 9.0), and this is {name}"
    return _why_not_sizes(features, values)


@functools.cache
def _why_not_sizes(features: int, values: int) -> str | None:
    try:
        from whatwhere.kernels.hopper_launch import SIZES
    except ImportError as error:
        return f"this Triton has no Gluon for Hopper ({error})"
    if (features, values) not in SIZES:
        known = ", ".join(f"{f}/{dv}" for f, dv in SIZES)
        return f"it has sizes for widths {known}, not {features}/{values}"
    return None


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> Tensor:
    """softmax(q kᵀ · scale) v: q (b, h, n, f), k (b, g, m, f), v (b, g, m, dv) -> (b, h, n, dv).

    Query head x reads KV head x // (h / g); causal means j <= i by index and needs n = m. The
    backward pass is deterministic.
    """
    return _attention(q, k, v, scale, causal)[0]


@torch.library.custom_op("whatwhere::attention", mutates_args=())
def _attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool
) -> tuple[Tensor, Tensor]:
    from whatwhere.kernels import hopper_launch

    return hopper_launch.forward(q, k, v, scale, causal)


@_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    b, h, n, _ = q.shape
    out = q.new_empty(b, n, h, v.shape[-1]).transpose(1, 2)
    return out, q.new_empty(b, h, n, dtype=torch.float32)


@torch.library.custom_op("whatwhere::attention_backward", mutates_args=())
def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    from whatwhere.kernels import hopper_launch

    return hopper_launch.backward(grad, q, k, v, out, lse, scale, causal)


@_backward.register_fake
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, scale, causal = inputs
    ctx.save_for_backward(q, k, v, *output)
    ctx.mark_non_differentiable(output[1])
    ctx.scale, ctx.causal = scale, causal


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, out, lse = ctx.saved_tensors
    grads = _backward(grad, q, k, v, out, lse, ctx.scale, ctx.causal)
    return (*grads, None, None)


_attention.register_autograd(_differentiate, setup_context=_setup)
