"""`attend`: attention under any rule, by the first backend that has no reason not to.

The operation's name fixes the mathematics (`whatwhere.rule`); the backend only says who computes.
"""

from __future__ import annotations

import math
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from whatwhere.attention import fused_decode, prepared
from whatwhere.attention.backend import Backend, Call, Unsupported
from whatwhere.attention.checks import check_rule, check_vectors
from whatwhere.attention.flex import Flex
from whatwhere.attention.fused import Fused
from whatwhere.attention.pages import Pages, checked_pages, positions_of
from whatwhere.attention.reference import Reference
from whatwhere.attention.sdpa import Sdpa
from whatwhere.attention.where import Where
from whatwhere.errors import (
    UnknownName,
    did_you_mean,
    kind_of,
    probability,
    real_number,
    whole_number,
)
from whatwhere.rule import ScoreRule

__all__ = ["BACKENDS", "Call", "Unsupported", "Where", "attend", "attend_pages", "backend_reasons"]

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
    check_rule(rule, call.q, call.v)
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


def attend_pages(
    q: Float[Tensor, "b h nq d"],
    k_pages: Float[Tensor, "p g page d"],
    v_pages: Float[Tensor, "p g page dv"],
    rule: ScoreRule | None = None,
    *,
    table: Int[Tensor, "b m"],
    lengths: Int[Tensor, " b"],
    q_pos: Int[Tensor, "..."] | None = None,
    window: int | None = None,
    scale: float | None = None,
    backend: str = "auto",
    **unknown: Any,
) -> Float[Tensor, "b h nq dv"]:
    """Causal attention over a paged cache of un-rotated keys: `attend`, keys found by a page table.

    Key j of row r, j < lengths[r], stands at position j and is
    k_pages[table[r, j // page], :, j % page]; the formula is `attend`'s.

    On a GPU the decode kernel reads pages in place for up to four query positions, where it
    computes the rule (`fused_decode`) and a page holds a multiple of its block (128 keys always
    do, 64 mostly; compiled, rows of pages must begin at multiples of 16 bytes, which is known only
    when it runs). There nothing is read back to the host: a captured CUDA graph replays with any
    lengths and table, and torch.compile keeps one operator. Elsewhere pages are gathered first.

    Args:
        q: queries (b, h, nq, d), before any rotation.
        k_pages, v_pages: (pages, g, page, d) and (pages, g, page, dv), any strides but contiguous
            channels: a cache stored (pages, page, g, d) is passed as its transpose(1, 2). Keys as
            `attend` takes them, or `rule.content(k)` with `rule.of_content()` as the rule.
        rule: what `encoding.rule(horizon)` returns; None is NoPE.
        table: (b, most pages a row), int32 or int64: the block table of a serving engine. Entries
            beyond a row's length may hold anything.
        lengths: (b,), int32 or int64: how many keys of each row count, those of q included.
        q_pos: positions of queries, (nq,) or (b, nq); by default q are each row's last tokens,
            lengths - nq, …, lengths - 1. One before 0 sees no key, and its output is 0.
        window: as in `attend`, in positions.
        scale: default 1/√d.
        backend: "auto"; "fused" reads pages in place or raises; another name computes over
            gathered pages.

    Raises:
        TypeError, ValueError: naming the argument, its value and what would be right. Numbers of
            pages and lengths out of range are found on a CPU only: on a GPU asking would be a wait,
            and they read memory that is not the cache's.
        Unsupported: the named backend, with its reason.
    """
    for name in unknown:
        known = ("table", "lengths", "q_pos", "window", "scale", "backend")
        raise TypeError(did_you_mean("argument of attend_pages", name, known))
    rule = ScoreRule() if rule is None else rule
    pages = checked_pages(q, k_pages, v_pages, table, lengths)
    check_rule(rule, q, v_pages)
    positions = positions_of(q, lengths, q_pos)
    if window is not None:
        whole_number("window", window)
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else real_number("scale", scale)
    if backend in ("auto", "fused"):
        reason = _why_not_in_place(rule, q, pages, named=backend == "fused")
        if reason is None:
            return fused_decode.decode_pages(rule, q, pages, positions, scale, window)
        if backend == "fused":
            raise Unsupported(f"backend 'fused' can not read these pages in place: {reason}")
    k, v, valid = pages.gathered()
    where = Where(q.shape[2], k.shape[2], positions, k_first=0, k_valid=valid, window=window)
    return attend(q, k, v, rule, where=where, scale=scale, backend=backend)


def _why_not_in_place(rule: ScoreRule, q: Tensor, pages: Pages, named: bool) -> str | None:
    reason = prepared.why_not_here(q.device, q.dtype, named) or prepared.why_no_triton()
    return reason or fused_decode.why_not_pages(rule, q, pages)


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
