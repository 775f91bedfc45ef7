"""What the studies train and evaluate on: token streams (`Task`) or drawn examples (`Drawn`).

A task is a loader ``load(data, progress) -> Task`` in a file of its own and one line in `TABLE`.
`windows` cuts its streams, `Windows` and `Pieces` give them out as a `Drawn`,
which the training engine samples on the device, `by_length` cuts text at several lengths, and
`save` puts a task into one file that `load` reads. A task whose examples are made by rule, a
question and its answer, is a subclass of `Drawn` and one line in `DRAWN`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

from whatwhere.errors import UnknownName, did_you_mean
from whatwhere.tasks import books, chorales, chorales_16th, genome, maestro, saved
from whatwhere.tasks import text as _text
from whatwhere.tasks.cache import cache_dir
from whatwhere.tasks.drawn import IGNORED, Drawn, exact_match
from whatwhere.tasks.indirect import Indirect
from whatwhere.tasks.lengths import by_length
from whatwhere.tasks.pieces import LONG, Pieces, borders
from whatwhere.tasks.saved import restore, save
from whatwhere.tasks.stream import Windows
from whatwhere.tasks.task import Progress, Task
from whatwhere.tasks.windows import common_span, windows

TABLE: dict[str, Callable[[Path | None, Progress | None], Task]] = {
    "books": books.load,
    "chorales": chorales.load,
    "chorales_16th": chorales_16th.load,
    "genome": genome.load,
    "maestro": maestro.load,
    "text": _text.load,
}

PIECES: dict[str, dict[str, Any]] = {"maestro": {"transpose": 3}}
"""Options of `Pieces` by task, as in the PoPE paper."""

PLAIN: dict[str, Callable[[Path | None, Progress | None], Task]] = {"maestro": maestro.load_plain}
"""Loaders for `pieces` where `load` gives a stream that is varied already."""

DRAWN: dict[str, Callable[..., Drawn]] = {"indirect": Indirect}


def load(
    name: str, data: str | PathLike[str] | None = None, progress: Progress | None = None
) -> Task:
    """The task `name` of `TABLE`, from the file `data` where the task reads one.

    A file that `save` wrote (.npz) is read as it is, whatever the task reads otherwise.
    `progress(done, total)` is called while a slow first load works. UnknownName (a ValueError) for
    a name that is not in the table, ValueError for one of `DRAWN`; the loader's own errors for its
    data.
    """
    if name in DRAWN:
        raise ValueError(
            f"task {name!r} draws its examples and has no streams to load; "
            f"make it with tasks.draw({name!r}, ...)"
        )
    if name not in TABLE:
        raise UnknownName(did_you_mean("task", name, TABLE))
    path = None if data is None else Path(data)
    if path is None or path.suffix != saved.SUFFIX:
        return TABLE[name](path, progress)
    task = saved.restore(path)
    if task.name != name:
        raise ValueError(f"data={str(path)!r} holds task {task.name!r}, not {name!r}")
    return task


def pieces(
    name: str,
    data: str | PathLike[str] | None = None,
    length: int = 2048,
    progress: Progress | None = None,
    **options: Any,
) -> Pieces:
    """The pieces of the task `name`, from `data` as in `load`, in `length` tokens each.

    `options` are those of `Pieces`; the default is the paper's: "maestro" is transposed by up to 3
    semitones as it is drawn, the chorales are not. The errors of `load` and of `Pieces`.
    """
    if name in PLAIN and (data is None or Path(data).suffix != saved.SUFFIX):
        task = PLAIN[name](None if data is None else Path(data), progress)
    else:
        task = load(name, data, progress)
    return Pieces(task, length, **{**PIECES.get(name, {}), **options})


def draw(name: str, **options: Any) -> Drawn:
    """The task `name` of `DRAWN` with its own options: ``draw("indirect", pad="right")``.

    UnknownName (a ValueError) for a name that is not in that table; the task's own errors.
    """
    if name not in DRAWN:
        raise UnknownName(did_you_mean("drawn task", name, DRAWN))
    known = inspect.signature(DRAWN[name]).parameters
    for option in options:
        if option not in known:
            raise UnknownName(did_you_mean(f"option of {name}", option, known))
    return DRAWN[name](**options)


text = _text.text

__all__ = [
    "DRAWN",
    "IGNORED",
    "LONG",
    "PIECES",
    "PLAIN",
    "TABLE",
    "Drawn",
    "Indirect",
    "Pieces",
    "Progress",
    "Task",
    "Windows",
    "borders",
    "by_length",
    "cache_dir",
    "common_span",
    "draw",
    "exact_match",
    "load",
    "pieces",
    "restore",
    "save",
    "text",
    "windows",
]
