"""Encodings × evaluation lengths: in the terminal, as Markdown, as records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whatwhere.report.blocks import Block, blocks, multiple
from whatwhere.report.rows import Row

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Grid", "Line", "Shown", "Table", "table"]

_MISSING, _FEWER = "–", "†"
_COLUMN = 10  # characters of a value in the terminal, with the gap before it


@dataclass(frozen=True)
class Shown:
    """A cell as it is printed: text, ± spread, whether it is the best of its column, marks."""

    text: str
    spread: str = ""
    best: bool = False
    mark: str = ""

    @property
    def marks(self) -> str:
        """The marks as they stand behind the value; numbers of footnotes in brackets."""
        return f"({self.mark})" if self.mark.strip(_FEWER) else self.mark


@dataclass(frozen=True)
class Line:
    """A row of the table: an expression, the weights it was evaluated with, its cells."""

    encoding: str
    weights: str
    cells: tuple[Shown, ...]

    @property
    def borrowed(self) -> bool:
        """Whether the weights were trained with another expression."""
        return self.weights != self.encoding


@dataclass(frozen=True)
class Grid:
    """One block, ready to print: (multiple, length) of each column, lines and footnotes."""

    title: str
    head: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """The table of all rows, one grid a block; `notes` are about the rows as a whole."""

    grids: tuple[Grid, ...]
    blocks: tuple[Block, ...]
    notes: tuple[str, ...]

    def render(self, console: Console) -> None:
        """Print it, the columns that do not fit below the others."""
        for number, grid in enumerate(self.grids):
            if number:
                console.print()
            _render(grid, console)
        for note in self.notes:
            console.print(f"note: {note}", style="dim", markup=False)

    def markdown(self) -> str:
        """The same as Markdown; the best of a column is bold."""
        parts = [_markdown(grid) for grid in self.grids]
        return "\n\n".join([*parts, *(f"Note: {note}." for note in self.notes)])

    def records(self) -> list[dict[str, Any]]:
        """One JSON object per encoding and length: mean, std and n_seeds, or errors."""
        return [
            {
                "title": block.title,
                "encoding": encoding,
                "trained_as": block.trained_as[encoding],
                "train_length": block.train_length,
                "eval_length": length,
                "metric": block.setting["metric"],
                "mean": block.cell(encoding, length).mean,
                "std": block.cell(encoding, length).spread,
                "n_seeds": len(block.cell(encoding, length).values),
                "best": encoding in block.best(length),
                "errors": sorted(set(block.cell(encoding, length).errors.values())),
            }
            for block in self.blocks
            for encoding in block.encodings
            for length in block.lengths
            if (encoding, length) in block.cells
        ]


def table(rows: Iterable[Row]) -> Table:
    """The table of rows. A value is the mean over seeds, ± their standard deviation."""
    found = tuple(blocks(rows))
    notes: list[str] = list(getattr(rows, "notes", ()))
    repeated = sum(block.repeated for block in found)
    if repeated:
        many = "measurements are" if repeated > 1 else "measurement is"
        notes.append(f"{repeated} {many} repeated; the last row counts")
    return Table(tuple(map(_grid, found)), found, tuple(notes))


def _grid(block: Block) -> Grid:
    reasons: dict[str, int] = {}
    best = {length: block.best(length) for length in block.lengths}
    seeds, fewer = len(block.seeds), False
    lines: list[Line] = []
    for encoding in block.encodings:
        cells = [
            _shown(block, encoding, length, encoding in best[length], reasons, seeds)
            for length in block.lengths
        ]
        fewer |= any(_FEWER in cell.mark for cell in cells)
        change = block.change(encoding)
        cells.append(Shown(_MISSING if change is None else f"{change:+.3f}"))
        lines.append(Line(encoding, block.trained_as[encoding], tuple(cells)))
    head = [(multiple(n, block.train_length), str(n)) for n in block.lengths]
    last = head[-1][0]
    if block.train_length in block.lengths and len(block.lengths) > 1:
        head.append(("change", f"to {last}"))
    else:
        lines = [Line(each.encoding, each.weights, each.cells[:-1]) for each in lines]
    return Grid(block.title, tuple(head), tuple(lines), tuple(_notes(block, reasons, fewer)))


def _shown(
    block: Block, encoding: str, length: int, best: bool, reasons: dict[str, int], seeds: int
) -> Shown:
    cell = block.cell(encoding, length)
    numbers = [reasons.setdefault(e, len(reasons) + 1) for e in dict.fromkeys(cell.errors.values())]
    mark = ",".join(map(str, numbers))
    if cell.mean is None:
        return Shown("failed" if cell.errors else _MISSING, mark=mark)
    mark += _FEWER if len(cell.values) < seeds else ""
    spread = "" if cell.spread is None else f"± {cell.spread:.3f}"
    return Shown(number(cell.mean), spread, best, mark)


def _notes(block: Block, reasons: dict[str, int], fewer: bool) -> Iterable[str]:
    word = "smallest" if block.sign == 1 else "largest"
    if any(block.best(length) for length in block.lengths):
        yield f"* the {word} of the column"
    count = len(block.seeds)
    if any(cell.spread is not None for cell in block.cells.values()):
        yield f"mean ± standard deviation over {count} seeds"
    if fewer:
        yield f"{_FEWER} fewer than {count} seeds"
    for reason, mark in reasons.items():
        yield f"({mark}) failed: {reason}"


def number(value: float) -> str:
    """A value at the precision of all tables."""
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"


def _render(grid: Grid, console: Console) -> None:
    from rich.table import Table as RichTable
    from rich.text import Text

    console.print(grid.title, style="bold", markup=False)
    names = [line.encoding for line in grid.lines]
    names += [_borrowed(line) for line in grid.lines if line.borrowed]
    label = min(30, max(map(len, ["evaluated at", *names])))
    fits = max(1, (console.width - label - 2) // _COLUMN)
    spaced = any(cell.spread for line in grid.lines for cell in line.cells)
    for start in range(0, len(grid.head), fits):
        shown = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        shown.add_column("evaluated at", width=label, overflow="fold")
        for first, second in grid.head[start : start + fits]:
            shown.add_column(f"{first}\n{second}", justify="right", no_wrap=True)
        for line in grid.lines:
            name = Text(line.encoding)
            if line.borrowed:
                name.append(f"\n{_borrowed(line)}", style="dim")
            cells = [_rich(cell, spaced) for cell in line.cells[start : start + fits]]
            shown.add_row(name, *cells)
        console.print(shown)
    for note in grid.notes:
        console.print(note, style="dim", markup=False)


def _borrowed(line: Line) -> str:
    return f"  weights: {line.weights}"


def _rich(cell: Shown, spaced: bool) -> Any:
    from rich.text import Text

    # A star or a blank behind every value keeps the decimal points in line.
    marks = cell.marks or " " * (not cell.best)
    text = Text(cell.text + "*" * cell.best + marks, style="bold" if cell.best else "")
    if spaced and cell.spread:
        text.append(f"\n{cell.spread} ", style="not bold dim")
    return text


def _markdown(grid: Grid) -> str:
    head = [f"{first} ({second})" for first, second in grid.head]
    lines = [
        f"{grid.title[0].upper()}{grid.title[1:]}:",
        "",
        f"| encoding | weights | {' | '.join(head)} |",
        "|---|---" + "|---:" * len(head) + "|",
    ]
    for line in grid.lines:
        cells: list[str] = []
        for cell in line.cells:
            text = " ".join(filter(None, [cell.text, cell.spread]))
            text = f"**{text}**" if cell.best else text
            cells.append(text + (f"<sup>{cell.marks}</sup>" if cell.mark else ""))
        lines.append(f"| `{line.encoding}` | `{line.weights}` | {' | '.join(cells)} |")
    notes = [note.replace("* the", "Bold: the", 1) for note in grid.notes]
    return "\n".join([*lines, "", *(f"{note}  " for note in notes)]).rstrip()
