"""Our own attention as torch operators: features and values -> outputs, with gradients.

Three families of kernels compute the same function of the same arguments: "hopper" (Gluon,
warp-specialised), "tiled" (plain Triton, any GPU from compute capability 8.0, any width) and
"short" (plain Triton, all keys in one tile; `fused_op` lets it make the features too). `forward`
and `backward` call one of them by name. `whatwhere::attention` and its backward are custom
operators around them: torch.compile keeps them whole and autograd knows them. Saved for the
backward pass: features, values, output, log-sum-exp.
"""

from __future__ import annotations

import functools
from typing import Any, Optional

import torch
from torch import Tensor

from whatwhere.kernels import short_launch, short_sizes, tiled_launch
from whatwhere.kernels.interpreter import interpreted
from whatwhere.kernels.pairs import Pairs
from whatwhere.kernels.tiled_launch import like
from whatwhere.kernels.tiled_sizes import WIDEST, of_device

__all__ = ["FAST", "KERNELS", "attention", "backward", "fast", "forward", "results", "why_not"]

#: In order of preference, but "short": it holds whole sequences of up to 128 tokens only.
KERNELS = ("hopper", "tiled", "short")
_HALF = (torch.bfloat16, torch.float16)
#: (kernel, kind of GPU, padded features, padded values) where adding dq by atomics was measured to
#: be faster than a kernel of its own. On an H200 it is slower at 128/64 and 256/128 (the rows
#: `pope_tiled` and `pope_tiled_fast` in benchmarks/rows), so there is none.
FAST: frozenset[tuple[str, str, int, int]] = frozenset()


def why_not(
    kernel: str, features: int, values: int, dtype: torch.dtype, device: torch.device
) -> str | None:
    """None if the kernels of this name take these widths on this device, else a sentence."""
    if kernel == "hopper":
        return _why_not_hopper(features, values, dtype, device)
    if dtype not in (*_HALF, torch.float32):
        return f"it multiplies bfloat16, float16 or float32, and q is {dtype}"
    widest = short_sizes.WIDEST if kernel == "short" else WIDEST
    if features > widest[0] or values > widest[1]:
        return f"it has sizes up to widths {widest[0]}/{widest[1]}, not {features}/{values}"
    if not interpreted() and _capability(device) < (8, 0):
        return f"Triton compiles for compute capability 8.0 and later, not for {_name(device)}"
    if kernel == "short":
        return short_sizes.why_not(of_device(device), dtype.itemsize, max(features, values))
    return None


def _why_not_hopper(
    features: int, values: int, dtype: torch.dtype, device: torch.device
) -> str | None:
    if dtype not in _HALF:
        return f"it multiplies in bfloat16 or float16, and q is {dtype}"
    if interpreted():
        return "Triton's interpreter runs no Gluon"
    if _capability(device)[0] != 9:
        return f"it is written for Hopper (compute capability 9.0), and this is {_name(device)}"
    return _why_not_sizes(features, values)


def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device)


@functools.cache
def _why_not_sizes(features: int, values: int) -> str | None:
    # Gluon is experimental: another Triton may lack a name, a module or an argument of it.
    try:
        from whatwhere.kernels.hopper_launch import tile_widths
    except (ImportError, AttributeError, TypeError) as error:
        return f"this Triton has no Gluon for Hopper as these kernels know it ({error})"
    try:
        tile_widths(features, values)
    except ValueError as error:
        return str(error)
    return None


def fast(kernel: str, device: torch.device, features: int, values: int) -> bool:
    """Whether the backward pass may add dq by atomics: measured to be faster, and permitted."""
    if torch.are_deterministic_algorithms_enabled():
        return False
    width, value = (1 << (size - 1).bit_length() for size in (features, values))
    return (kernel, of_device(device), width, value) in FAST


def forward(
    q: Tensor, k: Tensor, v: Tensor, scale: float, pairs: Pairs, kernel: str
) -> tuple[Tensor, Tensor]:
    """softmax(scale · q kᵀ + bias) v over the pairs that are seen, and its log-sum-exp.

    Shapes: q (b, h, n, f), k (b, g, m, f), v (b, g, m, dv) -> (b, h, n, dv), stored as
    (b, n, h, dv), and (b, h, n) float32, natural logarithm. A row that sees nothing has output 0
    and +inf. Query head x reads KV head x // (h / g). scale is positive.
    """
    return _launcher(kernel).forward(q, k, v, scale, pairs)


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    pairs: Pairs,
    kernel: str,
    deterministic: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, stored as these are; if deterministic, the same bits every time."""
    if kernel == "tiled":
        return tiled_launch.backward(grad, q, k, v, out, lse, scale, pairs, deterministic)
    return _launcher(kernel).backward(grad, q, k, v, out, lse, scale, pairs)


def _launcher(kernel: str) -> Any:
    if kernel == "tiled":
        return tiled_launch
    if kernel == "short":
        return short_launch
    if kernel == "hopper":
        from whatwhere.kernels import hopper_launch

        return hopper_launch
    raise ValueError(f"unknown kernel {kernel!r}; known: {', '.join(KERNELS)}")


def attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, pairs: Pairs, kernel: str = "hopper"
) -> Tensor:
    """`forward` without its log-sum-exp, with gradients of q, k and v."""
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    return _attention(
        q, k, v, scale, pairs.causal, pairs.window, pairs.q_place, pairs.k_place, pairs.slopes,
        kernel,
    )[0]  # fmt: skip


@torch.library.custom_op("whatwhere::attention", mutates_args=())
def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    causal: bool,
    window: int,
    q_place: Optional[Tensor],  # noqa: UP045 - the schema is read from the annotation
    k_place: Optional[Tensor],  # noqa: UP045
    slopes: Optional[Tensor],  # noqa: UP045
    kernel: str,
) -> tuple[Tensor, Tensor]:
    return forward(q, k, v, scale, Pairs(causal, window, q_place, k_place, slopes), kernel)


@_attention.register_fake
def _attention_shapes(  # type: ignore[no-untyped-def]
    q, k, v, scale, causal, window, q_place, k_place, slopes, kernel
):  # fmt: skip
    return results(q, v)


def results(q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Empty tensors as `forward` returns them."""
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
    window: int,
    q_place: Optional[Tensor],  # noqa: UP045
    k_place: Optional[Tensor],  # noqa: UP045
    slopes: Optional[Tensor],  # noqa: UP045
    kernel: str,
) -> tuple[Tensor, Tensor, Tensor]:
    pairs = Pairs(causal, window, q_place, k_place, slopes)
    strict = not fast(kernel, q.device, q.shape[-1], v.shape[-1])
    return backward(grad, q, k, v, out, lse, scale, pairs, kernel, strict)


@_backward.register_fake
def _backward_shapes(  # type: ignore[no-untyped-def]
    grad, q, k, v, out, lse, scale, causal, window, q_place, k_place, slopes, kernel
):  # fmt: skip
    return like(q), like(k), like(v)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, scale, causal, window, q_place, k_place, slopes, kernel = inputs
    ctx.save_for_backward(q, k, v, *output, q_place, k_place, slopes)
    ctx.mark_non_differentiable(output[1])
    ctx.rest = scale, causal, window, kernel


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, out, lse, q_place, k_place, slopes = ctx.saved_tensors
    scale, causal, window, kernel = ctx.rest
    grads = _backward(
        grad, q, k, v, out, lse, scale, causal, window, q_place, k_place, slopes, kernel
    )
    return (*grads, *(None,) * 7)


_attention.register_autograd(_differentiate, setup_context=_setup)
