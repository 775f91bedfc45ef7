"""Decoding in the fused backend: what its kernels do not compute, and the call where they do.

Keys are read as the cache holds them, un-rotated and d wide; positions, padding and windows are
the call's own. Triton is imported inside `decode` only.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from whatwhere.attention.backend import Call, learns
from whatwhere.attention.pages import Pages
from whatwhere.maps import Plain
from whatwhere.rule import ScoreRule

__all__ = ["MOST_QUERIES", "decode", "decode_pages", "why_not", "why_not_pages"]

MOST_QUERIES = 4  # more positions are prefill: there a key's features are worth keeping
MOST_ROWS = 32
MOST_CHANNELS = 256
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def why_not(rule: ScoreRule, call: Call) -> str | None:
    """None if the decode kernels compute the call exactly, else one sentence."""
    return _why_not_rule(rule) or _why_not_call(rule, call)


def _why_not_rule(rule: ScoreRule) -> str | None:
    if rule.pairwise is not None:
        return rule.pairwise.reason
    if len(rule.cases) > 1:
        return f"the rule has {len(rule.cases)} terms for different regions of pairs"
    if rule.biases and _slopes(rule) is None:
        return "the decode kernel adds no bias to scores but slopes times distances (ALiBi)"
    if rule.value is not None or rule.output is not None:
        return "the decode kernel turns no values or outputs"
    query, key = rule.only.query, rule.only.key
    if isinstance(query, Plain) and isinstance(key, Plain):
        return None
    from whatwhere.kernels import twins

    return twins.why_not(query) or twins.why_not(key) or _why_not_maps(query, key)


def _why_not_maps(query: Any, key: Any) -> str | None:
    if query.reindex is not None or key.reindex is not None:
        return "the decode kernel re-indexes no positions"
    if getattr(key, "offset", None) is not None:
        return "the decode kernel takes δ on the query only"
    offset = getattr(query, "offset", None)
    if offset is not None and offset.dim() == 3:
        return "the decode kernel takes one model's δ, not those of models side by side"
    if getattr(query, "decay", None) is not None or getattr(key, "decay", None) is not None:
        return "the decode kernel has no decay (xPos)"
    if query.angles.start > 0:
        return "the decode kernel has no start rule (LongRoPE's n-hat)"
    unlike = type(query) is not type(key) or any(
        getattr(query, name, None) != getattr(key, name, None) for name in ("layout", "direction")
    )
    # Keys as the cache holds them: raw, or their content, which has its magnitude already.
    magnitudes = (getattr(query, "magnitude", None), "identity" if _content(query, key) else None)
    unlike = unlike or getattr(key, "magnitude", None) not in magnitudes
    a, b = query.angles, key.angles
    if unlike or a.turns is not b.turns or a.amplitude != b.amplitude or a.start != b.start:
        return "queries and keys are mapped differently"
    return None


def _content(query: Any, key: Any) -> bool:
    """Whether the key's map reads magnitudes, and the query's makes its own."""
    kinds = getattr(query, "magnitude", None), getattr(key, "magnitude", None)
    return kinds[1] == "identity" and kinds[0] != "identity"


def _slopes(rule: ScoreRule) -> Tensor | None:
    """Slopes (h,) of the rule's biases, if all of them are -slope · distance."""
    found = [getattr(bias, "slopes", None) for bias in rule.biases]  # `LinearBias`
    slopes = [each for each in found if each is not None]
    if not slopes or len(slopes) < len(found):
        return None
    return slopes[0] if len(slopes) == 1 else torch.stack(slopes).sum(0)


def _why_not_call(rule: ScoreRule, call: Call) -> str | None:
    if call.where.q_documents is not None and call.where.queries > 1:
        return "the decode kernel takes documents for one query position only"
    if call.dropout > 0:
        return f"it drops no attention weights, and dropout is {call.dropout}"
    return _why_not_vectors(rule, call.q, call.k, call.v) or _why_not_strides(k=call.k, v=call.v)


