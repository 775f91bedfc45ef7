"""The one formula. Read this page first.

    score[h,i,j] = τ(i) · <Q_r(q[h,i], i), K_r(k[h,j], j)> / √d  +  b(h,i,j)

* i and j are **positions** of query and key: arguments, never array indices. "Causal" is j <= i.
* Q_r and K_r are **maps**: one vector at one position -> features, possibly wider than the d
  channels they come from; the scale stays 1/√d with the head's own d.
* r is the one **term** of the rule whose **region** contains (i, j). The regions of a rule
  partition all visible pairs. Most encodings have one term that holds everywhere.
* b is the sum of the rule's **biases**, τ the product of its **temperatures** (they depend on the
  query's position only, so decoding equals one pass).
* V, the **value map**, and O, the **output map**: out_i = O(Σ_j softmax(score)_ij V(v_j, j), i).

A cache holds keys before any position has entered: their **content**, μ(k) where K(k, j) is a
function of μ(k) and j (PoPE's magnitudes), else k itself. `rule.content` says which, and
`rule.of_content()` scores the same pairs from it; keys stay d wide and can be re-indexed.

What needs the vectors of a *pair* — Shaw's table on q_i, CoPE's counted gates — is outside this
formula. It stands in `pairwise`; the reference backend computes it, the others refuse it and say
so. A rule is a pure value: the same encoding at the same horizon always gives the same rule.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whatwhere.content import Content
from whatwhere.maps import PLAIN, Map
from whatwhere.regions import EVERYWHERE, Region

__all__ = ["Bias", "LinearBias", "Pairwise", "ScoreRule", "Temperature", "Term"]


@dataclass(frozen=True, eq=False)
class Term:
    """One way to score a pair, and the region of pairs that it scores."""

    query: Map
    key: Map
    region: Region


@runtime_checkable
class Bias(Protocol):
    """b(h, i, j): an addition to the score that knows heads and positions, not vectors.

    A bias with an attribute `slopes` (h,) is -slopes[h] · |i - j| and nothing else: kernels add it.
    """

    @property
    def pointwise(self) -> bool:
        """Whether one pair can be computed alone, by arithmetic and table look-ups (FlexAttention
        and kernels need that; a sum over features or an MLP per pair does not qualify)."""
        ...

    def __call__(
        self, heads: Int[Tensor, "..."], i: Int[Tensor, "..."], j: Int[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """The bias of the pairs; the arguments broadcast against each other."""
        ...


@runtime_checkable
class LinearBias(Bias, Protocol):
    """b(h, i, j) = -slopes[h] · |i - j|, for kernels: whoever has `slopes` computes just this."""

    @property
    def slopes(self) -> Float[Tensor, " h"]:
        """The slope of every query head, in units of score per token."""
        ...


@runtime_checkable
class Temperature(Protocol):
    """τ(i): a factor on the scores of the query at position i."""

    def __call__(self, i: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The factor at each position, float64 or float32, of the same shape."""
        ...


@runtime_checkable
class Pairwise(Protocol):
    """Scores that need the vectors of a pair. Only the reference backend computes them."""

    @property
    def reason(self) -> str:
        """Why no other backend can compute it."""
        ...

    @property
    def causal_only(self) -> bool:
        """Whether it is undefined when keys after the query are visible."""
        ...

    def scores(
        self,
        q: Float[Tensor, "b h nq d"],
        scores: Float[Tensor, "b h nq nk"],
        q_pos: Int[Tensor, "#b nq"],
        k_pos: Int[Tensor, "#b nk"],
        visible: Bool[Tensor, "#b nq nk"],
        scale: float,
    ) -> Float[Tensor, "b h nq nk"]:
        """An addition to `scores`, which already hold everything else, scale included."""
        ...

    def outputs(
        self,
        weights: Float[Tensor, "b h nq nk"],
        q_pos: Int[Tensor, "#b nq"],
        k_pos: Int[Tensor, "#b nk"],
    ) -> Float[Tensor, "b h nq dv"] | None:
        """An addition to the output of attention, or None."""
        ...


