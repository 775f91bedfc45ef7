"""Progress of a study: the bars of `Screen`, labels that name cells, and a deadline."""

from __future__ import annotations

import os
import time
from typing import Any

from whatwhere.cli.progress import Screen

__all__ = ["PARENT", "Board"]

PARENT = "WHATWHERE_PARENT"
"""Names the process that started this one: without it this one saves and stops."""


class Board(Screen):
    """`Screen` for several seeds at once; asks to stop when `minutes` are over.

    late: whether that is why. A name comes with its seeds: "pope, seed 0-3". The time left is that
    of trainings alone: what an evaluation costs is known when it is over, so its time is left out.
    """

    LEFT = "of training left"

    def __init__(self, minutes: float | None = None) -> None:
        super().__init__()
        self._until = None if minutes is None else time.monotonic() + 60 * minutes
        self._parent = os.environ.get(PARENT)
        self._waited: set[str] = set()
        self._idle: float | None = None

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return self._until is not None and time.monotonic() >= self._until

    @property
    def left(self) -> float | None:
        """Minutes left, or None without a limit."""
        return None if self._until is None else (self._until - time.monotonic()) / 60

    def train(self, name: str, seed: int, step: int, steps: int) -> None:
        self._drop()
        self._leave_out()
        self._idle = None
        self._now = self._bar(f"train {name}", steps, step)
        self._pace, self._valid = (step, time.monotonic()), None

    def waits(self, name: str) -> None:
        if name not in self._waited:
            self._waited.add(name)
            self._say(f"{name}: another run trains it; waiting for its end")

    def trained(self, name: str, seed: int, seconds: float, failed: str | None) -> None:
        self._drop()
        self._idle = time.monotonic()
        if failed:
            self._say(f"[red]{name}: {failed}[/red]")
        elif self._valid is not None:
            self._say(f"{name}: trained in {seconds:.0f} s, validation {self._valid:.4f}")

    def evaluate(self, encoding: str, seed: int, length: int) -> None:
        self._drop()
        self._now = self._bar(f"evaluate {encoding}, seed {seed} …", None)
        self.bars.update(self._now, figures=f"at {length} tokens")

    def evaluated(self, row: dict[str, Any], work: float) -> None:
        self._drop()
        self._leave_out()
        if row.get("error"):
            self._say(
                f"[red]{row['run']}, seed {row['seed']}, {row['metric']} at {row['eval_length']}: "
                f"{row['error']}[/red]"
            )
        self._advance(work)

    def _leave_out(self) -> None:
        """Since the last training nothing was trained."""
        if self._idle is not None:
            now = time.monotonic()
            self._begun, self._idle = self._begun + now - self._idle, now

    def stop(self) -> bool:
        alone = self._parent is not None and str(os.getppid()) != self._parent
        return super().stop() or self.late or alone
