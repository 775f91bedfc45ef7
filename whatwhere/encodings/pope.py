"""PoPE: magnitudes carry what, phases carry where."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from whatwhere.encodings.base import Encoding, Shape, Turning, choice
from whatwhere.errors import real_number
from whatwhere.maps import Polar
from whatwhere.phases import Angles, Phases
from whatwhere.regions import EVERYWHERE
from whatwhere.rule import ScoreRule, Term
from whatwhere.spectra import Spectrum, geometric

__all__ = ["PoPE"]

_BOUNDS = ("clamp", "straight_through", "free")


@final
class PoPE(Turning):
    """score = Σ_c μ(q_c) μ(k_c) cos((j - i) θ_c + δ_c) / √d over all d channels, μ = softplus.

    d frequencies θ_c = base^(-c/d), c = 0..d-1 (RoPE has d/2): the spectrum is asked for 2d
    dimensions. δ has shape (heads, d), learned, per query head, also under GQA.

    Options:
        delta_init: "zero" (length generalization, the paper's language models) or "uniform" on
            [-2π, 0] (every other task of the paper); "none" removes δ (the paper's ablation).
        delta_bound: "clamp" keeps δ in [-2π, 0] inside the forward pass, as the paper does — with
            no gradient for ever once a step leaves the interval (pope.md §1.2: 81 % of one
            replication's deltas); "straight_through" clamps the value and passes the gradient;
            "free" leaves δ unbounded, which is the same family of functions, since phases wrap.
        magnitude: "softplus", "relu" or "identity" (the paper's ablations).
        partial: give phases to the first floor(head_dim · partial) channels; the rest match by
            their plain product, as in partial RoPE.
    Source: arXiv 2509.10534 v3, Eqs. 3-10; its printed exponent of θ_c has the wrong sign.
    """

    name = "pope"
    cite = "pope"
    per_layer = True

    def __init__(
        self,
        shape: Shape,
        spectrum: Spectrum | None = None,
        delta_init: str | None = "zero",
        delta_bound: str = "clamp",
        magnitude: Any = "softplus",
        partial: float = 1.0,
    ) -> None:
        super().__init__(shape)
        self.delta_init = choice("delta_init of pope", delta_init, ("zero", "uniform", "none"))
        self.delta_bound = choice("delta_bound of pope", delta_bound, _BOUNDS)
        self.magnitude: Any = choice(
            "magnitude of pope", magnitude, ("softplus", "relu", "identity")
        )
        real_number("partial", partial, above=0, most=1, why="it is a share of the head")
        channels = int(shape.head_dim * partial)
        if channels < 1:
            raise ValueError(
                f"partial is {partial}; give a share of the head that leaves at least one of "
                f"{shape.head_dim} channels"
            )
        self.phases = Phases(spectrum or geometric(), 2 * channels)
        learned = self.delta_init != "none"
        self.delta = nn.Parameter(torch.empty(shape.heads, channels)) if learned else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set δ to its initial value: 0, or uniform on [-2π, 0]."""
        if self.delta is None:
            return
        with torch.no_grad():
            if self.delta_init == "zero":
                self.delta.zero_()
            else:
                self.delta.uniform_(-2.0 * math.pi, 0.0)

    def bounded_delta(self) -> Tensor | None:
        """δ as the score uses it, in radians, shaped as δ; None if there is none."""
        if self.delta is None or self.delta_bound == "free":
            return self.delta
        low, high = -2.0 * math.pi, 0.0
        clamped = self.delta.detach().clamp(low, high)
        if self.delta_bound == "clamp":
            # At a bound itself clamp's gradient is 1 up to torch 2.13 and 0 in 2.15, where a δ that
            # starts at 0 would never leave it: the gradient is said here, 1 with both ends.
            return torch.where((self.delta >= low) & (self.delta <= high), self.delta, clamped)
        return self.delta + (clamped - self.delta.detach())

    def beside(self, others: Sequence[Encoding]) -> Encoding | None:
        """One PoPE whose δ is (models, heads, channels)."""
        if self.delta is None:
            return self
        deltas = [dict(one.named_parameters())["delta"].detach() for one in (self, *others)]
        joined = copy.deepcopy(self)
        joined.delta = nn.Parameter(torch.stack(deltas))
        return joined

    def rule_with(self, angles: Angles, horizon: int | None = None) -> ScoreRule:
        """One term: polar features on both sides, -δ on the query's phase."""
        delta = self.bounded_delta()
        query = Polar(angles, self.magnitude, None if delta is None else -delta)
        return ScoreRule(
            terms=(Term(query, Polar(angles, self.magnitude), EVERYWHERE),),
            heads=None if delta is None else self.shape.heads,
            head_dim=self.shape.head_dim,
        )
