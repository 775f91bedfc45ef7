"""What the studies train and evaluate on: each task is three token streams (`Task`).

A task is a loader ``load(data, progress) -> Task`` in a file of its own and one line in `TABLE`.
`windows` and `sample_batch` cut the streams.
"""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path

from whatwhere.errors import UnknownName, did_you_mean
from whatwhere.tasks import chorales
from whatwhere.tasks import text as _text
from whatwhere.tasks.cache import cache_dir
from whatwhere.tasks.task import Progress, Task
from whatwhere.tasks.windows import common_span, sample_batch, windows

TABLE: dict[str, Callable[[Path | None, Progress | None], Task]] = {
    "chorales": chorales.load,
    "text": _text.load,
}


def load(
    name: str, data: str | PathLike[str] | None = None, progress: Progress | None = None
) -> Task:
    """The task `name` of `TABLE`, from the file `data` where the task reads one.

    `progress(done, total)` is called while a slow first load works. UnknownName (a ValueError) for
    a name that is not in the table; the loader's own errors for its data.
    """
    if name not in TABLE:
        raise UnknownName(did_you_mean("task", name, TABLE))
    return TABLE[name](None if data is None else Path(data), progress)


text = _text.text

__all__ = [
    "TABLE",
    "Progress",
    "Task",
    "cache_dir",
    "common_span",
    "load",
    "sample_batch",
    "text",
    "windows",
]
