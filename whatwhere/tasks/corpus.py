"""The chorales of the music21 corpus as grids of four voices: parsed once, then read from a cache.

Parsing takes half a minute on two cores, reading the cache a third of a second. A parse that is
killed leaves no cache and is simply begun again.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from whatwhere.tasks import corpus_worker
from whatwhere.tasks.cache import cache_dir, write_atomically
from whatwhere.tasks.task import Progress

FORMAT = 1
"""Raise it when a grid of the same score would come out differently."""

MOST_WORKERS = 4  # each holds music21, about 100 MB

Grid = list[list[int]]
"""Steps × (soprano, alto, tenor, bass): MIDI pitches, -1 for silence."""


@dataclass(frozen=True)
class Corpus:
    """The grids by file name, and the files that have none with the reason."""

    grids: dict[str, Grid]
    skipped: dict[str, str]


def load(progress: Progress | None = None) -> Corpus:
    """The corpus from the cache, or parsed and put there.

    `progress(done, total)` counts files and is called only while parsing. A cache that is damaged
    or belongs to another version of music21 or of this file is made again. If it cannot be written,
    a warning says so and the result is returned all the same.

    ModuleNotFoundError without music21, RuntimeError if it cannot read its own corpus.
    """
    name = f"chorales-music21-{version()}-{corpus_worker.STEPS_PER_QUARTER}-v{FORMAT}.json"
    path = cache_dir() / name
    if (found := _read(path)) is not None:
        return found
    result = parse(progress=progress)
    try:
        write_atomically(path, json.dumps(asdict(result)))
    except OSError as error:
        warnings.warn(
            f"the chorales could not be cached and will be parsed again next time: {error}; "
            "set WHATWHERE_CACHE to a directory that can be written",
            stacklevel=2,
        )
    return result


def version() -> str:
    """The installed version of music21, found without importing it (a second)."""
    try:
        return metadata.version("music21")
    except metadata.PackageNotFoundError:
        raise ModuleNotFoundError(
            "task 'chorales' reads Bach's chorales from music21, which is not installed: "
            "pip install 'whatwhere[study]', or give data=FILE",
            name="music21",
        ) from None


def parse(only: Sequence[str] = (), progress: Progress | None = None) -> Corpus:
    """Parse the corpus anew, or the files named in `only`: one process per core, at most four."""
    grids: dict[str, Grid] = {}
    skipped: dict[str, str] = {}
    total = 0
    with closing(_lines(only)) as lines:  # an error in `progress` must end the workers too
        for line in lines:
            total = line["total"]
            if "steps" in line:
                grids[line["file"]] = line["steps"]
            else:
                skipped[line["file"]] = line["reason"]
            if progress is not None:
                progress(len(grids) + len(skipped), total)
    if not grids or len(grids) + len(skipped) != total:
        raise RuntimeError(
            f"music21 {version()} gave {len(grids)} chorales and {len(skipped)} files without one, "
            f"of {total} files"
        )
    # The workers finish in any order.
    return Corpus(dict(sorted(grids.items())), dict(sorted(skipped.items())))


def _read(path: Path) -> Corpus | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Corpus(grids=content["grids"], skipped=content["skipped"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _lines(only: Sequence[str]) -> Generator[dict[str, Any], None, None]:
    """What the workers print, as it comes. Closing the generator ends the workers."""
    count = min(MOST_WORKERS, _cores())
    # -P keeps this directory, whose file names are common words, off the workers' module path.
    command = [sys.executable, "-P", corpus_worker.__file__]
    arrived: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    with tempfile.TemporaryFile() as complaints, ThreadPoolExecutor(count) as readers:
        workers = [
            subprocess.Popen(
                [*command, str(index), str(count), *only],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=complaints,
                encoding="utf-8",
            )
            for index in range(count)
        ]
        try:
            reading = [readers.submit(_forward, worker, arrived) for worker in workers]
            for _ in workers:
                while (line := arrived.get()) is not None:
                    yield json.loads(line)
            for reader in reading:
                reader.result()
            if any(worker.wait() for worker in workers):
                complaints.seek(0)
                reason = complaints.read().decode(errors="replace").strip()
                raise RuntimeError(f"music21 {version()} could not read its corpus:\n{reason}")
        finally:
            for worker in workers:
                worker.kill()  # which ends its reader, for which the executor waits


def _forward(worker: subprocess.Popen[str], arrived: queue.SimpleQueue[str | None]) -> None:
    """Pass on what `worker` prints, then None: always, or `_lines` would wait for ever."""
    try:
        with worker:  # also waits for its end
            for line in worker.stdout or ():
                arrived.put(line)
    finally:
        arrived.put(None)


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
