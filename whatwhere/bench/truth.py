"""The gate: a slice of the timed call against the definition in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from whatwhere.attention import attend
from whatwhere.bench.measure import distance
from whatwhere.bench.setting import Setup, Vectors
from whatwhere.maps import Polar
from whatwhere.rule import ScoreRule

__all__ = ["LIMIT", "errors", "queries"]

#: Relative Frobenius norm: bfloat16 features give 2e-3 to 6e-3, a wrong sign or mask 0.1 and more.
LIMIT = 2e-2
ALL = 4096
BLOCK = 128


def queries(length: int, device: torch.device | str) -> Tensor:
    """The queries that are checked: all of a short sequence, else one at random of every block of
    128, the first and the last. So the dense float64 scores stay under 300 MB at any length."""
    if length <= ALL:
        return torch.arange(length, device=device)
    generator = torch.Generator().manual_seed(length)
    blocks = torch.arange(0, length, BLOCK)
    drawn = blocks + torch.randint(BLOCK, blocks.shape, generator=generator)
    ends = torch.tensor([0, length - 1])
    return torch.cat((drawn, ends)).clamp(max=length - 1).unique().to(device)


def errors(placed: Setup, forward: Callable[[], Tensor], x: Vectors) -> dict[str, float]:
    """Errors of the first sequence's first KV head and its query heads, by tensor.

    The gradient of the output is zero but at the checked queries of the first sequence, so the
    gradients of keys, values and δ are theirs alone, and those of other queries must be zero.
    """
    group = placed.case.grouped
    rows = queries(placed.case.length, x.grad.device)
    lonely = torch.zeros_like(x.grad)
    lonely[:1, :, rows] = x.grad[:1, :, rows]
    out = forward()
    got = list(torch.autograd.grad(out, [*x.leaves, *placed.learned], lonely))

    q, k, v = (t[:1, :h].detach().double() for t, h in zip(x.views, (group, 1, 1), strict=True))
    for each in (q, k, v):
        each.requires_grad_()
    rule = _sliced(placed.rule(), group)
    offset = getattr(rule.only.query, "offset", None)
    learned = [] if offset is None else [offset]
    where = placed.seen_by(rows)
    true = attend(q[:, :, rows], k, v, rule, where=where, scale=placed.scale, backend="reference")
    exact = [q, k, v, *learned]
    wanted = torch.autograd.grad(true, exact, lonely[:1, :group, rows].double())
    result = {"output": distance(out[:1, :group, rows], true.detach())}
    mine = x.heads_first(got)
    for name, gradient, truth, h in zip("qkv", mine, wanted, (group, 1, 1), strict=False):
        result[f"d{name}"] = distance(gradient[:1, :h], truth)
    if learned:
        result["d_delta"] = distance(got[3][:group], -wanted[3])
    return {name: float(f"{value:.2e}") for name, value in result.items()}


def _sliced(rule: Any, group: int) -> ScoreRule:
    """The rule for the first `group` query heads, δ in float64 and a leaf."""
    term = rule.only
    if not isinstance(term.query, Polar) or term.query.offset is None:
        return replace(rule, heads=group)
    offset = term.query.offset[:group].detach().double().requires_grad_()
    query = replace(term.query, offset=offset)
    return replace(rule, terms=(replace(term, query=query),), heads=group)
