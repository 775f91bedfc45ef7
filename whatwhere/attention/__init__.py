"""`attend`: attention under any rule, by the first backend that has no reason not to.

The operation's name fixes the mathematics (`whatwhere.rule`); the backend only says who computes.
"""

from __future__ import annotations

import math
from typing import Any

from jaxtyping import Float
from torch import Tensor

from whatwhere.attention.backend import Backend, Call, Unsupported
from whatwhere.attention.checks import check_rule, check_vectors
from whatwhere.attention.flex import Flex
from whatwhere.attention.fused import Fused
from whatwhere.attention.reference import Reference
from whatwhere.attention.sdpa import Sdpa
from whatwhere.attention.where import Where
from whatwhere.errors import UnknownName, did_you_mean, kind_of, probability, real_number
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
            as keywords: q_pos, k_pos (int64, (n,) or (b, n)) or k_first, causal (True), window,
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
    check_rule(rule, call)
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
    check_vectors(q, k, v)
    dropout = probability("dropout", dropout)
    if where is not None and not isinstance(where, Where):
        raise TypeError(f"where is {kind_of(where)}; give a Where, or its fields as keywords")
    if where is not None and positions:
        raise ValueError(f"pass where or {', '.join(positions)}, not both")
    if where is None:
        given = {name for name, field in Where.__dataclass_fields__.items() if field.init}
        options = sorted(given - {"queries", "keys", "device"})
        for name in positions:
            if name not in options:
                raise TypeError(did_you_mean("argument of attend", name, options))
        where = Where(q.shape[2], k.shape[2], device=q.device, **positions)
    elif (where.queries, where.keys) != (q.shape[2], k.shape[2]):
        raise ValueError(
            f"where describes {where.queries} queries and {where.keys} keys, but q has "
            f"{q.shape[2]} and k {k.shape[2]}"
        )
    where.check_batch(q.shape[0], q.device)
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else real_number("scale", scale)
    return Call(q, k, v, where, scale, dropout, named=backend != "auto")
