"""One bar for long measurements; without a terminal a line now and then. On stderr."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from whatwhere.cli.progress import QUIET_SECONDS

__all__ = ["Bar"]


class Bar:
    """Progress over tasks with `.work`, `.made.method` and `.row`; `done`: those there before."""

    def __init__(self, tasks: Sequence[Any], done: Sequence[Any] = ()) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.total = sum(task.work for task in tasks) or 1.0
        self.before = self.done = sum(task.work for task in done)
        self.began = self.spoken = time.monotonic()
        self.bars = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn(), TextColumn("left"),
            TimeRemainingColumn(), console=self.console, transient=True,
            disable=not self.console.is_terminal,
        )  # fmt: skip
        self.task = self.bars.add_task("", total=self.total, completed=int(self.done))

    def __enter__(self) -> Bar:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def told(self, task: Any, row: dict[str, Any] | None) -> None:
        """Before a measurement (row None) and after it."""
        length = task.row["eval_length"]
        if row is None:
            words = f"{task.made.method}: {task.row['task']} at {length}"
            self.bars.update(self.task, description=f"{words:<36}")
            return
        if "error" in row:
            self.console.print(f"{task.made.method} at {length}: {row['error']}", markup=False)
        self.done += task.work
        self.bars.update(self.task, completed=self.done)
        now = time.monotonic()
        if not self.console.is_terminal and now - self.spoken >= QUIET_SECONDS:
            self.spoken = now
            pace = (now - self.began) / max(1e-9, self.done - self.before)
            left = pace * (self.total - self.done)
            self.console.print(f"{self.done / self.total:.0%} done, about {left:.0f} s left")
