"""One look for all figures: the same encoding has the same colour everywhere."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from zlib import crc32

__all__ = ["KNOWN", "RC", "Style", "styles"]

# Okabe and Ito's palette, which is told apart under the common colour-vision deficiencies, for what
# is compared most; Tol's muted colours for the others. Markers differ as well.
KNOWN = {
    "nope": "#5f5f5f",
    "learned": "#8c6d46",
    "sinusoidal": "#CC79A7",
    "t5": "#009E73",
    "alibi": "#E69F00",
    "rope": "#0072B2",
    "rope+yarn": "#56B4E9",
    "pope": "#D55E00",
    "pope+yarn": "#882255",
}
_FREE = ("#009E73", "#332288", "#999933", "#AA4499", "#44AA99", "#661100", "#117733", "#8c6d46")
_PALETTE = [*dict.fromkeys([*KNOWN.values(), *_FREE])]
_MARKERS = "osD^vPX<>phd*"

#: matplotlib settings of every figure; text stays text-shaped paths, so pages look alike anywhere.
RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": "#222222",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.dpi": 160,
    "svg.hashsalt": "whatwhere",
    "hatch.color": "#ff6a4d",
    "hatch.linewidth": 0.9,
}


@dataclass(frozen=True)
class Style:
    """How one expression is drawn. Dashed lines are modifiers applied to trained weights."""

    colour: str
    marker: str
    dash: str

    @property
    def line(self) -> dict[str, Any]:
        """Keyword arguments of matplotlib's plot."""
        return {"color": self.colour, "linestyle": self.dash}


def styles(expressions: Iterable[str]) -> dict[str, Style]:
    """A style for every expression: its own colour if it is well known, else a free one.

    The free colour is chosen by the name, not by the order, and changes only where two would clash.
    """
    wanted = list(dict.fromkeys(expressions))
    found: dict[str, Style] = {}
    used: set[str] = set()
    for text in sorted(wanted, key=lambda each: (each not in KNOWN, wanted.index(each))):
        colour = KNOWN.get(text)
        if colour is None or colour in used:
            colour = _free(text, used)
        used.add(colour)
        marker = _MARKERS[_PALETTE.index(colour) % len(_MARKERS)]
        found[text] = Style(colour, marker, (0, (5, 1.6)) if _modified(text) else "-")  # type: ignore[arg-type]
    return {text: found[text] for text in wanted}


def _modified(text: str) -> bool:
    return "+" in re.sub(r"\([^()]*(\([^()]*\)[^()]*)*\)", "", text)


def _free(text: str, used: set[str]) -> str:
    start = crc32(text.encode()) % len(_FREE)
    order = [*_FREE[start:], *_FREE[:start], *_PALETTE]
    return next((colour for colour in order if colour not in used), order[0])
