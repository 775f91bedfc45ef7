"""What a search of factors is: everything its values depend on, checked before any weights."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from whatwhere.errors import UnknownName, did_you_mean, real_number, whole_number
from whatwhere.study.devices import usable

__all__ = ["AMPLITUDES", "OPTIMIZERS", "Search", "devices", "least_text"]

OPTIMIZERS = ("paper", "smooth", "longrope2")
AMPLITUDES = 8
"""Evaluations that are kept back for the amplitude, which the paper does not search."""


@dataclass(frozen=True)
class Search:
    """What a search is: everything its values depend on.

    factor: target over trained length; through: factors on the way to it, ascending. evaluations:
    in all. objective: "perplexity" or "needle". samples: windows (or keys) per evaluation. n_hat:
    whether positions that keep their frequencies are searched too; such a result has no form in
    rope_parameters. amplitude: "search", or "su" or "yarn" as it stands. recover: search factors
    for texts of the trained length as well.
    """

    model: str
    factor: float
    optimizer: str = "smooth"
    objective: str = "perplexity"
    evaluations: int = 134
    samples: int = 4
    held_out: int = 8
    through: tuple[float, ...] = ()
    n_hat: bool = False
    amplitude: str = "search"
    recover: bool = False
    seed: int = 42
    batch_tokens: int = 8192
    dtype: str = "float32"
    adapter: str | None = None

    def __post_init__(self) -> None:
        real_number("--factor", self.factor, above=1, why="it is target / trained length")
        for name, known in (
            ("optimizer", OPTIMIZERS),
            ("objective", ("perplexity", "needle")),
            ("amplitude", ("search", "su", "yarn")),
        ):
            if getattr(self, name) not in known:
                raise UnknownName(did_you_mean(f"--{name}", getattr(self, name), known))
        for name in ("evaluations", "samples", "held_out"):
            whole_number(f"--{name}", getattr(self, name))
        if self.evaluations < AMPLITUDES + 8:
            raise ValueError(f"--evaluations is {self.evaluations}; give at least {AMPLITUDES + 8}")
        steps = (1.0, *self.through, self.factor)
        if any(a >= b for a, b in pairwise(steps)):
            raise ValueError(
                f"--through {self.through} must ascend from above 1 to below the factor"
            )


def least_text(plan: Search, train_length: int) -> int:
    """Tokens that a text needs: a window of the target length in each half."""
    return 2 * (round(plan.factor * train_length) + 1)


def devices(text: str) -> list[str]:
    """ "cuda:0,cuda:1" -> both; ValueError for one that is not there."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    for name in found:
        usable(name)
    if not found:
        raise ValueError("--device is empty; give cpu, cuda, or several: cuda:0,cuda:1")
    return found
