"""LongRoPE's evolutionary search, as the paper states it.

Source: Ding et al., arXiv 2402.13753, algorithm 1 and section 3.2. The released code differs (it
searches no n̂, starts from one blend only, allows λ up to 1 + s); what it settles where the paper is
silent — how a mutant stays monotone, how often a crossover is tried — is followed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from whatwhere.errors import whole_number
from whatwhere.extend.search.candidates import Candidate, Space
from whatwhere.extend.search.ledger import Exhausted, Ledger

__all__ = ["Evolution", "evolve"]


@dataclass(frozen=True)
class Evolution:
    """Sizes of the search; the defaults are the paper's: 64 + 40 · 32 = 1,344 evaluations."""

    population: int = 64
    parents: int = 32
    mutations: int = 16
    crossovers: int = 16
    probability: float = 0.3
    iterations: int = 40
    seed: int = 42

    def __post_init__(self) -> None:
        for name in ("population", "parents", "mutations", "crossovers", "iterations"):
            whole_number(name, getattr(self, name), least=0 if name == "crossovers" else 1)
        if self.parents > self.population:
            raise ValueError(f"parents is {self.parents}, more than population {self.population}")
        if not 0 < self.probability <= 1:
            raise ValueError(f"probability is {self.probability}; give a number in (0, 1]")


def evolve(
    space: Space,
    ledger: Ledger,
    options: Evolution | None = None,
    starts: list[Candidate] | None = None,
    told: Callable[[int, Candidate, float], None] | None = None,
) -> Candidate:
    """The best candidate after all iterations, or when the ledger's limit is reached.

    starts: what the first population is mutated from (default PI, NTK, YaRN). told is called after
    every iteration with its number, the best candidate and its value.
    """
    options = options or Evolution()
    draw = random.Random(options.seed)
    seeds = list(dict.fromkeys(starts or space.closed_forms().values()))
    known = set(seeds)
    population = list(seeds[: options.population])
    while len(population) < options.population:
        parent = seeds[(len(population) - len(seeds)) % len(seeds)]
        population.append(_added(space.mutated(parent, draw, options.probability, known), known))
    try:
        for iteration in range(options.iterations + 1):
            values = dict(zip(population, ledger(population), strict=True))
            # sorted() keeps the order of equals, so a replay ranks them as the first run did.
            parents = sorted(population, key=values.__getitem__)[: options.parents]
            if told is not None:
                told(iteration, *ledger.best)
            if iteration < options.iterations:
                population = parents + _children(space, parents, draw, options, known)
    except Exhausted:
        pass
    return ledger.best[0]


def _children(
    space: Space, parents: list[Candidate], draw: random.Random, options: Evolution,
    known: set[Candidate],
) -> list[Candidate]:  # fmt: skip
    children = []
    for _ in range(options.mutations):
        parent = draw.choice(parents)
        children.append(_added(space.mutated(parent, draw, options.probability, known), known))
    for _ in range(options.crossovers):
        ranks = sorted(draw.sample(range(len(parents)), min(2, len(parents))))
        first, second = parents[ranks[0]], parents[ranks[-1]]
        child = space.crossed(first, second, draw, options.probability, known)
        if child is None:
            child = space.mutated(first, draw, options.probability, known)
        children.append(_added(child, known))
    return children


def _added(candidate: Candidate, known: set[Candidate]) -> Candidate:
    known.add(candidate)
    return candidate
