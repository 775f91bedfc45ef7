"""Gemma 2's cap on scores: c · tanh(score / c) before the softmax."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whatwhere.rule import ScoreRule

__all__ = ["capped"]


@dataclass(frozen=True)
class _Softcap:
    """A `Pairwise` that turns score s into cap · tanh(s / cap); the dense backend computes it."""

    cap: float

    @property
    def reason(self) -> str:
        """Why only the reference backend computes it."""
        return "scores are capped by tanh before the softmax, and its kernels take plain products"

    @property
    def causal_only(self) -> bool:
        """False: a cap belongs to one pair."""
        return False

    def scores(
        self,
        q: Float[Tensor, "b h nq d"],
        scores: Float[Tensor, "b h nq nk"],
        q_pos: Int[Tensor, "#b nq"],
        k_pos: Int[Tensor, "#b nk"],
        visible: Bool[Tensor, "#b nq nk"],
        scale: float,
    ) -> Float[Tensor, "b h nq nk"]:
        """What is to be added to s so that the sum is cap · tanh(s / cap)."""
        return torch.tanh(scores / self.cap) * self.cap - scores

    def outputs(
        self,
        weights: Float[Tensor, "b h nq nk"],
        q_pos: Int[Tensor, "#b nq"],
        k_pos: Int[Tensor, "#b nk"],
    ) -> Float[Tensor, "b h nq dv"] | None:
        """None: outputs are not capped."""
        return None


def capped(rule: ScoreRule, cap: float | None) -> ScoreRule:
    """The rule with capped scores. Raises ValueError if it has scores of pairs already."""
    if cap is None:
        return rule
    if rule.pairwise is not None:
        raise ValueError(
            f"this model caps its scores at {cap:g}, and the encoding adds scores of pairs: "
            "their order is nowhere defined"
        )
    return replace(rule, pairwise=_Softcap(float(cap)))
