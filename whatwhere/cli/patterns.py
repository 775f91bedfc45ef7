"""What `show` draws, as numbers: scores, angles and decay over the distance i - j.

The query stands at the last position of a text of `length` tokens, the key at every position before
it; so methods that depend on the query's own position (log-n, Dual Chunk) are seen at full length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from whatwhere.attention import Call, Where
from whatwhere.attention.reference import scores
from whatwhere.encodings import Encoding
from whatwhere.maps import Polar, Rotate
from whatwhere.phases import Angles
from whatwhere.rule import ScoreRule

__all__ = ["Scores", "decay_bound", "relative_angles", "score_pattern", "seen_angles", "smoothed"]

_RADIANS = 2.0 * torch.pi / 2.0**64


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores by distance 0, 1, …: mean and standard deviation over draws; biases of every head."""

    mean: Float[Tensor, " n"]
    std: Float[Tensor, " n"]
    bias: Float[Tensor, "h n"] | None
    content: bool


@torch.no_grad()
def score_pattern(
    encoding: Encoding, length: int, draws: int = 48, generator: torch.Generator | None = None
) -> Scores:
    """The score of a pair with equal content, over the distance.

    One random vector x ~ N(0, 1) a draw stands at every position and is query and key, so all that
    changes along the text is the encoding's doing (x goes through `embed` first: sinusoids are
    added to it). Averaged over draws and heads. `content` is False for a pure bias, whose score
    differs from the plain product by the same number in every draw.
    """
    n = length if encoding.max_length is None else min(length, encoding.max_length)
    shape, positions = encoding.shape, torch.arange(n)[None]
    x = torch.randn(draws, 1, shape.heads * shape.head_dim, generator=generator)
    embedded = encoding.embed(x.expand(-1, n, -1), positions)
    k = embedded.unflatten(-1, (shape.heads, shape.head_dim)).transpose(1, 2)
    q = k[:, :, -1:]
    rule = encoding.rule(length)
    where = Where(1, n, q_pos=positions[:, -1:], k_pos=positions)
    call = Call(q, k, k, where, scale=shape.head_dim**-0.5)
    total = scores(rule, call)[:, :, 0].flip(-1)
    bias = rule.bias(shape.heads, positions[:, -1:], positions)
    return Scores(
        mean=total.mean(dim=(0, 1)),
        std=total.std(dim=(0, 1)),
        bias=None if bias is None else bias[0, :, 0].flip(-1),
        content=not rule.biases,
    )


def relative_angles(rule: ScoreRule, length: int) -> Float[Tensor, "f n"] | None:
    """The angle between query and key of every frequency at distances 0 … length - 1, in radians.

    Not wrapped, so that it shows how far beyond the trained angles a pair is. None if the rule
    turns nothing. float64: exact to 1e-10 rad at a million tokens.
    """
    if not all(isinstance(term.query, Rotate | Polar) for term in rule.cases):
        return None
    i = torch.full((length,), length - 1)
    j = torch.arange(length - 1, -1, -1)
    chosen = rule.term_of(i, j)
    total: Tensor | None = None
    for number, term in enumerate(rule.cases):
        angles = _unwrapped(term.query, i) - _unwrapped(term.key, j)
        total = angles if total is None else torch.where(chosen == number, angles, total)
    return total


def _unwrapped(each: Any, positions: Tensor) -> Float[Tensor, "f n"]:
    angles: Angles = each.angles
    seen = positions if each.reindex is None else each.reindex(positions)
    turned = seen.double() * angles.turns.double()[:, None] * _RADIANS
    if angles.start_turns is None:
        return turned
    early = seen.double() * angles.start_turns.double()[:, None] * _RADIANS
    return torch.where(seen < angles.start, early, turned)


def seen_angles(trained: ScoreRule, train_length: int) -> Float[Tensor, " f"] | None:
    """The largest angle of every frequency that training has shown, at most a full turn: beyond
    one turn there is no new angle."""
    angles = relative_angles(trained, train_length)
    if angles is None:
        return None
    return angles.abs().amax(dim=1).clamp(max=2.0 * torch.pi)


def decay_bound(rule: ScoreRule, length: int) -> Float[Tensor, " n"] | None:
    """RoPE's relative upper bound on the score: mean_m |Σ_{c<m} e^(I a_c)| over the distance.

    a_c is the angle of frequency c; divided by its value at distance 0, so curves with different
    numbers of frequencies (PoPE has twice RoPE's) compare. None if the rule turns nothing.
    Source: arXiv 2104.09864, section 3.4.3 (Eqs. 35-37), by Abel's summation.
    """
    angles = relative_angles(rule, length)
    if angles is None:
        return None
    partial = torch.polar(torch.ones_like(angles), angles).cumsum(dim=0).abs()
    still = (angles.shape[0] + 1) / 2.0  # the value where nothing has turned
    return partial.mean(dim=0) / still


def smoothed(curve: Tensor) -> tuple[Tensor, Tensor]:
    """(distance + 1, mean of the curve over that distance ± 5 %) at log-spaced distances."""
    curve = curve.detach().double()
    at = torch.logspace(0, math.log10(len(curve)), 200, dtype=torch.float64)
    at = at.round().unique().clamp(max=len(curve))
    total = torch.cat((torch.zeros(1, dtype=torch.float64), curve.cumsum(0)))
    first = (at * 0.95).ceil().long() - 1
    last = (at * 1.05).floor().long().clamp(max=len(curve))
    return at, (total[last] - total[first]) / (last - first)
