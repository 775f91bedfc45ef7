"""Methods that make a model longer, side by side: table and Markdown from rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Extension", "Line", "extension"]

Row = Mapping[str, Any]

_MISSING = "–"


@dataclass(frozen=True)
class Line:
    """One method: perplexity at the trained length (made for the longest target) and at each
    target, the share of pass keys found and of copied tokens at each; None where there is no row.
    """

    method: str
    expression: str
    short: float | None
    perplexity: tuple[float | None, ...]
    keys: tuple[float | None, ...]
    copies: tuple[float | None, ...]
    products: int
    exports: bool
    errors: tuple[str, ...]


@dataclass(frozen=True)
class Extension:
    """All methods of one model on one text."""

    model: str
    train_length: int
    targets: tuple[int, ...]
    lines: tuple[Line, ...]

    def best(self, column: int) -> float | None:
        """The lowest perplexity at a target."""
        values = [v for line in self.lines if (v := line.perplexity[column]) is not None]
        return min(values) if values else None

    def head(self) -> list[tuple[str, str]]:
        """Two lines of heading a column, the method's apart."""
        times = [(f"{t / self.train_length:g}×", str(t)) for t in self.targets]
        found = [("1×", str(self.train_length)), *times]
        if any(k is not None for line in self.lines for k in line.keys):
            found.append(("pass keys %", " ".join(a for a, _ in times)))
        if any(c is not None for line in self.lines for c in line.copies):
            found.append(("copied %", " ".join(a for a, _ in times)))
        return found

    def cells(self, line: Line) -> list[str]:
        """The line's texts under `head`, a star behind the lowest of a target."""
        found = [_perplexity(line.short)]
        for column, value in enumerate(line.perplexity):
            star = "*" if value is not None and value == self.best(column) else ""
            found.append(_perplexity(value) + star)
        for title, values in (("pass keys %", line.keys), ("copied %", line.copies)):
            if any(first == title for first, _ in self.head()):
                found.append(" ".join(map(_percent, values)))
        return found

    def render(self, console: Console) -> None:
        """Print it, in 80 columns for up to four targets."""
        from rich.table import Table
        from rich.text import Text

        shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        shown.add_column("method\n", overflow="fold")
        for first, second in self.head():
            shown.add_column(f"{first}\n{second}", justify="right", no_wrap=True)
        for line in self.lines:
            cells = [each if each.endswith("*") else f"{each} " for each in self.cells(line)]
            styled = [Text(c, style="bold" if c.endswith("*") else "") for c in cells]
            shown.add_row(Text(line.method), *styled)
        console.print(f"{self.title()}:", style="bold", markup=False)
        console.print(shown)
        for note in self.notes():
            console.print(note, style="dim", markup=False)

    def title(self) -> str:
        """What the table holds."""
        return f"Perplexity of {self.model}, trained at {self.train_length} tokens, by method"

    def notes(self) -> list[str]:
        """What must be known to read it."""
        found = [
            "* the lowest of the column; the same tokens in every cell, in one pass",
            f"1×: texts of the trained length, with the setting for {self.targets[-1]}",
        ]
        for line in self.lines:
            found += [f"{line.method} failed: {error}" for error in line.errors]
        return found

    def markdown(self) -> str:
        """The same for a README; the lowest of a column is bold."""
        head = [f"{first} ({second})" for first, second in self.head()]
        lines = [
            f"{self.title()}:",
            "",
            f"| method | {' | '.join(head)} |",
            "|---" + "|--:" * len(head) + "|",
        ]
        for line in self.lines:
            cells = [f"**{c[:-1]}**" if c.endswith("*") else c for c in self.cells(line)]
            lines.append(f"| {line.method} | {' | '.join(cells)} |")
        notes = [note.replace("* the", "Bold: the", 1) for note in self.notes()]
        return "\n".join([*lines, "", *(f"{note}  " for note in notes)]).rstrip()


def extension(rows: Iterable[Row]) -> Extension:
    """The table of rows that `whatwhere extend` wrote. ValueError if there is none."""
    every = [row for row in rows if row.get("study") == "extend"]
    own = [row for row in every if row.get("engine") == "whatwhere" and row["mode"] == "one_pass"]
    if not own:
        raise ValueError("the rows hold no measurement of `whatwhere extend`")
    trained = own[0]["train_length"]
    at = {row["eval_length"] for row in own if row["task"] == "perplexity"}
    targets = tuple(sorted(length for length in at if length > trained)) or (trained,)
    methods = dict.fromkeys(row["method"] for row in own)
    lines = tuple(_line([r for r in own if r["method"] == m], m, targets) for m in methods)
    return Extension(Path(str(own[0]["model"])).name, trained, targets, lines)


def _line(rows: list[Row], method: str, targets: tuple[int, ...]) -> Line:
    trained = rows[0]["train_length"]

    def mean(task: str, length: int, target: int) -> float | None:
        found = [r for r in rows if r["task"] == task and r["eval_length"] == length]
        found = [r for r in found if "error" not in r]
        if not found:
            return None
        away = min(abs(r["factor"] * trained - target) for r in found)
        found = [r for r in found if abs(r["factor"] * trained - target) == away]
        return math.fsum(r["value"] for r in found) / len(found)

    def each(task: str) -> tuple[float | None, ...]:
        return tuple(mean(task, target, target) for target in targets)

    short = mean("perplexity", trained, targets[-1])
    perplexity = tuple(None if x is None else _exp(x) for x in each("perplexity"))
    return Line(
        method,
        rows[-1]["encoding"],
        None if short is None else _exp(short),
        perplexity,
        each("passkey"),
        each("copy"),
        max(int(r.get("terms", 1)) for r in rows),
        not any(r.get("reason") for r in rows),
        tuple(dict.fromkeys(str(r["error"]) for r in rows if "error" in r)),
    )


def _exp(nll: float) -> float:
    return math.exp(min(nll, 700.0))


def _perplexity(value: float | None) -> str:
    if value is None:
        return _MISSING
    return f"{value:.2f}" if value < 1000 else f"{value:.0f}" if value < 1e5 else f"{value:.0e}"


def _percent(value: float | None) -> str:
    return _MISSING if value is None else f"{100 * value:.0f}"
