"""The data sets of the studies by name: how each is read, and what rows call it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from whatwhere import tasks
from whatwhere.errors import UnknownName, did_you_mean
from whatwhere.study.cells import Cell
from whatwhere.tasks import Drawn, Progress, Task, books

__all__ = ["SOURCES", "Library", "Source", "named_files"]


@dataclass(frozen=True)
class Source:
    """A data set: the task that reads it, what rows call it, and where it is had from.

    reader: a name of `tasks.TABLE` or `tasks.DRAWN`; "pg19" and "openwebtext" have their own.
    task, corpus: the columns of rows. pieces: whole pieces are examples, not windows of a stream.
    free: whether it can be read without a file. about: what to give as --data NAME=FILE.
    """

    reader: str
    task: str
    about: str
    corpus: str | None = None
    pieces: bool = False
    free: bool = False


SOURCES: dict[str, Source] = {
    "indirect": Source("indirect", "indirect", "drawn by rule, no file", free=True),
    "jsb": Source(
        "chorales_16th", "chorales_16th", "Jsb16thSeparated.json of czhuang/JSB-Chorales-dataset",
        pieces=True, free=True,
    ),
    "maestro": Source("maestro", "maestro", "folder of MAESTRO v3.0.0's MIDI files",
                      "maestro", pieces=True),
    "asap": Source("maestro", "maestro", "folder of ASAP's performances cut from MAESTRO",
                   "asap", pieces=True),
    "hg38": Source("genome", "genome", "GRCh38.p14 as FASTA", "hg38"),
    "grch37_x": Source("genome", "genome", "GRCh37's chromosome X as FASTA", "grch37_x"),
    "openwebtext": Source("openwebtext", "text", "hub:Skylion007/openwebtext, or files",
                          "openwebtext", free=True),
    "books": Source("books", "text", "books before 1929, .jsonl, or hub:NAME", "books"),
    "pg19": Source("pg19", "text", "hub:emozilla/pg19-test, or files", "pg19", free=True),
    "zero_shot": Source("zero_shot", "zero_shot", "folder with the tasks' files, or hub:",
                        free=True),
    "novels": Source("books", "text", "books_test.jsonl.xz: 71 English novels", "novels"),
}  # fmt: skip

_HUB = {"openwebtext": (books.HUB, "train", 8_013_769), "pg19": ("emozilla/pg19-test", "test", 100)}
"""Name on the hub, its split, and how many documents it has."""


def named_files(texts: Iterable[str]) -> dict[str, str]:
    """NAME=FILE -> {name: file}. UnknownName for no name of `SOURCES`, ValueError without a =."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not equals or not file:
            raise ValueError(f"--data is {text!r}; write NAME=FILE, such as jsb=chorales.json")
        if name not in SOURCES:
            raise UnknownName(did_you_mean("data set", name, SOURCES))
        found[name] = file
    return found


class Library:
    """Data sets, each read once, from the files that are given or where they are free."""

    def __init__(
        self, files: Mapping[str, str] | None = None, progress: Progress | None = None
    ) -> None:
        for name in files or {}:
            if name not in SOURCES:
                raise UnknownName(did_you_mean("data set", name, SOURCES))
        self.files, self.progress = dict(files or {}), progress
        self._tasks: dict[str, Task] = {}
        self._drawn: dict[tuple[str, int, str], Drawn] = {}
        self._hashes: dict[str, str] = {}

    def check(self, cells: Iterable[Cell]) -> None:
        """Raise ValueError, before anything is read, for data that is neither given nor free."""
        for name, file in self.files.items():
            if not file.startswith("hub:") and not Path(file).exists():
                raise FileNotFoundError(f"--data {name}={file}: there is no such file")
        for cell in cells:
            if lacks := self.lacks(cell):
                raise ValueError(f"{cell.name} needs {lacks}")

    def lacks(self, cell: Cell) -> str:
        """What must be given for a cell, as --data, or nothing. UnknownName for no data set."""
        found: list[str] = []
        for name in [cell.data, *(each.data or cell.data for each in cell.evaluations)]:
            if name not in SOURCES:
                raise UnknownName(did_you_mean(f"data of {cell.name}", name, SOURCES))
            if name not in self.files and not SOURCES[name].free:
                found.append(f"--data {name}=FILE ({SOURCES[name].about})")
        return " and ".join(dict.fromkeys(found))

    def task(self, name: str) -> Task:
        """The streams of a data set, read on first use. The errors of its loader."""
        if name not in self._tasks:
            self._tasks[name] = self._read(name)
        return self._tasks[name]

    def drawn(self, name: str, length: int, options: Mapping[str, Any]) -> Drawn:
        """The examples of a data set: drawn by rule, pieces, or windows, of `length` tokens."""
        key = (name, length, repr(sorted(options.items())))
        if key not in self._drawn:
            self._drawn[key] = self._examples(name, length, options)
        return self._drawn[key]

    def length(self, name: str, length: int, options: Mapping[str, Any]) -> int:
        """Tokens of an example; reads nothing."""
        if SOURCES[name].reader in tasks.DRAWN:
            return self.drawn(name, length, options).length
        return length

    def fingerprint(self, name: str) -> str:
        """A hash of the tokens: the same file name can hold another text tomorrow."""
        if SOURCES[name].reader in (*tasks.DRAWN, "zero_shot"):
            return name
        if name not in self._hashes:
            digest = hashlib.sha256()
            for stream in self.task(name).splits().values():
                digest.update(len(stream).to_bytes(8, "little"))
                digest.update(stream.contiguous().numpy().data)
            self._hashes[name] = f"{name} {digest.hexdigest()[:16]}"
        return self._hashes[name]

    def _examples(self, name: str, length: int, options: Mapping[str, Any]) -> Drawn:
        source = SOURCES[name]
        if source.reader in tasks.DRAWN:
            return tasks.draw(source.reader, **options)
        if source.pieces:
            usual = tasks.PIECES.get(source.reader, {})
            return tasks.Pieces(self.task(name), length, **{**usual, **options})
        return tasks.Windows(self.task(name), length)

    def _read(self, name: str) -> Task:
        source, file = SOURCES[name], self.files.get(name)
        if name in _HUB and (file is None or file.startswith("hub:")):
            hub, split, documents = _HUB[name]
            hub = hub if file is None else file.removeprefix("hub:")
            task = books.from_hub(hub, split=split, documents=documents, progress=self.progress)
            return _whole(task) if split == "test" else task
        reader = "books" if name in _HUB else source.reader
        if source.pieces and reader in tasks.PLAIN and not str(file).endswith(".npz"):
            return tasks.PLAIN[reader](None if file is None else Path(file), self.progress)
        return tasks.load(reader, file, self.progress)


def _whole(task: Task) -> Task:
    """All of a text as its test split: `from_hub` deals its documents out to three."""
    streams = list(task.splits().values())
    empty = streams[0][:0]
    return replace(task, train=empty, valid=empty, test=torch.cat(streams))
