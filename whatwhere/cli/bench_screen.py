"""What `whatwhere bench` shows: the plan, a bar while it measures, tables of what came out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from whatwhere.bench.cases import Job
    from whatwhere.bench.ledger import Ledger

__all__ = ["announce", "finish", "show_engine", "show_model", "show_plan", "watch"]


def show_plan(chosen: list[Job], budget: float | None) -> None:
    """The rows to be with their estimated seconds, and which of them a budget leaves out."""
    from whatwhere.cli.console import console, plain_table

    table = plain_table("implementation", "case", "s", "sum", right=("s", "sum"))
    total = 0.0
    for job in chosen:
        total += job.seconds
        late = budget is not None and total > budget
        table.add_row(job.name, str(job.case), f"{job.seconds:.1f}", f"{total:.0f}{'*' * late}")
    screen = console()
    screen.print(table)
    note = "; *: over the budget" if budget is not None and total > budget else ""
    screen.print(f"{len(chosen)} rows, about {total:.0f} s on an H200 (estimated){note}")


def announce(ledger: Ledger, done: int, total: int) -> None:
    """Who measures, where rows go, how many are there."""
    shared = ledger.shared
    print(f"{shared['device']}, commit {shared['commit'][:21]}, {ledger.path}", file=sys.stderr)
    if done:
        print(f"{done} of {total} rows are there already", file=sys.stderr)


def watch(waiting: list[Job], ledger: Ledger, rows: Iterable[tuple[Job, dict[str, Any]]]) -> None:
    """Measure with a bar; Ctrl-C ends behind the row in work."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from whatwhere.cli.progress import Interrupts

    screen, interrupts = Console(stderr=True, highlight=False), Interrupts()
    bars = Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"), console=screen, disable=not screen.is_terminal,
        transient=True,
    )  # fmt: skip
    left = sum(job.seconds for job in waiting)
    with interrupts, bars:
        task = bars.add_task("measuring", total=left, left=f"about {left:.0f} s left")
        for job, row in rows:
            screen.print(_line(job, row), markup=False, soft_wrap=True)
            left -= job.seconds
            bars.update(task, advance=job.seconds, left=f"about {left:.0f} s left")
            if interrupts.asked:
                raise KeyboardInterrupt


def _line(job: Job, row: dict[str, Any]) -> str:
    head = f"{job.name:22s} {job.case!s:24s}"
    if "error" in row:
        return f"{head} {row['error'].splitlines()[0][:160]}"
    times = f"{row['forward_ms']:9.3f} + {row['backward_ms']:9.3f} ms {row['peak_mib']:7.0f} MiB"
    return f"{head} {times}  {row['seconds']} s"


def finish(found: list[dict[str, Any]], ledger: Ledger, as_json: bool) -> None:
    """Rows as JSON or as tables of ratios. Exits with 1 if some failed."""
    from whatwhere.cli.console import console
    from whatwhere.report.speed import last, render

    if as_json:
        print(json.dumps(last(found), indent=2))
    else:
        render(found, console())
        print(f"rows  {ledger.path}")
    if any("error" in row for row in last(found)):
        raise typer.Exit(1)


def show_model(found: list[dict[str, Any]]) -> None:
    """RoPE and PoPE side by side, and PoPE over RoPE."""
    from whatwhere.cli.console import console, plain_table

    columns = ("", "tokens/s", "ms a step", "peak MiB", "saved bytes", "backend")
    table = plain_table(*columns, right=columns[1:5])
    merged: dict[str, dict[str, Any]] = {}
    for row in found:
        merged.setdefault(row["encoding"], {}).update(row)
    for name, row in merged.items():
        peak = f"{row['peak_mib']:.0f}" if "peak_mib" in row else "–"
        table.add_row(
            name, f"{row['tokens_per_s']:.0f}", f"{row['step_ms']:.2f}", peak,
            f"{row['saved_bytes']}", row["backend"],
        )  # fmt: skip
    first, second = (row for row in merged.values())
    speed = second["tokens_per_s"] / first["tokens_per_s"]
    saved = second["saved_bytes"] / first["saved_bytes"]
    table.add_row("ratio", f"{speed:.3f}", "", "", f"{saved:.3f}", "")
    console().print(table)


def show_engine(found: list[dict[str, Any]]) -> None:
    """A line an encoding and number of seeds."""
    from whatwhere.cli.console import console, plain_table

    columns = ("", "seeds", "seed-steps/s", "ms a step", "peak MiB")
    table = plain_table(*columns, right=columns[1:])
    for row in found:
        peak = f"{row['peak_mib']:.0f}" if "peak_mib" in row else "–"
        table.add_row(
            row["encoding"], f"{row['seeds']}", f"{row['seed_steps_per_s']:.0f}",
            f"{row['step_ms']:.2f}", peak,
        )  # fmt: skip
    console().print(table)
