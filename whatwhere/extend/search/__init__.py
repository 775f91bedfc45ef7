"""Searching rescaling factors for a trained model: LongRoPE, LongRoPE2, and a cheaper way.

`Space` says what is searched, `Ledger` evaluates each candidate once and survives a kill; `evolve`
(the paper's algorithm), `descend` (CMA-ES on a smooth curve), `evolve_critical` (LongRoPE2) walk.
"""

from whatwhere.extend.search.candidates import STARTS, Candidate, Space
from whatwhere.extend.search.critical import critical_pair, evolve_critical, from_critical
from whatwhere.extend.search.evolution import Evolution, evolve
from whatwhere.extend.search.ledger import Exhausted, Ledger, Objective
from whatwhere.extend.search.smooth import Smooth, descend

__all__ = [
    "STARTS",
    "Candidate",
    "Evolution",
    "Exhausted",
    "Ledger",
    "Objective",
    "Smooth",
    "Space",
    "critical_pair",
    "descend",
    "evolve",
    "evolve_critical",
    "from_critical",
]
