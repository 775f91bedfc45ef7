"""whatwhere: how does a transformer know where things are?

    score[h,i,j] = τ(i) · <Q_r(q[h,i], i), K_r(k[h,j], j)> / √d  +  b(h,i,j)

Every positional encoding is a value of one type (`ScoreRule`); `attend` computes attention over any
of them. Start with `whatwhere.rule`, which explains the formula.
"""

from whatwhere import positions, spectra
from whatwhere.attention import Unsupported, Where, attend, backend_reasons
from whatwhere.cache import KVCache
from whatwhere.encodings import Encoding, Shape, from_dict, make, parse
from whatwhere.maps import Plain, Polar, Reindex, Rotate
from whatwhere.regions import Region
from whatwhere.rule import ScoreRule, Term

__version__ = "0.1.0"

__all__ = [
    "Encoding",
    "KVCache",
    "Plain",
    "Polar",
    "Region",
    "Reindex",
    "Rotate",
    "ScoreRule",
    "Shape",
    "Term",
    "Unsupported",
    "Where",
    "attend",
    "backend_reasons",
    "from_dict",
    "make",
    "parse",
    "positions",
    "spectra",
]
