"""`attend`: attention under any rule, by the first backend that has no reason not to.

The operation's name fixes the mathematics (`whatwhere.rule`); the backend only says who computes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from whatwhere.attention.backend import Backend, Call, Unsupported
from whatwhere.attention.flex import Flex
from whatwhere.attention.fused import Fused
from whatwhere.attention.reference import Reference
from whatwhere.attention.sdpa import Sdpa
from whatwhere.attention.where import Where
from whatwhere.errors import UnknownName, did_you_mean
from whatwhere.rule import ScoreRule

__all__ = ["BACKENDS", "Call", "Unsupported", "Where", "attend", "backend_reasons"]

#: In order of preference for backend="auto".
BACKENDS: tuple[Backend, ...] = (Fused(), Sdpa(), Flex(), Reference())


def attend(
    q: Float[Tensor, "b h nq d"],
    k: Float[Tensor, "b g nk d"],
    v: Float[Tensor, "b g nk dv"],
    rule: ScoreRule | None = None,
    *,
    where: Where | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    backend: str = "auto",
    **positions: Any,
) -> Float[Tensor, "b h nq dv"]:
    """Attention under a rule: softmax over visible j of score[h,i,j], times values.

    score[h,i,j] = τ(i) · <Q_r(q,i), K_r(k,j)> · scale + b(h,i,j)  (see `whatwhere.rule`).

    Args:
        q, k, v: queries (b, h, nq, d), keys (b, g, nk, d), values (b, g, nk, dv), *before* any
            rotation. h is a multiple of g: query head x reads KV head x // (h / g).
        rule: what `encoding.rule(horizon)` returns; None is NoPE.
        where: positions and visibility as one object, to share between layers; or give its fields
            as keywords: q_pos, k_pos (int64, (n,) or (b, n)), causal (True), window,
            q_documents, k_documents, k_valid (False at padding).
        scale: default 1/√d with d the channels of q (never the doubled width of PoPE's features).
        dropout: on the attention weights, in [0, 1); the caller passes 0 in evaluation.
        backend: "auto" takes the first of `BACKENDS` without a reason; a name runs or raises.

    Raises:
        TypeError, ValueError: naming the argument, its value and what would be right.
        Unsupported: the named backend, with its reason.

    A query that sees no key gets output 0.
    """
    call = _checked(q, k, v, where, scale, dropout, backend, positions)
    rule = ScoreRule() if rule is None else rule
    if rule.pairwise is not None and rule.pairwise.causal_only and not call.where.causal:
        raise ValueError("causal is False, and this encoding counts from a key up to its query")
    if backend == "auto":
        for candidate in BACKENDS:
            if candidate.why_not(rule, call) is None:
                return candidate(rule, call)
    chosen = _named(backend)
    reason = chosen.why_not(rule, call)
    if reason is not None:
        raise Unsupported(f"backend {backend!r} can not compute this: {reason}")
    return chosen(rule, call)


def backend_reasons(rule: ScoreRule, call: Call) -> dict[str, str | None]:
    """For every backend in order, None or its reason not to compute the call."""
    return {backend.name: backend.why_not(rule, call) for backend in BACKENDS}


def _named(name: str) -> Backend:
    for backend in BACKENDS:
        if backend.name == name:
            return backend
    raise UnknownName(did_you_mean("backend", name, ["auto", *(b.name for b in BACKENDS)]))


def _checked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    where: Where | None,
    scale: float | None,
    dropout: float,
    backend: str,
    positions: dict[str, Any],
) -> Call:
    _check_vectors(q, k, v)
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout is {dropout}; give a probability in [0, 1)")
    if where is not None and positions:
        raise ValueError(f"pass where or {', '.join(positions)}, not both")
    if where is None:
        known = Where.__dataclass_fields__
        for name in positions:
            if name not in known or name in ("queries", "keys", "device"):
                options = sorted(set(known) - {"queries", "keys", "device", "derived"})
                raise TypeError(did_you_mean("argument of attend", name, options))
        where = Where(q.shape[2], k.shape[2], device=q.device, **positions)
    elif (where.queries, where.keys) != (q.shape[2], k.shape[2]):
        raise ValueError(
            f"where describes {where.queries} queries and {where.keys} keys, but q has "
            f"{q.shape[2]} and k {k.shape[2]}"
        )
    where.check_batch(q.shape[0])
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    return Call(q, k, v, where, scale, dropout, named=backend != "auto")


def _check_vectors(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dim() != 4:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}; give (batch, heads, tokens, channels)"
            )
        if 0 in x.shape:
            raise ValueError(f"{name} has shape {tuple(x.shape)}: an axis is empty")
        if not x.is_floating_point():
            raise TypeError(f"{name} has dtype {x.dtype}; give a floating-point tensor")
        if x.dtype != q.dtype:
            raise TypeError(f"{name} has dtype {x.dtype} and q {q.dtype}; give one dtype")
        # Reading a value on a GPU would stall the stream, and a compiled graph would break.
        watched = x.device.type == "cpu" and not torch.compiler.is_compiling()
        if watched and bool(x.detach().sum().isnan()):
            raise ValueError(f"{name} contains NaN (or opposite infinities); attention would too")
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q has {q.shape[-1]} channels and k {k.shape[-1]}; they must agree")
    if k.shape[1:3] != v.shape[1:3]:
        raise ValueError(f"k has {tuple(k.shape)} and v {tuple(v.shape)}: heads, tokens must agree")
    if q.shape[0] != k.shape[0] or k.shape[0] != v.shape[0]:
        raise ValueError(f"batches differ: q {q.shape[0]}, k {k.shape[0]}, v {v.shape[0]}")
    if q.shape[1] % k.shape[1]:
        raise ValueError(
            f"{q.shape[1]} query heads over {k.shape[1]} KV heads: the first must be a multiple"
        )
