"""What `whatwhere reproduce` shows: before the run its cells and their cost, after it verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whatwhere.report.paper import Run
    from whatwhere.study.cells import Cell, Study
    from whatwhere.study.data import Library
    from whatwhere.study.ledger import Ledger

__all__ = ["show_plan", "show_verdicts"]


def show_verdicts(study: Study, out: Path) -> None:
    """Claims and figures of the rows that are there now."""
    import importlib.util

    from whatwhere.cli.console import console
    from whatwhere.report.claims import verdict_of
    from whatwhere.report.claims_table import render_claims

    if (study.folder / "paper.csv").exists():
        render_claims([verdict_of(study.folder, out)], console())
    print(f"\nrows    {out / 'rows.jsonl'}")
    if importlib.util.find_spec("matplotlib"):
        from whatwhere.report.rows import read
        from whatwhere.report.study_plot import study_figures

        drawn = study_figures(read(out), out / "curves.csv", out / "figure")
        print(f"figure  {', '.join(map(str, drawn))}")


def show_plan(
    study: Study,
    out: Path,
    library: Library,
    names: Sequence[str] | None,
    seeds: Sequence[int] | None,
    share: float,
) -> None:
    """A line a cell: what it trains, how much of it is done, what the rest costs."""
    from whatwhere.cli.console import console, plain_table
    from whatwhere.report.claims_table import hours_text
    from whatwhere.report.paper import read_paper
    from whatwhere.study.reproduce import open_ledger
    from whatwhere.study.todo import missing

    runs = read_paper(study.folder).runs if (study.folder / "paper.csv").exists() else {}
    table = plain_table("cell", "seeds", "steps", "tokens", "left", "encoding",
                        right=("seeds", "steps", "tokens", "left"))  # fmt: skip
    total, unknown = 0.0, 0
    lacking: dict[str, None] = {}
    ledger: Ledger = open_ledger(study, out, writes=False, only=names)
    for cell in study.chosen(names):
        todo = missing(cell, ledger, library, seeds)
        left = sum(bool(count) for count in todo.values())
        hours = _hours(cell, runs, share)
        total, unknown = total + left * (hours or 0.0), unknown + bool(left and hours is None)
        words = "?" if hours is None else hours_text(left * hours)
        table.add_row(
            cell.name, f"{len(todo) - left}/{len(todo)}", f"{cell.config.steps:,}",
            f"{cell.tokens / 1e6:,.0f}M", words if left else "done", cell.encoding,
        )  # fmt: skip
        if left and (lacks := library.lacks(cell)):
            lacking[lacks] = None
    screen = console()
    screen.print(table)
    text = f"about {hours_text(total)} on one GPU (an estimate, see claims.toml)"
    more = f" and {unknown} of unknown cost" if unknown else ""
    screen.print(f"\n{text}{more}; tokens and steps are one seed's", soft_wrap=True)
    for what in lacking:
        screen.print(f"to be given: {what}", soft_wrap=True)


def _hours(cell: Cell, runs: Mapping[str, Run], share: float) -> float | None:
    run = runs.get(cell.name.partition("@")[0])
    return None if run is None or run.hours is None else run.hours * share
