"""What rows of a study hold beyond the claims: one line a training, measurement and length."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whatwhere.report.rows import Row
from whatwhere.report.study_parts import asked_of

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "Group",
    "beyond_markdown",
    "beyond_table",
    "groups",
    "solved_notes",
    "steps_to_solve",
]

SOLVED = 0.9
"""The share of right answers from which on a seed counts as having solved a task."""

HEAD = ("training", "encoding", "measured", "seeds", "mean ± std", "lowest … highest")


@dataclass(frozen=True)
class Group:
    """Rows that differ in their seed alone: values by seed (of a repeated one the last)."""

    run: str
    encoding: str
    metric: str
    probe: str
    eval_length: int
    values: Mapping[Any, float]
    failed: tuple[Any, ...]

    @property
    def cells(self) -> tuple[str, str, str, str, str, str]:
        """The line of a table: `HEAD`."""
        found = list(self.values.values())
        measured = f"{self.metric} at {self.eval_length:,}" + f", {self.probe}" * bool(self.probe)
        seeds = f"{len(found)}" + f", {len(self.failed)} failed" * bool(self.failed)
        if found and self.metric == "accuracy":
            seeds += f", {sum(value >= SOLVED for value in found)} solved"
        if not found:
            return self.run, self.encoding, measured, seeds, "–", "–"
        spread = f" ± {statistics.stdev(found):.2g}" if len(found) > 1 else ""
        mean = f"{statistics.fmean(found):.4g}{spread}"
        ends = f"{min(found):.4g} … {max(found):.4g}"
        return self.run, self.encoding, measured, seeds, mean, ends


def groups(rows: Sequence[Row]) -> tuple[Group, ...]:
    """The groups of rows that name their training, in the order of their first row.

    Rows by position within a window, and by what is asked, are left out: figures show them.
    """
    found: dict[tuple[Any, ...], dict[Any, Row]] = {}
    for row in rows:
        if "run" in row and not row.get("positions") and asked_of(row) is None:
            key = (row["run"], row["encoding"], row["metric"], row.get("probe", ""),
                   row["eval_length"], row.get("data", ""))  # fmt: skip
            found.setdefault(key, {})[row.get("seed")] = row
    return tuple(
        Group(
            *(key[0], key[1], key[2], key[3], key[4]),
            {seed: row["value"] for seed, row in sorted(last.items()) if "value" in row},
            tuple(seed for seed, row in sorted(last.items()) if row.get("error")),
        )
        for key, last in found.items()
    )


def beyond_markdown(found: Sequence[Group]) -> list[str]:
    """The lines of a Markdown table."""
    lines = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    return lines + [f"| {' | '.join(group.cells)} |" for group in found]


def beyond_table(found: Sequence[Group]) -> Table:
    """The same for a terminal; cells wrap, nothing is cut."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in HEAD:
        shown.add_column(name, overflow="fold")
    for group in found:
        shown.add_row(*map(Text, group.cells))
    return shown


def steps_to_solve(curves: Path) -> dict[str, dict[str, int | None]]:
    """From a study's curves.csv: per training and seed the first point with `SOLVED` of the
    validation examples right, None if there is none. Resolution is that of the curve."""
    found: dict[str, dict[str, int | None]] = {}
    with curves.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            of_run = found.setdefault(line["run"], {})
            first = of_run.setdefault(line["seed"], None)
            right = float(line["valid_accuracy"] or 0)
            if first is None and right >= SOLVED:
                of_run[line["seed"]] = int(line["step"])
    return found


def solved_notes(rows: Sequence[Row], curves: Path) -> list[str]:
    """For trainings whose accuracy was measured, a sentence each: how many seeds solve it, when."""
    runs = {row["run"] for row in rows if "run" in row and row["metric"] == "accuracy"}
    if not runs or not curves.exists():
        return []
    notes: list[str] = []
    for run, seeds in steps_to_solve(curves).items():
        steps = sorted(step for step in seeds.values() if step is not None)
        if run in runs:
            when = f", first at step {', '.join(f'{step:,}' for step in steps)}" if steps else ""
            notes.append(
                f"{run}: {len(steps)} of {len(seeds)} seeds get {SOLVED:.0%} of validation "
                f"right{when}"
            )
    return notes
