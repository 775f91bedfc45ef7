"""Which pairs the fused kernels shall see: a `Where` and the biases of a rule as `Pairs`.

The kernels know places, a position and a document as int32 each; padding keys have document -1.
Only differences and comparisons of positions enter there (features are made from the int64 ones),
so positions of each row of the batch are shifted to begin at 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from whatwhere.attention.where import Where
from whatwhere.rule import Bias, ScoreRule

__all__ = ["pairs_of", "plain", "why_not"]

_FURTHEST = 2**31 - 2


def why_not(rule: ScoreRule) -> str | None:
    """None if the kernels can add the rule's biases to scores, else a sentence."""
    for bias in rule.biases:
        slopes = _slopes(bias)
        if slopes is None:
            return "its kernels add no bias but a linear one (ALiBi) to scores yet"
        if slopes.requires_grad and torch.is_grad_enabled():
            return "its kernels give no gradient of ALiBi's slopes"
    return None


def _slopes(bias: Bias) -> Tensor | None:
    """The slopes (h,) of a bias -slopes[h] · |i - j|: what says `slopes` is that and no more."""
    slopes = getattr(bias, "slopes", None)
    return slopes if isinstance(slopes, Tensor) and slopes.dim() == 1 else None


def plain(rule: ScoreRule, where: Where) -> bool:
    """Whether the call is a whole sequence, causal or not, without biases: what torch's kernels
    compute too."""
    return len(rule.biases) == 0 and (where.plain_causal or where.everything)


def pairs_of(rule: ScoreRule, where: Where) -> Any:
    """The `kernels.pairs.Pairs` of a call; places are kept with its `Where`, for all layers."""
    from whatwhere.kernels.pairs import FAR, Pairs

    window = FAR if where.window is None else min(where.window, FAR)
    by_index = where.everything and len(rule.biases) == 0
    by_index = by_index or (
        where.contiguous and where.q_documents is None and where.k_valid is None
    )
    places = (None, None) if by_index else _places(where)
    return Pairs(where.causal, window, *places, _total(rule))


def _total(rule: ScoreRule) -> Tensor | None:
    total: Tensor | None = None
    for bias in rule.biases:
        slopes = _slopes(bias)
        assert slopes is not None
        total = slopes.float() if total is None else total + slopes.float()
    return None if total is None else total.contiguous()


def _places(where: Where) -> tuple[Tensor, Tensor]:
    """(1 or b, 2, nq) and (1 or b, 2, nk) int32: position and document of queries and keys."""
    if "places" not in where.derived:
        i, j = _from_zero("positions", where.q_pos, where.k_pos, where.k_valid)
        if where.q_documents is None:
            of_i, of_j = torch.zeros_like(i), torch.zeros_like(j)
        else:
            of_i, of_j = _from_zero(
                "documents", where.q_documents, where.k_documents, where.k_valid
            )
        if where.k_valid is not None:
            of_j = torch.where(where.k_valid, of_j, -1)
        where.derived["places"] = _stacked(i, of_i), _stacked(j, of_j)
    return where.derived["places"]


def _from_zero(
    what: str, of_queries: Tensor, of_keys: Tensor, valid: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Both less the smallest number of the row in either, as int32. Padding may hold anything.

    Raises ValueError on a CPU, and stops the device on a GPU (where asking would be a wait), if
    those of a row span 2^31 - 1 or more.
    """
    if valid is not None:
        of_keys = torch.where(valid, of_keys, of_queries[:, :1])
    low = torch.minimum(of_queries.amin(1, keepdim=True), of_keys.amin(1, keepdim=True))
    high = torch.maximum(of_queries.amax(1, keepdim=True), of_keys.amax(1, keepdim=True))
    near = high - _FURTHEST <= low  # not high - low: it may be beyond 64 bits
    if of_queries.is_cuda:
        torch.ops.aten._assert_async.msg(near.all(), f"{what} span more than {_FURTHEST}")
    elif not torch.compiler.is_compiling() and not bool(near.all()):
        row = int(near.int().argmin())
        raise ValueError(
            f"{what} span from {int(low[row])} to {int(high[row])} in a row, and the fused kernels "
            f"hold them in 32 bits: a span of at most {_FURTHEST}"
        )
    return (of_queries - low).to(torch.int32), (of_keys - low).to(torch.int32)


def _stacked(position: Tensor, document: Tensor) -> Tensor:
    return torch.stack(torch.broadcast_tensors(position, document), dim=1)
