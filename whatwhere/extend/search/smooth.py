"""A search with a tenth of the evaluations: a smooth curve of factors, fitted by CMA-ES.

ln λ_i as a function of i is smooth in every closed form (PI: constant; NTK: a line; YaRN: a step
with a ramp), and a loss that averages over thousands of tokens can not tell 64 separate numbers
apart. So few numbers describe the curve and a covariance-adapting optimizer (the `cma` package)
moves them; every point that it visits lies on the paper's grid and in its bounds, and n̂ is tried
last, for the winner.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from whatwhere.errors import whole_number
from whatwhere.extend.search.candidates import Candidate, Space
from whatwhere.extend.search.ledger import Exhausted, Ledger

__all__ = ["Smooth", "descend"]


@dataclass(frozen=True)
class Smooth:
    """knots of the curve, evenly over the frequencies; CMA-ES's first step, in parts of the whole
    range of ln λ; its seed and number of generations."""

    knots: int = 8
    width: float = 0.1
    seed: int = 42
    generations: int = 12

    def __post_init__(self) -> None:
        whole_number("knots", self.knots, least=2)
        whole_number("generations", self.generations)
        if not self.width > 0:
            raise ValueError(f"width is {self.width}; give a number above 0")


def descend(
    space: Space,
    ledger: Ledger,
    options: Smooth | None = None,
    told: Callable[[int, Candidate, float], None] | None = None,
    starts: list[Candidate] | None = None,
) -> Candidate:
    """The best candidate found from the best closed form or start, within the ledger's limit.

    Raises ImportError with what to install where `cma` is missing.
    """
    options = options or Smooth()
    cma = _package()
    try:
        known: list[Candidate] = [*(starts or []), *space.closed_forms().values()]
        forms = list(dict.fromkeys(known))
        values = dict(zip(forms, ledger(forms), strict=True))
        start = min(forms, key=values.__getitem__)
        strategy = cma.CMAEvolutionStrategy(
            _heights(space, start, options.knots), options.width,
            {"seed": options.seed, "bounds": [0.0, 1.0], "verbose": -9, "verb_log": 0},
        )  # fmt: skip
        for generation in range(options.generations):
            asked = strategy.ask()
            curves = [_curve(space, numbers) for numbers in asked]
            ledger(curves)
            strategy.tell(asked, [_finite(ledger.values[curve]) for curve in curves])
            if told is not None:
                told(generation, *ledger.best)
        ledger([space.started(ledger.best[0], n_hat) for n_hat in space.starts])
    except Exhausted:
        pass
    return ledger.best[0]


def _package() -> Any:
    try:
        import cma
    except ImportError as error:
        raise ImportError(
            "this search needs the package cma: pip install 'whatwhere[extend]', or choose the "
            "paper's own search"
        ) from error
    warnings.filterwarnings("ignore", module="cma")
    return cma


def _curve(space: Space, heights: Any) -> Candidate:
    """Heights at the knots, ln λ / ln 1.25 s in [0, 1] -> factors, linear in ln λ between knots.

    A knot that lies below the one before it is raised to it: factors do not decrease.
    """
    top, knots, least = math.log(1.25 * space.factor), [], 0.0
    for height in heights:
        least = max(least, min(1.0, float(height)))
        knots.append(top * least)
    factors = []
    for i in range(space.count):
        place = i * (len(knots) - 1) / max(1, space.count - 1)
        left = min(int(place), len(knots) - 2)
        part = place - left
        factors.append(math.exp(knots[left] * (1 - part) + knots[left + 1] * part))
    return space.candidate(factors)


def _heights(space: Space, candidate: Candidate, knots: int) -> list[float]:
    """The inverse of `_curve`, at the knots."""
    top = math.log(1.25 * space.factor)
    places = [round(knot * (space.count - 1) / (knots - 1)) for knot in range(knots)]
    return [math.log(candidate.factors[i]) / top for i in places]


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 1e9
