"""A study on several devices: a process a device, each with a group of seeds of one cell at a time.

A small model trains fastest alone on a GPU: its seeds are stacked there, and other groups and cells
train beside it on the others. Every process is the study's own command with rows in a folder of its
own under `out/.devices`; what it measured is put into the study's rows when it ends, or when the
study is run again after a kill. One training over several GPUs is accelerate's: see `Training`.
"""

from __future__ import annotations

import csv
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from whatwhere.study.cells import Cell, Study
from whatwhere.study.data import Library
from whatwhere.study.ledger import Ledger, key_of
from whatwhere.study.observer import Observer
from whatwhere.study.rows import mend, read_rows
from whatwhere.study.todo import asked, missing, unfinished

__all__ = ["Child", "Job", "Start", "farm"]

LOOK = 0.2
"""Seconds between two looks at the processes."""

# Time over, stopped (by the signal itself before it listened).
_STOPPED = (3, 130, 143, -2, -15)


@dataclass(frozen=True)
class Job:
    """Seeds of a cell that are trained as one."""

    cell: Cell
    seeds: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.cell.name}, seed {','.join(map(str, self.seeds))}"


@runtime_checkable
class Child(Protocol):
    """What is asked of a process: subprocess.Popen has it."""

    returncode: int | None

    def poll(self) -> int | None: ...
    def send_signal(self, sig: int, /) -> None: ...
    def wait(self) -> int | None: ...


Start = Callable[[Job, str, Path, Path], Child]


@dataclass
class _Process:
    job: Job
    device: str
    folder: Path
    handle: Child
    began: float

    def said(self) -> str:
        """The last line of its log."""
        lines = self.log.read_text(errors="replace").replace("\r", "\n").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    @property
    def log(self) -> Path:
        return self.folder / "log"


def farm(
    study: Study,
    ledger: Ledger,
    library: Library,
    devices: Sequence[str],
    start: Start,
    watch: Observer,
    say: Callable[[str], None],
    *,
    only: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[str]:
    """Do what is missing of the chosen cells and seeds; returns what broke, a sentence a job.

    `start(job, device, folder, log)` starts the process that does a job on a device and writes its
    rows into `folder`. KeyboardInterrupt, after all processes have saved, when the observer asks to
    stop. What `asked` raises, before any process starts.
    """
    cells = asked(study, library, only, seeds)
    return _Farm(ledger, library, start, watch, say).run(devices, cells, seeds)


class _Farm:
    def __init__(
        self, ledger: Ledger, library: Library, start: Start, watch: Observer,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.ledger, self.library, self.start = ledger, library, start
        self.watch, self.say = watch, say
        self.place = ledger.path / ".devices"
        self.running: dict[str, _Process] = {}
        self.broken: list[str] = []
        self.trained: set[str] = set()

    def run(
        self, devices: Sequence[str], cells: Sequence[Cell], seeds: Sequence[int] | None
    ) -> list[str]:
        for folder in sorted(self.place.glob("*/")):
            self._collect(folder, left=True)
            shutil.rmtree(folder)
        waiting = list(self._jobs(cells, seeds))
        spoken = time.monotonic()
        try:
            while waiting or self.running:
                if self.watch.stop():
                    raise KeyboardInterrupt
                for device in devices:
                    job = next((j for j in waiting if not self._blocked(j, waiting)), None)
                    if device not in self.running and job is not None:
                        waiting.remove(job)
                        self._begin(job, device)
                time.sleep(LOOK)
                for process in [p for p in self.running.values() if p.handle.poll() is not None]:
                    self._end(process)
                if time.monotonic() - spoken > 30.0:
                    spoken = time.monotonic()
                    for process in self.running.values():
                        self.say(f"{process.device}: {process.job}: {process.said()}")
        finally:
            for process in self.running.values():
                process.handle.send_signal(signal.SIGINT)
            for process in list(self.running.values()):
                process.handle.wait()
                self._end(process)
        if not self.broken:
            shutil.rmtree(self.place, ignore_errors=True)
        return self.broken

    def _jobs(self, cells: Sequence[Cell], seeds: Sequence[int] | None) -> Iterator[Job]:
        for cell in cells:
            todo = missing(cell, self.ledger, self.library, seeds)
            for group in unfinished(cell, todo):
                yield Job(cell, group)

    def _blocked(self, job: Job, waiting: Sequence[Job]) -> bool:
        """Whether a training that it needs or does itself is another's for now."""

        def meets(other: Job) -> bool:
            return other is not job and bool(set(other.seeds) & set(job.seeds))

        now = [p.job for p in self.running.values() if meets(p.job)]
        if any(_training(other.cell) == _training(job.cell) for other in now):
            return True
        base = job.cell.start
        if base is None:
            return False
        if any(other.cell.name == base for other in (*now, *filter(meets, waiting))):
            return True
        return base not in self.trained and any(other.cell.start == base for other in now)

    def _begin(self, job: Job, device: str) -> None:
        folder = self.place / f"{job.cell.name}-{'_'.join(map(str, job.seeds))}"
        folder.mkdir(parents=True)
        self.ledger.copy(folder)
        handle = self.start(job, device, folder, folder / "log")
        self.running[device] = _Process(job, device, folder, handle, time.monotonic())
        self.say(f"{device}: {job}")

    def _end(self, process: _Process) -> None:
        del self.running[process.device]
        took, code = time.monotonic() - process.began, process.handle.returncode
        job, device = process.job, process.device
        self._collect(process.folder)
        lacking = missing(job.cell, self.ledger, self.library, job.seeds)
        # Some failed seeds are an exit code of 1 and rows; a traceback is an exit code of 1.
        if code in (0, 1) and not any(lacking.values()):
            self.trained |= {job.cell.name, job.cell.start or ""}
            self.say(f"{device}: {job}: done in {took:,.0f} s")
        elif code not in _STOPPED:
            self.broken.append(
                f"{job} broke on {device} (exit code {code}): {process.said()}; all it said "
                f"is in {process.log}"
            )
            self.say(self.broken[-1])
            return
        shutil.rmtree(process.folder)

    def _collect(self, folder: Path, left: bool = False) -> None:
        """Put a process's rows and curves into the study's; `left`: of a run that was killed."""
        rows, curves = folder / "rows.jsonl", folder / "curves.csv"
        mend(rows)
        for row in read_rows(rows):
            again = left and self.ledger.retry and row.get("error")
            if "run" in row and key_of(row) not in self.ledger.done and not again:
                self.ledger.add(row)
                self.watch.evaluated(row, 0.0)
        if curves.exists():
            points: dict[str, list[dict[str, Any]]] = {}
            with curves.open(newline="", encoding="utf-8") as file:
                for point in csv.DictReader(file):
                    points.setdefault(point["run"], []).append(point)
            for run, each in points.items():
                self.ledger.add_curve(run, each)


def _training(cell: Cell) -> tuple[str, str | None]:
    """What names its checkpoint."""
    return str(cell.training()), cell.start
