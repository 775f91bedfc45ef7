"""What a study's run has to do, found before anything is trained: which cells, which rows they
lack, and that their data and device are there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from whatwhere.study.cell_checks import check
from whatwhere.study.cells import Cell, Study
from whatwhere.study.data import Library
from whatwhere.study.devices import usable
from whatwhere.study.ledger import Ledger, key
from whatwhere.study.wanted import wanted
from whatwhere.study.zero_shot_tasks import harness_tasks

__all__ = ["asked", "missing", "ready", "unfinished"]


def asked(
    study: Study, library: Library, only: Sequence[str] | None, seeds: Sequence[int] | None
) -> tuple[Cell, ...]:
    """The cells `only` names (None: all), when they and the seeds can be run as they are asked for.

    UnknownName for a cell that is not there, ValueError for a seed; what `check` raises.
    """
    cells = study.chosen(only)
    check(cells, library)
    known = {seed for cell in cells for seed in cell.seeds}
    if strange := [seed for seed in seeds or () if seed not in known]:
        raise ValueError(f"seed {strange[0]} is none of these cells'; they have {sorted(known)}")
    return cells


def missing(
    cell: Cell, ledger: Ledger, library: Library, seeds: Sequence[int] | None = None
) -> dict[int, int]:
    """How many rows each seed still lacks; all of `cell.seeds`, or those of them in `seeds`."""
    rows_of_a_seed = [w for each in cell.evaluations for w in wanted(cell, each, library)]
    return {
        seed: sum(key(cell.name, seed, w) not in ledger.done for w in rows_of_a_seed)
        for seed in cell.seeds
        if seeds is None or seed in seeds
    }


def unfinished(cell: Cell, todo: Mapping[int, int]) -> Iterator[tuple[int, ...]]:
    """The groups of a cell's seeds that lack a row; `todo` is what `missing` counts."""
    return (group for group in cell.groups(todo) if any(todo[seed] for seed in group))


def ready(cell: Cell, library: Library) -> None:
    """Look for its device and read its data: what is wrong with them is no error of a row.

    What `usable` and the loaders of data raise; for zero-shot tasks that are asked for
    ModuleNotFoundError without lm-eval, NotADirectoryError for what is no folder.
    """
    usable(cell.config.device, touch=False)  # "cuda" is not GPU 0 of every process
    library.drawn(cell.data, cell.config.train_length, cell.drawn)
    for each in cell.evaluations:
        name, options = each.data or cell.data, {**cell.drawn, **each.drawn}
        if each.kind == "scores":
            library.drawn(name, cell.config.train_length, options)
        elif each.kind == "lengths":
            library.task(name)
        elif each.kind == "zero_shot" and (file := library.files.get("zero_shot")):
            harness_tasks()
            if not file.startswith("hub:") and not Path(file).is_dir():
                raise NotADirectoryError(
                    f"--data zero_shot={file} is a file; give the folder with the tasks' files"
                )
