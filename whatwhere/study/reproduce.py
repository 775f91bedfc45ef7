"""Run a study: cell by cell, a few seeds at once, each finished evaluation a row at once.

    with open_ledger(study, out) as ledger:
        reproduce(study, ledger, library, checkpoints)

Killed at any moment and started again, nothing is done twice and nothing differs: a training goes
on from its checkpoint, a row that is there is not measured again. Trainings lie under `checkpoints`
by what they are, not by who asks: two studies that share the folder share them.
"""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from whatwhere.errors import FAULTS, first_line
from whatwhere.study import checkpoint
from whatwhere.study.cell_rows import row_of
from whatwhere.study.cells import Cell, Evaluation, Study
from whatwhere.study.data import Library
from whatwhere.study.ledger import Ledger, key
from whatwhere.study.measure import Found, measure
from whatwhere.study.observer import Observer
from whatwhere.study.todo import asked, missing, ready, unfinished
from whatwhere.study.training import Training
from whatwhere.study.wanted import Wanted, wanted

__all__ = ["open_ledger", "reproduce"]


def open_ledger(
    study: Study,
    out: Path,
    retry: bool = False,
    writes: bool = True,
    only: Sequence[str] | None = None,
) -> Ledger:
    """The rows of a study at `out`. The errors of `Ledger`; with `only` for these cells only."""
    cells = study.chosen(only)
    return Ledger(out, {cell.name: study.identity(cell) for cell in cells}, retry, writes)


def reproduce(
    study: Study,
    ledger: Ledger,
    library: Library,
    checkpoints: Path,
    *,
    only: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    observer: Observer | None = None,
    every: float = 60.0,
) -> list[dict[str, Any]]:
    """Do what is missing of the chosen cells and seeds; returns all their rows.

    A failed seed or evaluation becomes rows with `error`, and the others go on. KeyboardInterrupt,
    after saving, when the observer asks to stop; the same call goes on there.
    What `asked` and `ready` raise, before anything is trained.
    """
    cells = asked(study, library, only, seeds)
    watch = observer or Observer()
    return _Run(study, ledger, library, checkpoints, watch, every).all(cells, seeds)


