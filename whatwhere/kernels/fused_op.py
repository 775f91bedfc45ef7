"""Preparation and our own attention as one operator: training keeps raw vectors only.

`whatwhere::fused` prepares features, attends over them and forgets them; its backward prepares
them again. Saved: raw q, k, v, output, log-sum-exp, as many bytes as RoPE keeps around any flash
attention, where PoPE's features would be twice as wide as q and k. The price is one more reading
of q and k and one more writing of features in the backward pass.

A rotation is treated alike. Its rotated vectors take the bytes of the raw ones, so keeping them
would save that second preparation; but where q, k and v are views of one projection, v alone keeps
the raw q and k alive, and rotated ones would come on top. Raw never keeps more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Optional

import torch
from torch import Tensor

from whatwhere.kernels import attention, features, prep_calls, short_launch
from whatwhere.kernels.pairs import Pairs
from whatwhere.kernels.prep_launch import Inputs, empty, tokens_first
from whatwhere.maps import Map

__all__ = ["fused", "why_not"]


def why_not(query: Map, key: Map, temperature: Tensor | None) -> str | None:
    """None if `fused` computes these maps and this temperature with gradients, else a sentence."""
    from whatwhere.kernels import twins

    reason = twins.why_not(query) or twins.why_not(key)
    if reason is not None:
        return reason
    if not features.alike(query, key):
        return "queries and keys are mapped differently"
    if temperature is not None and temperature.requires_grad and torch.is_grad_enabled():
        return "the preparation kernel has no gradient of the temperature"
    return None


def fused(
    query: Map,
    key: Map,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_positions: Tensor,
    k_positions: Tensor | None,
    scale: float,
    pairs: Pairs,
    kernel: str,
    temperature: Tensor | None = None,
) -> Tensor:
    """softmax(scale · τ Q(q) K(k)ᵀ + bias) v over the pairs that are seen, keeping raw vectors.

    Shapes: raw q (b, h, n, d), k (b, g, m, d), v (b, g, m, dv), positions (1 or b, n) and (1 or
    b, m) int64 (k_positions None: as the queries', one launch for both), temperature (1 or b, n)
    -> (b, h, n, dv), stored (b, n, h, dv). Gradients: q, k, v and δ, stored as q, k and v are.
    `kernel` is one of `attention.KERNELS`, `pairs` what it looks at. Under autocast vectors are
    cast first. With δ (s, h, F), of s models side by side, "short" runs once and the others once a
    model. Raises ValueError with the reason if `why_not` has one.
    """
    each = features.alone(query)
    if len(each) == 1:
        (query,) = each  # with δ (h, F): only "short" knows of several models
    elif kernel != "short":
        return _one_by_one(
            each, key, (q, k, v, q_positions, k_positions, temperature), scale, pairs, kernel
        )
    reason = why_not(query, key, temperature)
    if reason is not None:
        raise ValueError(f"query and key maps can not be fused: {reason}")
    if torch.is_autocast_enabled(q.device.type):
        dtype = torch.get_autocast_dtype(q.device.type)
        q, k, v = (x.to(dtype) for x in (q, k, v))
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    apart = k_positions is not None or query.reindex != key.reindex  # type: ignore[attr-defined]
    at = features.seen(key, q_positions if k_positions is None else k_positions) if apart else None
    positions, *angles = features.described(query, q_positions, temperature)
    return _fused(
        q, k, v, positions, at, *angles, scale, pairs.causal, pairs.window, pairs.q_place,
        pairs.k_place, pairs.slopes, kernel,
    )[0]  # fmt: skip


def _one_by_one(
    each: list[Map], key: Map, tensors: tuple[Tensor | None, ...], scale: float, pairs: Pairs,
    kernel: str,
) -> Tensor:  # fmt: skip
    """`fused` of every model on its part of the batch."""
    outs = []
    for index, query in enumerate(each):
        q, k, v, at, k_at, temperature = (features.part_of(x, index, len(each)) for x in tensors)
        places = [features.part_of(x, index, len(each)) for x in (pairs.q_place, pairs.k_place)]
        own = replace(pairs, q_place=places[0], k_place=places[1])
        assert q is not None and k is not None and v is not None and at is not None  # noqa: PT018
        outs.append(fused(query, key, q, k, v, at, k_at, scale, own, kernel, temperature))
    return features.joined(outs)


def _prepared(
    q: Tensor, k: Tensor, inputs: Inputs, k_positions: Tensor | None, recipe: str, kernel: str
) -> tuple[Tensor, Tensor]:
    """Features of q and k. The Hopper kernels copy blocks of rows: they should lie together."""
    by_heads = kernel == "hopper"
    if k_positions is None:
        q_out, k_out = prep_calls.forward(q, k, inputs, recipe, by_heads)
    else:
        q_out, _ = prep_calls.forward(q, None, inputs, recipe, by_heads)
        of_keys = prep_calls.keys(inputs, k_positions)
        k_out, _ = prep_calls.forward(k, None, of_keys, recipe, by_heads)
    assert k_out is not None
    return q_out, k_out


def _unprepared(
    grads: tuple[Tensor, Tensor], q: Tensor, k: Tensor, inputs: Inputs,
    k_positions: Tensor | None, recipe: str, wants_offset: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Gradients of raw q, k and of δ from those of features."""
    raw = prep_calls.needs_raw(recipe, wants_offset)
    orders = tokens_first(q), tokens_first(k)
    if k_positions is None and orders[0] == orders[1]:
        both = (q, k) if raw else (None, None)
        dq, dk, d_offset = prep_calls.backward(grads, both, inputs, recipe, orders[0], wants_offset)
    else:
        dq, _, d_offset = prep_calls.backward(
            (grads[0], None), (q if raw else None, None), inputs, recipe, orders[0], wants_offset
        )
        at = inputs.positions if k_positions is None else k_positions
        dk, _, _ = prep_calls.backward(
            (grads[1], None), (k if raw else None, None), prep_calls.keys(inputs, at), recipe,
            orders[1], False,
        )  # fmt: skip
    assert dk is not None
    return dq, dk, d_offset


@torch.library.custom_op("whatwhere::fused", mutates_args=())
def _fused(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    k_positions: Optional[Tensor],  # noqa: UP045 - the schema is read from the annotation
    turns: Tensor,
    early_turns: Optional[Tensor],  # noqa: UP045
    offset: Optional[Tensor],  # noqa: UP045
    temperature: Optional[Tensor],  # noqa: UP045
    recipe: str,
    amplitude: float,
    start: int,
    direction: int,
    decay: Sequence[float],
    scale: float,
    causal: bool,
    window: int,
    q_place: Optional[Tensor],  # noqa: UP045
    k_place: Optional[Tensor],  # noqa: UP045
    slopes: Optional[Tensor],  # noqa: UP045
    kernel: str,
) -> tuple[Tensor, Tensor]:
    inputs = Inputs(
        positions, turns, early_turns, offset, temperature, start, direction, amplitude,
        tuple(decay),
    )  # fmt: skip
    pairs = Pairs(causal, window, q_place, k_place, slopes)
    if kernel == "short":  # features are made inside
        return short_launch.mapped(q, k, v, inputs, k_positions, recipe, scale, pairs)
    q_out, k_out = _prepared(q, k, inputs, k_positions, recipe, kernel)
    return attention.forward(q_out, k_out, v, scale, pairs, kernel)


@_fused.register_fake
def _fused_shapes(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return attention.results(q, v)


@torch.library.custom_op("whatwhere::fused_backward", mutates_args=())
def _fused_backward(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    wants_offset: bool,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    k_positions: Optional[Tensor],  # noqa: UP045
    turns: Tensor,
    early_turns: Optional[Tensor],  # noqa: UP045
    offset: Optional[Tensor],  # noqa: UP045
    temperature: Optional[Tensor],  # noqa: UP045
    recipe: str,
    amplitude: float,
    start: int,
    direction: int,
    decay: Sequence[float],
    scale: float,
    causal: bool,
    window: int,
    q_place: Optional[Tensor],  # noqa: UP045
    k_place: Optional[Tensor],  # noqa: UP045
    slopes: Optional[Tensor],  # noqa: UP045
    kernel: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs = Inputs(
        positions, turns, early_turns, offset, temperature, start, direction, amplitude,
        tuple(decay),
    )  # fmt: skip
    pairs = Pairs(causal, window, q_place, k_place, slopes)
    grad = grad if grad.stride(-1) == 1 else grad.contiguous()
    if kernel == "short":
        dq, dk, dv, d_offset = short_launch.mapped_backward(
            grad, q, k, v, lse, inputs, k_positions, recipe, scale, pairs, wants_offset
        )
    else:
        q_out, k_out = _prepared(q, k, inputs, k_positions, recipe, kernel)
        strict = not attention.fast(kernel, q.device, q_out.shape[-1], v.shape[-1])
        dq, dk, dv = attention.backward(
            grad, q_out, k_out, v, out, lse, scale, pairs, kernel, strict
        )
        del q_out, k_out  # the second most memory of the step, from here on unused
        dq, dk, d_offset = _unprepared((dq, dk), q, k, inputs, k_positions, recipe, wants_offset)
    return dq, dk, dv, q.new_empty(0, dtype=torch.float32) if d_offset is None else d_offset


@_fused_backward.register_fake
def _fused_backward_shapes(
    grad: Tensor, out: Tensor, lse: Tensor, wants_offset: bool, q: Tensor, k: Tensor, v: Tensor,
    positions: Tensor, k_positions: Tensor | None, turns: Tensor, early_turns: Tensor | None,
    offset: Tensor | None, *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    count = (0,) if offset is None or not wants_offset else offset.shape
    return (
        empty(q, q.shape[-1], tokens_first(q)),
        empty(k, k.shape[-1], tokens_first(k)),
        attention.like(v),
        q.new_empty(count, dtype=torch.float32),
    )


_TENSORS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 17, 18, 19)  # of the operator's arguments
_OFFSET = 7


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output, *(inputs[index] for index in _TENSORS))
    ctx.mark_non_differentiable(output[1])
    ctx.arguments = [None if index in _TENSORS else each for index, each in enumerate(inputs)]


def _gradients(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    out, lse, *tensors = ctx.saved_tensors
    arguments = list(ctx.arguments)
    for index, tensor in zip(_TENSORS, tensors, strict=True):
        arguments[index] = tensor
    wants_offset = ctx.needs_input_grad[_OFFSET]
    dq, dk, dv, d_offset = _fused_backward(grad, out, lse, wants_offset, *arguments)
    found: list[Tensor | None] = [None] * len(arguments)
    found[:3], found[_OFFSET] = (dq, dk, dv), d_offset if wants_offset else None
    return tuple(found)


_fused.register_autograd(_gradients, setup_context=_remember)
