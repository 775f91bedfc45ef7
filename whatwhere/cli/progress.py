"""Progress on the terminal for long work, and Ctrl-C that leaves things in order."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from whatwhere.study.observer import Observer

__all__ = ["Interrupts", "Screen"]

QUIET_SECONDS = 30.0
"""Between two lines where there is no terminal to draw bars on."""

SAME_SECONDS = 1.0
"""Signals closer than this are one request."""


class Interrupts:
    """Within `with`, the first Ctrl-C (or SIGTERM) only asks to stop; a second one stops at once.

    What follows within a second is the same request: torchrun, told to stop, sends its processes
    SIGINT and SIGTERM at once. `code` is the exit code that tells which of the two came first.
    """

    def __init__(self) -> None:
        self.asked, self.code, self._when = False, 130, 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.asked:
            if now - self._when > SAME_SECONDS:
                raise KeyboardInterrupt
            return
        self.asked, self.code, self._when = True, 128 + number, now
        # Not print: a handler may run in the middle of one.
        os.write(2, b"\nstopping; again to stop at once\n")


class Screen(Observer):
    """Bars with the time left; without a terminal a line now and then. All of it on stderr."""

    LEFT = "left"
    """Of what the time left is told."""

    def __init__(self, interrupts: Interrupts | None = None) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.interrupts = interrupts or Interrupts()
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        self._all: TaskID | None = None
        self._now: TaskID | None = None
        self._spoken = self._begun = time.monotonic()
        self._work, self._done, self._loss = (0.0, 0.0), 0.0, 0.0
        self._valid: float | None = None
        self._figures = ""
        self._pace = (0, time.monotonic())

    def close(self) -> None:
        """Take the bars off the screen."""
        self.bars.stop()

    def reading(self, name: str, done: int, total: int) -> None:
        """The data is being read for the first time."""
        if self._now is None:
            self._now = self._bar(f"reading {name} (once)", total)
        self.bars.update(self._now, completed=done, total=total, figures=f"{done}/{total} files")
        if done == total:
            self._drop()
        self._line(f"reading {name} (once): {done}/{total} files")

    def begin(self, total: float, done: float) -> None:
        self._work, self._done, self._begun = (total, done), done, time.monotonic()
        self._all = self._bar("[bold]all[/bold]", total, done)
        self._advance(0.0)

    def train(self, name: str, seed: int, step: int, steps: int) -> None:
        self._drop()
        self._now = self._bar(f"train {name}, seed {seed}", steps, step)
        self._pace, self._valid = (step, time.monotonic()), None

    def step(self, step: int, loss: float, work: float) -> None:
        first, began = self._pace
        pace = (time.monotonic() - began) / max(1, step - first)
        if self._now is not None:
            self._figures = f"step {step}  loss {loss:.3f}  {1e3 * pace:.0f} ms/step"
            self.bars.update(self._now, completed=step, figures=self._figures)
        self._advance(work)

    def valid(self, step: int, value: float) -> None:
        self._valid = value

    def trained(self, name: str, seed: int, seconds: float, failed: str | None) -> None:
        self._drop()
        if failed:
            self._say(f"[red]{name}, seed {seed}: {failed}[/red]")
        elif self._valid is not None:
            self._say(
                f"{name}, seed {seed}: trained in {seconds:.0f} s, validation {self._valid:.3f}"
            )

    def evaluate(self, encoding: str, seed: int, length: int) -> None:
        self._drop()
        self._now = self._bar(f"evaluate {encoding}, seed {seed}", None)
        self.bars.update(self._now, figures=f"at {length} tokens")

    def evaluated(self, row: dict[str, Any], work: float) -> None:
        self._drop()
        if row.get("error"):
            where = f"{row['encoding']}, seed {row['seed']} at {row['eval_length']}"
            self._say(f"[red]{where}: {row['error']}[/red]")
        self._advance(work)

    def skipped(self, work: float) -> None:
        self._done += work
        self._work = (self._work[0], self._work[1] + work)
        self._advance(0.0)

    def stop(self) -> bool:
        return self.interrupts.asked

    def _bar(self, name: str, total: float | None, done: float = 0.0) -> TaskID:
        self.bars.start()
        task = self.bars.add_task(name, total=total, figures="")
        if done:
            self.bars.reset(task, total=total, completed=round(done))
        return task

    def _drop(self) -> None:
        if self._now is not None:
            self.bars.remove_task(self._now)
            self._now, self._figures = None, ""

    def _advance(self, work: float) -> None:
        self._done += work
        total, before = self._work
        share = self._done / max(total, 1.0)
        if self._all is not None:
            self.bars.update(self._all, completed=self._done, figures=f"{share:.0%}")
        if self._done > before:
            pace = (time.monotonic() - self._begun) / (self._done - before)
            left = _minutes(pace * (total - self._done))
            now = f"  ({self._figures})" if self._figures else ""
            self._line(f"{share:.0%} done, about {left} {self.LEFT}{now}")

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def _line(self, text: str) -> None:
        now = time.monotonic()
        if not self.console.is_terminal and now - self._spoken >= QUIET_SECONDS:
            self._spoken = now
            self.console.print(text, markup=False)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
