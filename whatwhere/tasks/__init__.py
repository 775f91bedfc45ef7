"""What the studies train and evaluate on: token streams (`Task`) or drawn examples (`Drawn`).

A task is a loader ``load(data, progress) -> Task`` in a file of its own and one line in `TABLE`;
`windows` and `sample_batch` cut the streams; `Windows` gives their windows out as a `Drawn`, which
the training engine samples on the device. A task whose examples are made by rule, a question
and its answer, is a subclass of `Drawn` and one line in `DRAWN`; it makes its own batches.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

from whatwhere.errors import UnknownName, did_you_mean
from whatwhere.tasks import books, chorales, chorales_16th, genome, maestro
from whatwhere.tasks import text as _text
from whatwhere.tasks.cache import cache_dir
from whatwhere.tasks.drawn import IGNORED, Drawn, exact_match
from whatwhere.tasks.indirect import Indirect
from whatwhere.tasks.stream import Windows
from whatwhere.tasks.task import Progress, Task
from whatwhere.tasks.windows import common_span, sample_batch, windows

TABLE: dict[str, Callable[[Path | None, Progress | None], Task]] = {
    "books": books.load,
    "chorales": chorales.load,
    "chorales_16th": chorales_16th.load,
    "genome": genome.load,
    "maestro": maestro.load,
    "text": _text.load,
}

DRAWN: dict[str, Callable[..., Drawn]] = {"indirect": Indirect}


def load(
    name: str, data: str | PathLike[str] | None = None, progress: Progress | None = None
) -> Task:
    """The task `name` of `TABLE`, from the file `data` where the task reads one.

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
    return TABLE[name](None if data is None else Path(data), progress)


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
    "TABLE",
    "Drawn",
    "Indirect",
    "Progress",
    "Task",
    "Windows",
    "cache_dir",
    "common_span",
    "draw",
    "exact_match",
    "load",
    "sample_batch",
    "text",
    "windows",
]
