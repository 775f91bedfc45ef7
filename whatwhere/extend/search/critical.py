"""LongRoPE2's search: where the frequencies begin that training never saw turn once.

Below the critical dimension frequencies have turned whole circles within the trained length and
follow the NTK rule; from it on λ lies in [s, 2 s]. The theoretical place, d_tcd = 2 ⌈(d / 2)
log_b(L / 2π)⌉, is an upper bound: the real one is searched below it, by the needle-driven
perplexity (the answer's tokens only), because a mean over all tokens hides the few that need a
long reach. Source: Shang et al., arXiv 2502.20082, sections 3.2 to 3.4.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from whatwhere.extend.search.candidates import Candidate, Space
from whatwhere.extend.search.evolution import Evolution
from whatwhere.extend.search.ledger import Exhausted, Ledger

__all__ = ["critical_pair", "evolve_critical", "from_critical"]


def critical_pair(space: Space) -> int:
    """Index of the first frequency with less than one turn in the trained length: d_tcd / 2."""
    turns = space.train_length / (2 * math.pi)
    return min(space.count - 1, max(1, math.ceil(space.count * math.log(turns, space.base))))


def from_critical(space: Space, pair: int, tail: list[float]) -> Candidate:
    """Factors with the NTK rule below `pair` and `tail` (in [s, 2 s], growing) from it on.

    The rule's own base makes λ continuous: λ_i = tail[0]^(i / pair). A tail above 1.25 s is allowed
    here, unlike in LongRoPE's own space.
    """
    below = [tail[0] ** (i / pair) for i in range(pair)]
    hundredths, least = [], 100
    for value in (*below, *tail):
        least = max(least, round(100 * value))
        hundredths.append(least)
    return Candidate(tuple(hundredths))


def evolve_critical(
    space: Space,
    ledger: Ledger,
    options: Evolution | None = None,
    told: Callable[[int, Candidate, float], None] | None = None,
) -> Candidate:
    """The best candidate over critical pairs and tails; options as in `evolve`."""
    options = options or Evolution()
    draw = random.Random(options.seed)
    top = critical_pair(space)
    pool: list[tuple[int, list[float]]] = []
    for pair in range(top, max(1, top - 8) - 1, -1):  # the unscaled rule first, at every pair
        pool.append((pair, [space.factor] * (space.count - pair)))
    pool = pool[: options.population]
    known = {from_critical(space, *place) for place in pool}
    while len(pool) < options.population:
        pool.append(_fresh(space, draw.choice(pool), draw, options.probability, top, known))
    try:
        for iteration in range(options.iterations + 1):
            made = [from_critical(space, pair, tail) for pair, tail in pool]
            values = dict(zip(dict.fromkeys(made), ledger(made), strict=True))
            ranked = sorted(range(len(pool)), key=lambda n: values[made[n]])[: options.parents]
            parents = [pool[n] for n in ranked]
            if told is not None:
                told(iteration, *ledger.best)
            count = options.mutations + options.crossovers
            pool = parents + [
                _fresh(space, draw.choice(parents), draw, options.probability, top, known)
                for _ in range(count)
            ]
    except Exhausted:
        pass
    return ledger.best[0]


def _fresh(
    space: Space, parent: tuple[int, list[float]], draw: random.Random, probability: float,
    top: int, known: set[Candidate],
) -> tuple[int, list[float]]:  # fmt: skip
    """A descendant whose factors are new: a level tail has few neighbours, and they are used up."""
    for _ in range(1000):
        parent = _moved(space, parent, draw, probability, top)
        made = from_critical(space, *parent)
        if made not in known:
            known.add(made)
            return parent
    raise RuntimeError("no new candidate was found in 1000 mutations: the space is used up")


def _moved(
    space: Space, parent: tuple[int, list[float]], draw: random.Random, probability: float, top: int
) -> tuple[int, list[float]]:
    """A neighbour: the critical pair a step away, or some of the tail redrawn, still growing."""
    pair, tail = parent
    if draw.random() < probability:
        other = min(top, max(1, pair + draw.choice((-2, -1, 1, 2))))
        tail = tail[other - pair :] if other > pair else [tail[0]] * (pair - other) + tail
        pair = other
    tail = list(tail)
    for i in range(len(tail)):
        if draw.random() < probability:
            low = tail[i - 1] if i else space.factor
            high = tail[i + 1] if i + 1 < len(tail) else 2 * space.factor
            tail[i] = round(draw.uniform(low, max(low, high)), 2)
    return pair, tail