def _why_not_strides(**vectors: Tensor) -> str | None:
    for name, x in vectors.items():
        if x.stride(3) != 1:
            return f"channels of {name} are not contiguous, their stride is {x.stride(3)}"
    return None


def _why_not_vectors(rule: ScoreRule, q: Tensor, k: Tensor, v: Tensor) -> str | None:
    queries, group = q.shape[2], q.shape[1] // k.shape[1]
    offset = getattr(rule.only.query, "offset", None)
    slopes = _slopes(rule)
    wanted = any(x is not None and x.requires_grad for x in (q, k, v, offset, slopes))
    if (wanted and torch.is_grad_enabled()) or learns(*rule.temperatures):
        return "the decode kernel has no gradient"
    if queries > MOST_QUERIES:
        return f"the decode kernel takes at most {MOST_QUERIES} query positions, not {queries}"
    if queries * group > MOST_ROWS:
        return f"the decode kernel takes {MOST_ROWS} queries a KV head, not {queries * group}"
    if q.dtype not in _DTYPES:
        return f"the decode kernel takes bfloat16, float16 and float32, and q is {q.dtype}"
    if torch.is_autocast_enabled(q.device.type) and q.dtype == torch.float32:
        return "under autocast the whole cache would be cast at each step: keep it in 16 bits"
    if max(q.shape[-1], v.shape[-1]) > MOST_CHANNELS:
        return f"the decode kernel takes at most {MOST_CHANNELS} channels"
    return None


def decode(rule: ScoreRule, call: Call) -> Float[Tensor, "b h nq dv"]:
    """Attention of a few query positions over un-rotated keys: (b, h, nq, dv) in q's dtype."""
    from whatwhere.kernels.decode_launch import Keys, attend

    where = call.where
    first, valid = where.k_first, where.k_valid
    if first is not None and where.only_left_padded:
        valid = None  # what stands before position 0: the kernel knows
    if isinstance(first, int):
        first = None if first == 0 else torch.full((1,), first, device=call.device)
    if where.q_documents is not None:
        same = where.k_documents == where.q_documents
        valid = same if valid is None else same & valid
    return attend(
        call.q if call.q.stride(3) == 1 else call.q.contiguous(),  # few rows: copied at no price
        call.k,
        call.v,
        where.q_pos.clone(),  # of its own alignment: a slice's would be compiled for once more
        rule.only.query,
        Keys(
            None if where.contiguous or where.k_first is not None else where.k_pos,
            valid,
            first=first,
            content=_content(rule.only.query, rule.only.key),
        ),
        scale=call.scale,
        causal=where.causal,
        window=where.window,
        temperature=rule.temperature(where.q_pos),
        slopes=_slopes(rule),
    )


def why_not_pages(rule: ScoreRule, q: Tensor, pages: Pages) -> str | None:
    """None if the decode kernels read the pages in place, else one sentence; devices aside."""
    reason = _why_not_rule(rule) or _why_not_vectors(rule, q, pages.k, pages.v)
    if reason is not None:
        return reason
    reason = _why_not_strides(q=q, k_pages=pages.k, v_pages=pages.v)
    if reason is not None:
        return reason
    from whatwhere.kernels.decode_launch import block_of

    term = rule.only
    block = block_of(q, pages.k, pages.v, term.query, _content(term.query, term.key))
    if pages.page % block:
        return f"a page holds {pages.page} keys, and the decode kernel reads multiples of {block}"
    return None


def decode_pages(
    rule: ScoreRule, q: Tensor, pages: Pages, positions: Tensor, scale: float, window: int | None
) -> Float[Tensor, "b h nq dv"]:
    """Attention of a few query positions (1 or b, nq) over pages of un-rotated keys, in place."""
    from whatwhere.kernels.decode_launch import Keys, attend

    term = rule.only
    keys = Keys(
        lengths=pages.lengths.to(torch.int32),
        table=pages.table.to(torch.int32),
        content=_content(term.query, term.key),
    )
    return attend(
        q, pages.k, pages.v, positions, term.query, keys, scale=scale, window=window,
        temperature=rule.temperature(positions), slopes=_slopes(rule),
    )  # fmt: skip