@dataclass(frozen=True, eq=False)
class ScoreRule:
    """A positional encoding at a given horizon, as the formula above. `ScoreRule()` is NoPE.

    heads, head_dim and value_dim are the query heads, the channels of queries and of values that
    it was made for, None where any will do: slopes of eight heads on four, or frequencies of 64
    channels on 128, would compute something.
    """

    terms: tuple[Term, ...] = ()
    biases: tuple[Bias, ...] = ()
    temperatures: tuple[Temperature, ...] = ()
    value: Map | None = None
    output: Map | None = None
    pairwise: Pairwise | None = None
    heads: int | None = None
    head_dim: int | None = None
    value_dim: int | None = None

    # Defaults above are None and () instead of maps: torch.compile can not trace a dataclass whose
    # default is an object without a name in some module.
    @property
    def cases(self) -> tuple[Term, ...]:
        """The terms; for a rule that was given none, the plain product everywhere."""
        return self.terms if self.terms else (Term(PLAIN, PLAIN, EVERYWHERE),)

    @property
    def only(self) -> Term:
        """The term of a rule that has a single one. Raises ValueError otherwise."""
        cases = self.cases
        if len(cases) != 1:
            raise ValueError(
                f"this rule has {len(cases)} terms; a method that splits pairs by region "
                "(ReRoPE, Self-Extend, Dual Chunk) can wrap only an encoding with one term"
            )
        return cases[0]

    @property
    def content(self) -> Content:
        """What of a key knows no position: the content that all key maps share, else k itself."""
        first, *others = [term.key.content for term in self.cases]
        return first if all(other == first for other in others) else Content()

    def of_content(self) -> ScoreRule:
        """The same scores from `content(k)` in the place of k; queries are given raw as before."""
        if self.content == Content():
            return self
        terms = tuple(replace(term, key=term.key.of_content()) for term in self.terms)
        return replace(self, terms=terms)

    def map_value(
        self, v: Float[Tensor, "b g nk dv"], j: Int[Tensor, "#b nk"]
    ) -> Float[Tensor, "b g nk dv"]:
        """V: values at the key positions."""
        return v if self.value is None else self.value(v, j)

    def map_output(
        self, out: Float[Tensor, "b h nq dv"], i: Int[Tensor, "#b nq"]
    ) -> Float[Tensor, "b h nq dv"]:
        """O: outputs at the query positions."""
        return out if self.output is None else self.output(out, i)

    def with_temperature(self, temperature: Temperature) -> ScoreRule:
        """The same rule with one more factor on the scores of each query."""
        return replace(self, temperatures=(*self.temperatures, temperature))

    def term_of(self, i: Int[Tensor, "..."], j: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """Index of the term that scores each pair; -1 where none does, -2 where several do."""
        inside = torch.stack(
            [term.region.contains(i, j) & (i == i) & (j == j) for term in self.cases]
        )
        index = inside.to(torch.int64).argmax(dim=0)
        count = inside.sum(dim=0)
        return torch.where(count == 1, index, torch.where(count == 0, -1, -2))

    def temperature(self, i: Int[Tensor, "#b nq"]) -> Float[Tensor, "#b nq"] | None:
        """Product of all temperatures at the query positions, or None if there is none."""
        product: Tensor | None = None
        for temperature in self.temperatures:
            factor = temperature(i)
            product = factor if product is None else product * factor
        return product

    def bias(
        self, heads: int, i: Int[Tensor, "#b nq"], j: Int[Tensor, "#b nk"]
    ) -> Float[Tensor, "#b h nq nk"] | None:
        """Sum of all biases for every head and pair, or None if there is none."""
        total: Tensor | None = None
        head = torch.arange(heads, device=i.device)[:, None, None]
        for bias in self.biases:
            dense = bias(head, i[:, None, :, None], j[:, None, None, :])
            total = dense if total is None else total + dense
        return total
