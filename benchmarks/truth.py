"""The gate: a slice of the timed call against the definition in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import DEVICE
from benchmarks.implementations import Setup
from benchmarks.measure import distance
from whatwhere.attention import attend
from whatwhere.maps import Polar
from whatwhere.rule import ScoreRule

#: Relative Frobenius norm: bfloat16 features give 2e-3 to 6e-3, a wrong sign or mask 0.1 and more.
LIMIT = 2e-2
#: Dense float64 scores of the slice, bytes; beyond it only the last rows' output is compared.
MOST_BYTES = 9 << 30
ROWS = 64


def errors(
    placed: Setup, forward: Callable[[], Tensor], views: list[Tensor], leaves: list[Tensor],
    grad: Tensor,
) -> dict[str, float]:  # fmt: skip
    """Errors of the first sequence's first KV head and its query heads, by tensor.

    The gradient is zero for every other sequence, so δ's gradient is the slice's too.
    """
    group = placed.case.grouped
    lonely = torch.zeros_like(grad)
    lonely[:1] = grad[:1]
    out = forward()
    got = torch.autograd.grad(out, leaves, lonely)
    q, k, v = (x[:1, :h].detach().double() for x, h in zip(views, (group, 1, 1), strict=True))
    rule = _sliced(placed.rule(), group)
    n = placed.case.length
    if n * n * group * 8 > MOST_BYTES:
        place = torch.arange(n, device=DEVICE)
        true = attend(
            q[:, :, -ROWS:], k, v, rule, q_pos=place[-ROWS:], k_pos=place, backend="reference"
        )
        return {"output": distance(out[:1, :group, -ROWS:], true)}
    for x in (q, k, v):
        x.requires_grad_()
    learned = [x for x in (getattr(rule.only.query, "offset", None),) if x is not None]
    true = attend(q, k, v, rule, backend="reference")
    wanted = torch.autograd.grad(true, [q, k, v, *learned], grad[:1, :group].double())
    result = {"output": distance(out[:1, :group], true.detach())}
    for name, mine, exact, h in zip("qkv", got, wanted, (group, 1, 1), strict=False):
        result[f"d{name}"] = distance(mine.transpose(1, 2)[:1, :h], exact)
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
