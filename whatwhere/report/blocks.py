"""Rows in blocks: measurements that may stand in one table.

Two rows belong together if they differ in encoding, evaluation length and seed only. Anything else
that differs (task, mode, steps, width, …) would make columns of unlike things, so it makes another
block, whose title says in what it differs.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from whatwhere.report.rows import Row

__all__ = ["Block", "Cell", "blocks"]

#: Options that follow from the encoding and the length, which a table varies by design.
_VARIED = ("encoding", "factor")
_HIGHER_IS_BETTER = ("accuracy", "exact_match", "f1", "recall")
_METRICS = {"nll": "negative log-likelihood in nats per {unit}"}
_MODES = {"one_pass": "one pass", "streamed": "streamed"}


@dataclass
class Cell:
    """The measurements of one encoding at one length: a value or an error for every seed."""

    values: dict[Any, float] = field(default_factory=dict[Any, float])
    errors: dict[Any, str] = field(default_factory=dict[Any, str])

    @property
    def mean(self) -> float | None:
        """Mean over the seeds that have a value; None if none has."""
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds (n - 1); None for fewer than two."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None


@dataclass
class Block:
    """Rows that differ in encoding, evaluation length and seed only."""

    setting: dict[str, Any]
    rows: list[Row] = field(default_factory=list[Row])
    cells: dict[tuple[str, int], Cell] = field(default_factory=dict[tuple[str, int], Cell])
    trained_as: dict[str, str] = field(default_factory=dict[str, str])
    repeated: int = 0
    different: tuple[str, ...] = ()

    @property
    def encodings(self) -> list[str]:
        """Expressions in the order of their first row."""
        return list(dict.fromkeys(encoding for encoding, _ in self.cells))

    @property
    def lengths(self) -> list[int]:
        """Evaluation lengths, ascending."""
        return sorted({length for _, length in self.cells})

    @property
    def train_length(self) -> int:
        """Tokens trained at."""
        return self.setting["train_length"]

    @property
    def seeds(self) -> list[Any]:
        """The seeds of the block, in the order of their first row."""
        return list(dict.fromkeys(row.get("seed") for row in self.rows))

    @property
    def unit(self) -> str:
        """What one token is."""
        return self.setting.get("unit") or "token"

    @property
    def measure(self) -> str:
        """The metric in words, with its unit."""
        metric = self.setting["metric"]
        return _METRICS.get(metric, str(metric)).format(unit=self.unit)

    @property
    def sign(self) -> int:
        """1 if a smaller value is better, -1 if a larger one is."""
        return -1 if self.setting["metric"] in _HIGHER_IS_BETTER else 1

    @property
    def title(self) -> str:
        """Metric, task, training length and mode; and what tells the block from the others."""
        mode = self.setting.get("mode") or "one_pass"
        text = self.measure
        if self.setting.get("task"):
            text += f" on {self.setting['task']}"
        text += f", trained at {self.train_length}, {_MODES.get(mode, mode)}"
        extra = [f"{key} {self.setting.get(key)}" for key in self.different if key not in _TITLED]
        return ", ".join([text, *extra])

    def cell(self, encoding: str, length: int) -> Cell:
        """The cell, empty where there is no row."""
        return self.cells.get((encoding, length), Cell())

    def best(self, length: int, digits: int = 3) -> set[str]:
        """The best encodings at a length, equals at the printed precision included.

        Empty if fewer than two encodings have a value there.
        """
        means = {each: self.cell(each, length).mean for each in self.encodings}
        known = {each: round(self.sign * m, digits) for each, m in means.items() if m is not None}
        if len(known) < 2:
            return set()
        return {each for each, value in known.items() if value == min(known.values())}

    def change(self, encoding: str) -> float | None:
        """Value at the longest evaluation less that at the training length, over common seeds."""
        here, there = self.cell(encoding, self.train_length), self.cell(encoding, self.lengths[-1])
        common = [seed for seed in here.values if seed in there.values]
        if not common or self.lengths[-1] == self.train_length:
            return None
        return statistics.fmean(there.values[seed] - here.values[seed] for seed in common)


_TITLED = ("metric", "unit", "task", "train_length", "mode")


def blocks(rows: Iterable[Row]) -> list[Block]:
    """The blocks of the rows, in the order of their first row.

    Of several rows for one encoding, length and seed the last counts, as a run that was repeated
    left it.
    """
    found: dict[str, Block] = {}
    for row in rows:
        setting = _setting(row)
        block = found.setdefault(json.dumps(setting, sort_keys=True), Block(setting))
        block.rows.append(row)
        encoding, seed = row["encoding"], row.get("seed")
        block.trained_as[encoding] = row.get("trained_as") or encoding.partition("+")[0]
        cell = block.cells.setdefault((encoding, row["eval_length"]), Cell())
        block.repeated += seed in cell.values or seed in cell.errors
        cell.values.pop(seed, None)
        cell.errors.pop(seed, None)
        if row.get("error"):
            cell.errors[seed] = str(row["error"])
        else:
            cell.values[seed] = float(row["value"])
    every = list(found.values())
    keys = dict.fromkeys(key for block in every for key in block.setting)
    for block in every:
        block.different = tuple(
            key for key in keys if len({json.dumps(b.setting.get(key)) for b in every}) > 1
        )
    return every


def _setting(row: Row) -> dict[str, Any]:
    """All that two rows of one table have in common."""
    named = ("study", "task", "unit", "metric", "mode", "train_length", "steps")
    setting = {key: row[key] for key in named if row.get(key) is not None}
    options = row.get("options") or {}
    return setting | {k: v for k, v in options.items() if k not in _VARIED and k not in setting}


def multiple(length: int, train_length: int) -> str:
    """A length in multiples of the training length: 16×."""
    ratio = length / train_length
    return f"{ratio:.3g}×" if not math.isclose(ratio, round(ratio)) else f"{round(ratio)}×"
