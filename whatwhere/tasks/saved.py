"""A task as one small file of tokens: tokenized once, read anywhere without a network or tokenizer.

    task = tasks.load("books", "books_train_a.jsonl.xz").cropped(train=25_000_000)
    tasks.save(task, "books.npz", licence="public domain")
    tasks.load("books", "books.npz")

An .npz file, which NumPy reads: "train", "valid" and "test" in 1, 2 or 4 bytes a token, deflated,
and "task", a JSON text with the vocabulary, the metadata, a SHA-256 of each stream and what else
the writer gave as provenance. The same task gives the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from whatwhere.tasks.cache import write_atomically
from whatwhere.tasks.task import Task, no_file

FORMAT = 1
"""Raise it when an older reader would misread the file."""

SUFFIX = ".npz"

_HEADER = ("name", "vocab_size", "unit", "describe", "metadata")


def save(task: Task, path: str | PathLike[str], **provenance: Any) -> None:
    """Write `task` to `path`, which ends in .npz; `provenance` (JSON values) goes into metadata.

    That is metadata["provenance"] of what `restore` reads, with the streams' hashes. Tuples in
    metadata come back as lists. ValueError for another suffix, TypeError for metadata that JSON
    cannot hold, OSError if the file cannot be written: then the old one, if any, is still there.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"path={str(path)!r} must end in {SUFFIX}")
    streams = {split: _narrow(stream, task.vocab_size) for split, stream in task.splits().items()}
    known = {**task.metadata.get("provenance", {}), **provenance}
    header = {"format": FORMAT} | {key: getattr(task, key) for key in _HEADER}
    header["metadata"] = {**task.metadata, "provenance": {**known, "sha256": _hashes(streams)}}
    content: dict[str, Any] = {
        "task": np.frombuffer(json.dumps(header).encode(), np.uint8),
        **streams,
    }
    file = io.BytesIO()
    np.savez_compressed(file, **content)
    write_atomically(path, file.getvalue())


def restore(path: str | PathLike[str]) -> Task:
    """The task that `save` wrote to `path`, its streams int64 again.

    FileNotFoundError without a file; ValueError for one that `save` did not write, that is damaged,
    or that is of a later format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(no_file(path))
    try:
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(file["task"].tobytes())
            if header["format"] > FORMAT:
                raise ValueError(f"it is of format {header['format']}, this version reads {FORMAT}")
            streams = {split: file[split] for split in ("train", "valid", "test")}
        if _hashes(streams) != header["metadata"]["provenance"]["sha256"]:
            raise ValueError("its tokens are not those that were written: a hash differs")
        known: dict[str, Any] = {key: header[key] for key in _HEADER}
        for split, each in streams.items():
            known[split] = torch.from_numpy(each.astype(np.int64))
        return Task(**known)
    except Exception as error:  # zip, zlib, NumPy's tokenizer: each its own
        raise ValueError(f"data={str(path)!r} is no task that `save` wrote: {error}") from error


def _narrow(stream: torch.Tensor, vocab_size: int) -> NDArray[Any]:
    kind = next(k for k in ("<u1", "<u2", "<u4") if vocab_size <= 1 << 8 * int(k[-1]))
    return stream.cpu().numpy().astype(kind)


def _hashes(streams: dict[str, NDArray[Any]]) -> dict[str, str]:
    return {split: hashlib.sha256(each.tobytes()).hexdigest() for split, each in streams.items()}
