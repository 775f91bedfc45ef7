"""The definition: dense scores, any dtype (float64 in tests), every rule.

It follows `whatwhere.rule` line by line and is meant to be read beside it. Memory grows with
queries × keys × heads; everything else in the library is checked against this file.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from whatwhere.attention.backend import Call, repeat_heads
from whatwhere.rule import ScoreRule

__all__ = ["Reference", "scores"]


def scores(rule: ScoreRule, call: Call) -> Float[Tensor, "b h nq nk"]:
    """The scores of all pairs, -inf where a pair is not visible, in at least float32."""
    where, heads = call.where, call.q.shape[1]
    dtype = torch.promote_types(call.q.dtype, torch.float32)
    q, k = call.q.to(dtype), call.k.to(dtype)
    i, j = where.q_pos, where.k_pos
    total: Tensor | None = None
    for term in rule.cases:
        key = repeat_heads(term.key(k, j), heads)
        products = (term.query(q, i) @ key.mT) * call.scale
        if total is None:
            total = products
        else:
            inside = term.region.contains(i[:, :, None], j[:, None, :])
            total = torch.where(inside[:, None], products, total)
    assert total is not None
    temperature = rule.temperature(i)
    if temperature is not None:
        total = total * temperature.to(dtype)[:, None, :, None]
    bias = rule.bias(heads, i, j)
    if bias is not None:
        total = total + bias.to(dtype)
    visible = where.visible()
    if rule.pairwise is not None:
        total = total + rule.pairwise.scores(q, total, i, j, visible, call.scale)
    return total.masked_fill(~visible[:, None], float("-inf"))


class Reference:
    """Dense attention, exact by definition."""

    name = "reference"

    def why_not(self, rule: ScoreRule, call: Call) -> str | None:
        """Always None: the definition refuses nothing."""
        return None

    def __call__(self, rule: ScoreRule, call: Call) -> Float[Tensor, "b h nq dv"]:
        """softmax(scores) · V, with zeros for a query that sees no key."""
        total = scores(rule, call)
        where, heads = call.where, call.q.shape[1]
        # A row of -inf has no softmax; its output is defined as 0 (and so is its gradient).
        blind = ~where.visible().any(dim=-1)[:, None, :, None]
        weights = torch.softmax(total.masked_fill(blind, 0.0), dim=-1).masked_fill(blind, 0.0)
        weights = F.dropout(weights, call.dropout, training=call.dropout > 0)
        value = repeat_heads(rule.map_value(call.v.to(total.dtype), where.k_pos), heads)
        out = weights @ value
        if rule.pairwise is not None:
            extra = rule.pairwise.outputs(weights, where.q_pos, where.k_pos)
            out = out if extra is None else out + extra
        return rule.map_output(out, where.q_pos).to(call.q.dtype)
