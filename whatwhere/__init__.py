"""whatwhere: how does a transformer know where things are?

    score[h,i,j] = τ(i) · <Q_r(q[h,i], i), K_r(k[h,j], j)> / √d  +  b(h,i,j)

Every positional encoding is a value of one type (`ScoreRule`); `attend` computes attention over any
of them. Start with `whatwhere.rule`, which explains the formula.

Names are loaded when they are first used: torch takes seconds to import, and neither
`whatwhere --help` nor a report made from rows needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whatwhere import positions, spectra
    from whatwhere.attention import Unsupported, Where, attend, attend_pages, backend_reasons
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
    "attend_pages",
    "backend_reasons",
    "from_dict",
    "make",
    "parse",
    "positions",
    "spectra",
]

_MODULES = (
    "attention",
    "cache",
    "encodings",
    "hf",
    "maps",
    "nn",
    "phases",
    "positions",
    "regions",
    "rule",
    "spectra",
    "tasks",
)

_HOME = {
    "attention": ("Unsupported", "Where", "attend", "attend_pages", "backend_reasons"),
    "cache": ("KVCache",),
    "encodings": ("Encoding", "Shape", "from_dict", "make", "parse"),
    "maps": ("Plain", "Polar", "Reindex", "Rotate"),
    "regions": ("Region",),
    "rule": ("ScoreRule", "Term"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"whatwhere.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'whatwhere' has no attribute {name!r}")
    value = getattr(import_module(f"whatwhere.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
