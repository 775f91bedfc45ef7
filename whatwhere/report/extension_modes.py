"""The same methods measured otherwise: streamed, by a sliding window, by transformers' own code."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Agreement", "Modes", "agreement", "modes", "positions"]

Row = Mapping[str, Any]

_TITLES = {"one_pass": "one pass", "streamed": "streamed", "sliding": "sliding"}


@dataclass(frozen=True)
class Agreement:
    """Perplexities that transformers' own code and ours gave for the same rope_parameters.

    methods: which; rows: how many pairs; worst: the largest |difference| in perplexity, `at` the
    method and length where.
    """

    methods: tuple[str, ...]
    rows: int
    worst: float
    at: tuple[str, int]

    def sentence(self) -> str:
        """What was compared and how far apart it was at most."""
        method, length = self.at
        return (
            f"transformers' own code on the same rope_parameters ({', '.join(self.methods)}): "
            f"{self.rows} perplexities, at most {self.worst:.1e} from ours ({method} at {length})"
        )


@dataclass(frozen=True)
class Modes:
    """Perplexity at the longest target by method and way of measuring; None where there is no row.

    stride: of the sliding window; tokens: that enter at a time when streamed.
    """

    target: int
    columns: tuple[str, ...]
    lines: tuple[tuple[str, tuple[float | None, ...]], ...]
    stride: int | None
    tokens: int | None

    def title(self) -> str:
        """What the table holds."""
        return f"Perplexity at {self.target} tokens, measured otherwise"

    def notes(self) -> list[str]:
        """What must be known to read it."""
        found: list[str] = []
        if self.tokens:
            found.append(f"streamed: {self.tokens} tokens at a time through the key cache")
        if self.stride:
            found.append(
                f"sliding: other tokens, each after at least {self.target - self.stride} (stride "
                f"{self.stride})"
            )
        return found

    def titles(self) -> list[str]:
        """Headings of the columns, the method's apart."""
        return [_TITLES[column] for column in self.columns]

    def cells(self) -> list[tuple[str, list[str]]]:
        """Method and its texts under `titles`."""
        return [(method, list(map(_number, values))) for method, values in self.lines]

    def render(self, console: Console) -> None:
        """Print it."""
        from rich.table import Table

        shown = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
        shown.add_column("method", no_wrap=True)
        for title in self.titles():
            shown.add_column(title, justify="right", no_wrap=True)
        for method, cells in self.cells():
            shown.add_row(method, *cells)
        console.print(f"{self.title()}:", style="bold", markup=False)
        console.print(shown)
        for note in self.notes():
            console.print(note, style="dim", markup=False)

    def markdown(self) -> str:
        """The same for a README."""
        lines = [
            f"{self.title()}:",
            "",
            f"| method | {' | '.join(self.titles())} |",
            "|---" + "|--:" * len(self.columns) + "|",
            *(f"| {method} | {' | '.join(cells)} |" for method, cells in self.cells()),
            "",
            *(f"{note}  " for note in self.notes()),
        ]
        return "\n".join(lines).rstrip()


def modes(rows: Iterable[Row]) -> Modes | None:
    """The table of rows that `whatwhere extend` wrote; None if all are of one pass."""
    own = [r for r in rows if r.get("task") == "perplexity" and "error" not in r]
    own = [r for r in own if r["engine"] == "whatwhere"]
    others = [r for r in own if r["mode"] != "one_pass"]
    if not others:
        return None
    target = max(row["eval_length"] for row in others)
    at = [r for r in own if r["eval_length"] == target and _made_for(r) == target]
    found = {(row["method"], row["mode"]): _exp(row["value"]) for row in at}
    columns = tuple(mode for mode in _TITLES if any(m == mode for _, m in found))
    methods = dict.fromkeys(row["method"] for row in others)
    strides = {mode: next((r["stride"] for r in others if r["mode"] == mode), None)
               for mode in columns}  # fmt: skip
    return Modes(
        target, columns, tuple((m, tuple(found.get((m, c)) for c in columns)) for m in methods),
        strides.get("sliding"), strides.get("streamed"),
    )  # fmt: skip


def agreement(rows: Iterable[Row]) -> Agreement | None:
    """How far transformers' own code is from ours; None without `--stock`."""
    own = [r for r in rows if r.get("task") == "perplexity" and "error" not in r]
    ours = {_place(r): r["value"] for r in own if r["engine"] == "whatwhere"}
    stock = [r for r in own if r["engine"] == "transformers" and _place(r) in ours]
    if not stock:
        return None
    apart = [abs(_exp(row["value"]) - _exp(ours[_place(row)])) for row in stock]
    worst = max(range(len(stock)), key=apart.__getitem__)
    return Agreement(
        tuple(dict.fromkeys(row["method"] for row in stock)), len(stock), apart[worst],
        (stock[worst]["method"], stock[worst]["eval_length"]),
    )  # fmt: skip


def positions(rows: Iterable[Row]) -> tuple[list[str], list[tuple[str, list[str]]]] | None:
    """Perplexity by place in the window, at the longest length in one pass: headings, lines.

    Where a method breaks shows here; None without such rows.
    """
    own = [r for r in rows if r.get("by_position") and "error" not in r]
    own = [r for r in own if r["engine"] == "whatwhere" and r["mode"] == "one_pass"]
    if not own:
        return None
    longest = max(row["eval_length"] for row in own)
    at = [r for r in own if r["eval_length"] == longest and _made_for(r) == longest]
    edges = next((row["positions"] for row in at), [])
    heads = [f"{a}–{b}" for a, b in pairwise(edges)]
    return heads, [(r["method"], [_number(_exp(v)) for v in r["by_position"]]) for r in at]


def _place(row: Row) -> tuple[Any, ...]:
    return row["method"], row["encoding"], row["mode"], row["eval_length"]


def _made_for(row: Row) -> int:
    return round(row["factor"] * row["train_length"])


def _exp(nll: float) -> float:
    return math.exp(min(nll, 700.0))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}" if value < 1000 else f"{value:.0f}"
