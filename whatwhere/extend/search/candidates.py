"""A point of LongRoPE's search: one factor per frequency, and how many first positions keep theirs.

Factors are kept in hundredths, as the paper's grid has them: equal candidates are then equal
values, a cache of evaluations finds them, and a file gives them back exactly.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Any, Literal

from whatwhere import spectra
from whatwhere.errors import whole_number
from whatwhere.spectra import Spectrum

__all__ = ["STARTS", "Candidate", "Space"]

#: the paper's choices of n̂
STARTS = (0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256)
_GRID = 100


@dataclass(frozen=True)
class Candidate:
    """λ_i = hundredths[i] / 100 for every frequency, and n̂: positions below it are not rescaled."""

    hundredths: tuple[int, ...]
    n_hat: int = 0

    @property
    def factors(self) -> tuple[float, ...]:
        """λ of every frequency, from the fastest on."""
        return tuple(value / _GRID for value in self.hundredths)

    @property
    def key(self) -> str:
        """A text that names the candidate, for files."""
        return f"{','.join(map(str, self.hundredths))};{self.n_hat}"

    @classmethod
    def from_key(cls, key: str) -> Candidate:
        """The candidate that `key` named."""
        values, start = key.split(";")
        return cls(tuple(map(int, values.split(","))), int(start))

    @property
    def monotone(self) -> bool:
        """Whether slower frequencies are never divided by less than faster ones."""
        return all(a <= b for a, b in zip(self.hundredths, self.hundredths[1:], strict=False))


@dataclass(frozen=True)
class Space:
    """Where the search looks: λ_i in [1, 1.25 s], not decreasing, n̂ in `starts`.

    dim: rotated channels (two per frequency); factor: s, target over trained length; base and
    train_length as trained; attention_factor: the amplitude, as `spectra.longrope` takes it.
    Source: Ding et al., arXiv 2402.13753, section 3.2 and table 2 (the released code allows 1 + s
    at the top and leaves n̂ out).
    Raises ValueError for a factor of at most 1, odd or non-positive dim.
    """

    dim: int
    factor: float
    train_length: int
    base: float = 10000.0
    starts: tuple[int, ...] = STARTS
    attention_factor: float | Literal["su", "yarn"] = "su"

    def __post_init__(self) -> None:
        whole_number("dim", self.dim, least=2)
        whole_number("train_length", self.train_length, least=2)
        if self.dim % 2:
            raise ValueError(f"dim is {self.dim}; a rotation turns pairs of channels: give it even")
        if not self.factor > 1 or not math.isfinite(self.factor):
            raise ValueError(
                f"factor is {self.factor}; a search for more than one length needs > 1"
            )

    @property
    def count(self) -> int:
        """Number of frequencies."""
        return self.dim // 2

    @property
    def most(self) -> int:
        """The largest λ, in hundredths."""
        return round(1.25 * self.factor * _GRID)

    def candidate(self, factors: tuple[float, ...] | list[float], n_hat: int = 0) -> Candidate:
        """The nearest point of the grid: rounded, clipped, made monotone from the left."""
        found, least = [], _GRID
        for value in factors:
            least = max(least, min(self.most, round(value * _GRID)))
            found.append(least)
        return Candidate(tuple(found), n_hat)

    def of(self, spectrum: Spectrum) -> Candidate:
        """The factors by which a spectrum divides this space's own frequencies."""
        own = spectra.geometric(base=self.base)(self.dim).inv_freq
        other = spectrum(self.dim, round(self.factor * self.train_length)).inv_freq
        return self.candidate([a / b for a, b in zip(own, other, strict=True)])

    def closed_forms(self) -> dict[str, Candidate]:
        """PI, NTK-aware and YaRN, where the search starts from."""
        options: Any = {"factor": self.factor, "base": self.base}
        return {
            "pi": self.of(spectra.linear(**options)),
            "ntk": self.of(spectra.ntk(**options)),
            "yarn": self.of(spectra.yarn(**options, train_length=self.train_length)),
        }

    def spectrum(self, candidate: Candidate) -> Spectrum:
        """The candidate as a spectrum: a value that every encoding that turns can be given."""
        return spectra.longrope(
            long_factor=candidate.factors, factor=self.factor, train_length=self.train_length,
            n_hat=candidate.n_hat, base=self.base, attention_factor=self.attention_factor,
        )  # fmt: skip

    def mutated(
        self, parent: Candidate, draw: random.Random, probability: float, known: set[Candidate]
    ) -> Candidate:
        """A new neighbour: each λ redrawn with this probability between its neighbours' values."""
        for _ in range(1000):
            values = list(parent.hundredths)
            for i in range(len(values)):
                if draw.random() < probability:
                    low = values[i - 1] if i else _GRID
                    high = values[i + 1] if i + 1 < len(values) else self.most
                    values[i] = draw.randint(low, max(low, high))
            start = parent.n_hat
            if draw.random() < probability:
                start = draw.choice(self.starts)
            parent = Candidate(tuple(values), start)
            if parent not in known:
                return parent
        raise RuntimeError("no new candidate was found in 1000 mutations: the space is used up")

    def crossed(
        self,
        first: Candidate,
        second: Candidate,
        draw: random.Random,
        probability: float,
        known: set[Candidate],
    ) -> Candidate | None:
        """A child of two candidates that is new and monotone, or None."""
        if first == second:
            return None
        values, start = list(first.hundredths), first.n_hat
        for _ in range(20):
            for i, other in enumerate(second.hundredths):
                if draw.random() < probability and draw.random() < 0.5:
                    values[i] = other
            if draw.random() < probability:
                start = second.n_hat
            child = Candidate(tuple(values), start)
            if child.monotone and child not in known:
                return child
        return None

    def started(self, candidate: Candidate, n_hat: int) -> Candidate:
        """The same factors with another n̂."""
        return replace(candidate, n_hat=n_hat)
