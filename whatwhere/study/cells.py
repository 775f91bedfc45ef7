"""Studies as data: a `Study` is its cells, a `Cell` one training and what is measured on it.

    STUDY = Study("pope_table_2", HERE, (
        Cell("jsb_rope", "rope", JSB, data="jsb", keep_best=True, evaluations=(TEST,)),
        Cell("jsb_pope", "pope(delta_init=uniform)", JSB, ...),
    ))

Nothing here works or reads: `whatwhere.study.reproduce` runs it, `whatwhere reproduce` prints it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from whatwhere.errors import UnknownName, did_you_mean, real_number, whole_number
from whatwhere.study.config import Config

__all__ = ["KINDS", "Cell", "Evaluation", "Study"]

KINDS = {
    "scores": "every example of a split, as it was trained: nll, and accuracy of whole answers",
    "lengths": "nll of a text at several lengths, one pass each, and by position in the longest",
    "speed": "tokens per second of training, evaluation and decoding, and memory",
    "zero_shot": "accuracy on tasks of lm-evaluation-harness, where --data zero_shot= is given",
}

_ELSEWHERE = ("task", "data", "encodings", "seeds", "device", "eval_lengths", "eval_tokens")
"""Fields of a Config that a cell says itself, or that change no training."""


@dataclass(frozen=True)
class Evaluation:
    """One measurement on the trained models of a cell; gives one row a seed, metric and length.

    kind: a name of `KINDS`. metrics: of kind "scores", which of nll and accuracy become rows.
    data: another data set than the training's; drawn: options of a drawn task that differ from it.
    lengths, limit: of kind "lengths", in tokens; `limit` bounds the targets of each text (of kind
    "scores" the tokens that are read, of "zero_shot" the items of a part).
    tasks: of kind "zero_shot", names of `whatwhere.study.zero_shot`.
    encoding: the expression that evaluates, if not the trained one; it begins with the trained one.
    shown: what rows say as their encoding, where that differs (published tables name it so).
    probe: not empty for what the paper does not report: no claim is judged by such a row, unless
    it asks for it (row.probe in paper.csv).
    columns: further columns of its rows.
    Raises UnknownName or ValueError that names the field.
    """

    kind: str = "scores"
    metrics: tuple[str, ...] = ("nll",)
    split: str = "test"
    data: str | None = None
    drawn: Mapping[str, Any] = field(default_factory=dict[str, Any])
    lengths: tuple[int, ...] = ()
    limit: int | None = None
    tasks: tuple[str, ...] = ()
    encoding: str | None = None
    shown: str | None = None
    probe: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnknownName(did_you_mean("kind of evaluation", self.kind, KINDS))
        for metric in self.metrics:
            if metric not in ("nll", "accuracy"):
                raise UnknownName(did_you_mean("metric", metric, ("nll", "accuracy")))
        if self.split not in ("valid", "test"):
            raise UnknownName(did_you_mean("split", self.split, ("valid", "test")))
        if (self.kind == "lengths") != bool(self.lengths):
            raise ValueError(f"lengths is {self.lengths} in an evaluation of kind {self.kind!r}")
        if (self.kind == "zero_shot") != bool(self.tasks):
            raise ValueError(f"tasks is {self.tasks} in an evaluation of kind {self.kind!r}")
        for length in self.lengths:
            whole_number("lengths", length)
        if list(self.lengths) != sorted(set(self.lengths)):
            raise ValueError(f"lengths is {self.lengths}; give them in ascending order, once")


@dataclass(frozen=True)
class Cell:
    """One training, with several seeds, and its evaluations.

    name: the training's name in claims.toml. encoding: the expression that is trained.
    config: sizes, schedule, seeds (its `encodings`, `task` and `data` are not looked at).
    data: a name of `whatwhere.study.data.SOURCES`; drawn: options of a drawn task.
    stacked: how many seeds are trained as one (small models; see `whatwhere.study.Stacked`).
    start: the cell whose trained weights this one starts from, seed by seed.
    keep_best: evaluate the weights of the lowest validation loss, not the last ones.
    shown, columns: as of an evaluation, for all of them.
    about: why the cell is there, where it is none of the paper's.
    """

    name: str
    encoding: str
    config: Config
    data: str
    evaluations: tuple[Evaluation, ...]
    drawn: Mapping[str, Any] = field(default_factory=dict[str, Any])
    stacked: int = 1
    start: str | None = None
    keep_best: bool = False
    shown: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict[str, Any])
    about: str = ""

    def __post_init__(self) -> None:
        whole_number(f"stacked of {self.name}", self.stacked)
        if not self.evaluations:
            raise ValueError(f"cell {self.name!r} has no evaluations; give at least one")

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in order."""
        return self.config.seeds

    @property
    def tokens(self) -> int:
        """Tokens that one seed is trained on."""
        return self.config.steps * self.config.batch_size * self.config.train_length

    def groups(self, chosen: Iterable[int] | None = None) -> Iterator[tuple[int, ...]]:
        """The seeds that are trained as one; with `chosen` what is left of each group.

        Groups are cut from all seeds of the cell, so that a choice of some does not regroup others.
        """
        wanted = None if chosen is None else set(chosen)
        for first in range(0, len(self.seeds), self.stacked):
            group = self.seeds[first : first + self.stacked]
            kept = tuple(seed for seed in group if wanted is None or seed in wanted)
            if kept:
                yield kept

    def training(self) -> dict[str, Any]:
        """Everything that the trained weights are a function of, but the seed and the start."""
        sizes = {k: v for k, v in self.config.to_dict().items() if k not in _ELSEWHERE}
        named = {"encoding": self.encoding, "data": self.data, "drawn": dict(self.drawn)}
        return sizes | named | {"keep_best": self.keep_best}

    def on(self, device: str) -> Cell:
        """The same on a device; on a CPU in float32 and not compiled."""
        cpu = {"precision": "float32", "compile": False} if device == "cpu" else {}
        return replace(self, config=replace(self.config, device=device, **cpu))

    def shortened(self, share: float) -> Cell:
        """The same with a share of its steps, warm-up included, under another name: rope@0.1.

        No claim of a paper names such a training, so none is judged by its rows.
        """
        real_number("share", share, above=0, most=1, why="it is a share of the steps")
        if share == 1:
            return self
        steps = max(1, round(self.config.steps * share))
        warmup = max(1, round(self.config.warmup_steps * share))
        points = min(self.config.valid_points, steps)
        config = replace(self.config, steps=steps, warmup=warmup, valid_points=points)
        start = f"{self.start}@{share:g}" if self.start else None
        return replace(self, name=f"{self.name}@{share:g}", config=config, start=start)

    def in_pieces(self, pieces: int) -> Cell:
        """The same with each batch read in so many pieces, or in a few more where they would not
        be equal: less memory, the same batch."""
        batch = self.config.batch_size
        least = min(whole_number("pieces", pieces), batch)
        equal = next(n for n in range(least, batch + 1) if batch % n == 0)
        return replace(self, config=replace(self.config, accumulate=equal))


