"""Sandwich: the product of sinusoidal codes as a bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from jaxtyping import Float, Int
from torch import Tensor

from whatwhere.encodings.base import Encoding, Shape, check_length
from whatwhere.phases import Angles, Phases
from whatwhere.rule import ScoreRule
from whatwhere.spectra import geometric

__all__ = ["Sandwich"]


@dataclass(frozen=True, eq=False)
class _Cosines:
    """b(h, i, j) = Σ_k cos((i - j) θ_k) · heads / (8 (h + 1)), h from 0."""

    angles: Angles
    count: int
    pointwise: bool = False

    def __call__(
        self, heads: Int[Tensor, "..."], i: Int[Tensor, "..."], j: Int[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """The bias of each pair."""
        sum_of_cosines = self.angles.phase(i - j).cos().sum(dim=-1)
        return sum_of_cosines * (self.count / 8.0 / (heads + 1))


@final
class Sandwich(Encoding):
    """score = <q, k> / √d + Σ_{k<dim/2} cos((i-j) base^(-2k/dim)) · H / (8 (h+1)), h = 0..H-1.

    No parameter is learned. Options: dim 128, base 10000.
    Source: arXiv 2212.10356; the head factor as in attention-gym.
    """

    name = "sandwich"
    cite = "sandwich"

    def __init__(self, shape: Shape, dim: int = 128, base: float = 10000.0) -> None:
        super().__init__(shape)
        if check_length("dim", dim, least=2) % 2:
            raise ValueError(f"dim is {dim}; a frequency has a sine and a cosine: give even")
        self.phases = Phases(geometric(base=base), dim)

    def rule(self, horizon: int | None = None, *, training: bool = False) -> ScoreRule:
        """The empty rule with the sum of cosines."""
        bias = _Cosines(self.phases.at(), self.shape.heads)
        return ScoreRule(biases=(bias,), heads=self.shape.heads)
