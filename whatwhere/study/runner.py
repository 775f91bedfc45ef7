"""Train, evaluate, write rows: in an order in which nothing is done twice."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import torch

from whatwhere.encodings.base import Wrapper
from whatwhere.errors import FAULTS, first_line
from whatwhere.nn import Decoder
from whatwhere.study import rows
from whatwhere.study.config import Config
from whatwhere.study.directory import Directory
from whatwhere.study.evaluate import nll
from whatwhere.study.observer import Observer
from whatwhere.study.plan import Costs, Unit, check, costs, span, units
from whatwhere.study.training import Training
from whatwhere.tasks import Task, Windows

__all__ = ["described", "run"]

STUDY, MODE, METRIC = "compare", "one_pass", "nll"


def run(
    config: Config,
    task: Task,
    directory: Directory,
    observer: Observer | None = None,
    checkpoint_seconds: float = 15.0,
) -> list[dict[str, Any]]:
    """The rows of a configuration, in its order: those that are there, and the others, measured.

    Each (trained part, seed) is trained once and evaluated at every length with each of its
    modifiers. What fails becomes a row with `error` and no `value`, and the run goes on.
    Raises ValueError before any work for what can not be done, KeyboardInterrupt when the observer
    asks to stop; the next `run` in the same directory goes on there.
    """
    check(config, task)
    return _Run(config, task, directory, observer or Observer(), checkpoint_seconds).all()


class _Run:
    def __init__(
        self, config: Config, task: Task, directory: Directory, observer: Observer, every: float
    ) -> None:
        self.config, self.task, self.directory = config, task, directory
        self.observer, self.every = observer, every
        self.costs: Costs = costs(config, task)
        self.span = span(config, task)
        # The test split is measured at other lengths, and may be shorter than a training window.
        self.windows = Windows(replace(task, test=task.valid), config.train_length)

    def all(self) -> list[dict[str, Any]]:
        """Every unit; then the rows that were asked for."""
        plan = units(self.config)
        total = sum(self._work(unit) for unit in plan)
        open_units = [unit for unit in plan if self._missing(unit)]
        self.observer.begin(total, total - sum(map(self._work, open_units)))
        cuda = [torch.device(self.config.device)] if self.config.device.startswith("cuda") else []
        for unit in open_units:
            with torch.random.fork_rng(devices=cuda):
                self._unit(unit)
        keys = [self._key(text, unit.seed, n) for unit in plan for text, n in self._cells(unit)]
        return [self.directory.done[key] for key in keys]

    def _unit(self, unit: Unit) -> None:
        path = self.directory.checkpoint(unit.trained, unit.seed)
        training, failed = None, None
        try:
            training = Training(self.config, self.windows, unit.trained, (unit.seed,), path)
            self._train(training)
            failed = training.failed[0]
        except FAULTS as error:
            failed = f"training broke off: {first_line(error)}"
        seconds = training.seconds if training else 0.0
        self.observer.trained(unit.trained, unit.seed, seconds, failed)
        for text, length in self._cells(unit):
            work = self.costs.evaluation[length]
            if self._key(text, unit.seed, length) in self.directory.done:
                self.observer.skipped(work)
                continue
            row = self._row(unit, text, length, seconds)
            if failed is not None or training is None:
                row["error"] = failed
            else:
                row |= self._evaluate(training.models()[0], unit, text, length)
                row["options"] |= described(training.models()[0])
            self.directory.add(row)
            self.observer.evaluated(row, work)

    def _train(self, training: Training) -> None:
        seed = training.seeds[0]
        self.observer.train(training.encoding, seed, training.step, self.config.steps)
        self.observer.skipped(training.step * self.costs.step)
        training.run(self.observer, self.costs.step, self.every)
        self.observer.skipped((self.config.steps - training.step) * self.costs.step)
        points = [[p["step"], p["train_nll"], p["valid_nll"]] for p in training.curve]
        self.directory.add_curve(training.encoding, seed, points)

    def _evaluate(self, model: Decoder, unit: Unit, text: str, length: int) -> dict[str, Any]:
        """The changing part of a row: value and n, or error; seconds; the encoding in full."""
        self.observer.evaluate(text, unit.seed, length)
        started = time.monotonic()
        found: dict[str, Any] = {}
        try:
            model.use(text, factor=length / self.config.train_length)
            found["value"], found["n"] = nll(
                model, self.task.test, length, self.span, self.observer.stop
            )
            if not math.isfinite(found["value"]):
                raise ValueError(f"the loss of the test split is {found['value']}")
        except FAULTS as error:
            found = {"error": first_line(error)}
        return found | {"seconds": round(time.monotonic() - started, 3)}

    def _row(self, unit: Unit, text: str, length: int, seconds: float) -> dict[str, Any]:
        """A row without its result."""
        options = {
            key: value
            for key, value in self.config.to_dict().items()
            if key not in ("task", "encodings", "seeds", "eval_lengths", "train_length", "steps")
        }
        options["factor"] = max(1.0, length / self.config.train_length)
        options["vocab_size"] = self.task.vocab_size
        options["source"] = self.task.metadata.get("source")
        return {
            "study": STUDY,
            "encoding": text,
            "trained_as": unit.trained,
            "options": options,
            "train_length": self.config.train_length,
            "eval_length": length,
            "mode": MODE,
            "task": self.task.name,
            "unit": self.task.unit,
            "metric": METRIC,
            "seed": unit.seed,
            "steps": self.config.steps,
            "commit": rows.commit(),
            "versions": rows.versions(),
            "device": rows.device_name(self.config.device),
            "seconds": 0.0,
            "train_seconds": round(seconds, 3),
        }

    def _cells(self, unit: Unit) -> list[tuple[str, int]]:
        return [(text, length) for text in unit.expressions for length in self.config.lengths]

    def _key(self, text: str, seed: int, length: int) -> tuple[Any, ...]:
        return (text, seed, length, MODE, METRIC)

    def _missing(self, unit: Unit) -> bool:
        cells = self._cells(unit)
        return any(self._key(t, unit.seed, n) not in self.directory.done for t, n in cells)

    def _work(self, unit: Unit) -> float:
        evaluations = sum(self.costs.evaluation[length] for _, length in self._cells(unit))
        return self.config.steps * self.costs.step + evaluations


def described(model: Decoder) -> dict[str, Any]:
    """The encoding in use with every option, and the spectrum that its angles come from.

    All of it under one key: it changes with the length, and reports group rows by the other ones.
    """
    encoding = inner = model.active[0]
    while isinstance(inner, Wrapper) and not hasattr(inner, "phases"):
        inner = inner.inner
    phases = getattr(inner, "phases", None)
    spectrum = None if phases is None else str(phases.spectrum)
    return {"encoding": encoding.to_dict() | {"spectrum": spectrum}}