@dataclass(frozen=True)
class Study:
    """A folder of `studies/` and its cells, in the order in which they are run.

    Raises ValueError for two cells of one name, or a cell that starts from none before it.
    """

    name: str
    folder: Path
    cells: tuple[Cell, ...]

    def __post_init__(self) -> None:
        seen: dict[str, Cell] = {}
        for cell in self.cells:
            if cell.name in seen:
                raise ValueError(f"{self.name} has two cells of the name {cell.name!r}")
            if cell.start is not None and cell.start not in seen:
                raise UnknownName(did_you_mean(f"start of {cell.name}", cell.start, seen))
            if cell.start is not None and not set(cell.seeds) <= set(seen[cell.start].seeds):
                raise ValueError(f"{cell.name} has seeds that {cell.start}, its start, has not")
            seen[cell.name] = cell

    def cell(self, name: str) -> Cell:
        """The cell of a name. UnknownName for another."""
        found = {cell.name: cell for cell in self.cells}
        if name not in found:
            raise UnknownName(did_you_mean(f"cell of {self.name}", name, found))
        return found[name]

    def chosen(self, names: Sequence[str] | None) -> tuple[Cell, ...]:
        """The cells of these names in the study's order; None: all. UnknownName for another."""
        wanted = [cell.name for cell in self.cells] if names is None else list(names)
        kept = {self.cell(name).name for name in wanted}
        return tuple(cell for cell in self.cells if cell.name in kept)

    def identity(self, cell: Cell) -> dict[str, Any]:
        """`Cell.training`, with that of the cell it starts from."""
        start = None if cell.start is None else self.identity(self.cell(cell.start))
        return cell.training() | {"start": start}

    def digest(self, cell: Cell, data: str) -> str:
        """Sixteen letters for the identity on certain data: studies that share it share a name."""
        text = json.dumps([self.identity(cell), data], sort_keys=True, default=list)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def shortened(self, share: float) -> Study:
        """Every cell with a share of its steps."""
        return replace(self, cells=tuple(cell.shortened(share) for cell in self.cells))

    def on(self, device: str) -> Study:
        """Every cell on a device."""
        return replace(self, cells=tuple(cell.on(device) for cell in self.cells))

    def in_pieces(self, pieces: int) -> Study:
        """Every cell with its batches in (at least) so many pieces."""
        return replace(self, cells=tuple(cell.in_pieces(pieces) for cell in self.cells))