class _Run:
    def __init__(
        self, study: Study, ledger: Ledger, library: Library, checkpoints: Path, watch: Observer,
        every: float,
    ) -> None:  # fmt: skip
        self.study, self.ledger, self.library = study, ledger, library
        self.checkpoints, self.watch, self.every = checkpoints, watch, every
        self.counted: set[tuple[str, int]] = set()

    def all(self, cells: Sequence[Cell], seeds: Sequence[int] | None) -> list[dict[str, Any]]:
        """Every cell, group by group; then their rows."""
        todo = {cell.name: missing(cell, self.ledger, self.library, seeds) for cell in cells}
        ready_made = {(n, s) for n, each in todo.items() for s, k in each.items() if not k}
        every = {(n, s) for n, each in todo.items() for s in each} | self._bases(cells, todo)
        work = {
            c.name: c.config.steps * _step_work(c)
            for c in map(self.study.cell, {n for n, _ in every})
        }
        total, done = (sum(work[n] for n, _ in each) for each in (every, ready_made))
        self.counted = ready_made
        for cell in cells:
            if any(todo[cell.name].values()):
                ready(cell, self.library)
        self.watch.begin(total, done)
        for cell in cells:
            for group in unfinished(cell, todo[cell.name]):
                self._group(cell, group)
        return [
            self.ledger.done[key(cell.name, seed, w)]
            for cell in cells
            for seed in todo[cell.name]
            for each in cell.evaluations
            for w in wanted(cell, each, self.library)
        ]

    def _bases(
        self, cells: Sequence[Cell], todo: Mapping[str, Mapping[int, int]]
    ) -> set[tuple[str, int]]:
        """The trainings (cell, seed) that others start from, and that were not asked for."""
        found: set[tuple[str, int]] = set()
        for cell in cells:
            base = cell.start
            while base is not None:
                if base not in todo:
                    found |= {(base, seed) for seed, lacks in todo[cell.name].items() if lacks}
                base = self.study.cell(base).start
        return found

    def _group(self, cell: Cell, group: Sequence[int]) -> None:
        """Train some seeds as one, evaluate them, write their rows."""
        self._stop()
        cuda = [torch.device(cell.config.device)] if cell.config.device.startswith("cuda") else []
        training, failed = None, dict.fromkeys(group, "")
        with torch.random.fork_rng(devices=cuda):
            try:
                training = self._trained(cell, group)
                failed = {s: f or "" for s, f in zip(training.seeds, training.failed, strict=True)}
            except FAULTS as error:
                hint = "; --pieces 16 takes less memory" * isinstance(error, torch.OutOfMemoryError)
                failed = dict.fromkeys(group, f"training broke off: {first_line(error)}{hint}")
            for each in cell.evaluations:
                self._evaluate(cell, each, group, training, failed)
        del training
        gc.collect()
        if cuda:
            torch.compiler.reset()  # else the ninth model of a process is no longer compiled
            torch.cuda.empty_cache()

    def _trained(self, cell: Cell, group: Sequence[int]) -> Training:
        """The finished training of a group, or of a larger one that was trained before."""
        path, seeds = self._place(cell, group)
        start = None
        if cell.start is not None and not path.exists():
            start = self._starts(self.study.cell(cell.start), seeds)
        data = self.library.drawn(cell.data, cell.config.train_length, cell.drawn)
        own = {(cell.name, seed) for seed in group} - self.counted  # a start is come back to
        self.counted |= own
        name, work = f"{cell.name}, seed {_span(seeds)}", len(own) * _step_work(cell)

        def wait() -> None:
            self._stop()
            self.watch.waits(name)

        # Of processes that train together only the first writes, and so waits.
        with checkpoint.alone(path, wait) if self.ledger.writes else nullcontext():
            training = Training(
                cell.config, data, cell.encoding, seeds, path, keep_best=cell.keep_best, start=start
            )
            self._run(cell, training, name, work)
        reasons = [f"seed {s}: {f}" for s, f in zip(seeds, training.failed, strict=True) if f]
        self.watch.trained(name, seeds[0], training.seconds, "; ".join(reasons) or None)
        return training

    def _run(self, cell: Cell, training: Training, name: str, work: float) -> None:
        """Train to the end what is not finished; its curve, however it ends."""
        seeds = training.seeds
        self.watch.train(name, seeds[0], training.step, cell.config.steps)
        self.watch.skipped(training.step * work)
        try:
            if not training.finished:
                training.run(self.watch, work, self.every)
        finally:
            self.ledger.add_curve(cell.name, training.curve)

    def _starts(self, base: Cell, seeds: Sequence[int]) -> list[dict[str, torch.Tensor]]:
        """The trained weights of a cell, seed by seed; it is trained now if it was not yet."""
        found: dict[int, dict[str, torch.Tensor]] = {}
        for group in base.groups(seeds):
            training = self._trained(base, group)
            for seed, model, reason in zip(
                training.seeds, training.models(best=base.keep_best), training.failed, strict=True
            ):
                if seed in seeds and reason:
                    raise ValueError(f"{base.name}, its start, failed with seed {seed}: {reason}")
                found[seed] = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
        return [found[seed] for seed in seeds]

    def _place(self, cell: Cell, group: Sequence[int]) -> tuple[Path, tuple[int, ...]]:
        """The checkpoint of a group, and its seeds: those of the whole group if that is there."""
        whole = next(each for each in cell.groups() if group[0] in each)
        stem = f"{_slug(cell.encoding)}-{self._digest(cell)}"
        path = self.checkpoints / f"{stem}.seed{_span(whole)}.pt"
        if tuple(group) == whole or path.exists():
            return path, whole
        return self.checkpoints / f"{stem}.seed{_span(group)}.pt", tuple(group)

    def _digest(self, cell: Cell) -> str:
        return self.study.digest(cell, self.library.fingerprint(cell.data))

    def _evaluate(
        self,
        cell: Cell,
        each: Evaluation,
        group: Sequence[int],
        training: Training | None,
        failed: Mapping[int, str],
    ) -> None:
        """One evaluation of a group: its missing rows, each as soon as it is known."""
        expected = wanted(cell, each, self.library)

        def needed(seed: int, row: Wanted) -> bool:
            own = seed in group and not failed[seed]
            return own and key(cell.name, seed, row) not in self.ledger.done

        began, error = time.monotonic(), "it was not measured"

        def add(found: Found) -> None:
            seconds = time.monotonic() - began
            row = row_of(self.study, cell, each, found, training, self.library, seconds)
            self.ledger.add(row)
            self.watch.evaluated(row, 0.0)

        if any(needed(seed, row) for seed in group for row in expected):
            self._stop()
            longest = max(row.eval_length for row in expected)
            self.watch.evaluate(f"{cell.name} {each.probe or each.kind}", group[0], longest)
            assert training is not None
            try:
                for found in measure(cell, each, training, self.library, self.watch.stop, needed):
                    if needed(found.seed, found.wanted):
                        add(found)
            except FAULTS as fault:
                error = first_line(fault)
        for seed in group:
            for row in expected:
                if key(cell.name, seed, row) not in self.ledger.done:
                    add(Found(seed, row, None, error=failed[seed] or error))

    def _stop(self) -> None:
        if self.watch.stop():
            raise KeyboardInterrupt


def _step_work(cell: Cell) -> float:
    """Floating-point operations of one step of one seed, without the vocabulary's; estimated."""
    config = cell.config
    per_token = 24.0 * config.layers * config.width**2
    per_token += 4.0 * config.layers * config.width * config.train_length
    return 3.0 * config.batch_size * config.train_length * per_token


def _span(seeds: Sequence[int]) -> str:
    """3 or 0-3 or 0,2."""
    if len(seeds) > 1 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}-{seeds[-1]}"
    return ",".join(map(str, seeds))


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")
