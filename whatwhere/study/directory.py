"""The directory of a run: one configuration, its rows and checkpoints, one writer at a time.

out/config.json      the configuration that all rows share
out/rows.jsonl       the results
out/curves.csv       training and validation loss along the way
out/checkpoints/     one file a training
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from pathlib import Path
from typing import Any

from whatwhere.errors import changes
from whatwhere.study.config import Config
from whatwhere.study.rows import append, mend, named, read_rows, row_key
from whatwhere.tasks import Task

__all__ = ["Directory", "locked", "open_directory", "write_whole"]

_CURVE = ("encoding", "seed", "step", "train_nll", "valid_nll")


class Directory:
    """An open directory; `close` (or leaving `with`) lets others write into it."""

    def __init__(self, path: Path, lock: int | None) -> None:
        self.path, self._lock = path, lock
        self.done = {row_key(row): row for row in read_rows(self.rows)}

    @property
    def rows(self) -> Path:
        """The file of results."""
        return self.path / "rows.jsonl"

    def checkpoint(self, encoding: str, seed: int) -> Path:
        """The checkpoint of one training."""
        return self.path / "checkpoints" / f"{_slug(encoding)}.seed{seed}.pt"

    def add(self, row: dict[str, Any]) -> None:
        """Append a row and remember it."""
        append(self.rows, row)
        self.done[row_key(row)] = row

    def add_curve(self, encoding: str, seed: int, points: list[list[float]]) -> None:
        """Put a training's curve into curves.csv, beside or in place of what is there."""
        path = self.path / "curves.csv"
        kept = list(csv.reader(io.StringIO(path.read_text()))) if path.exists() else []
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_CURVE)
        writer.writerows(line for line in kept[1:] if line[:2] != [encoding, str(seed)])
        writer.writerows((encoding, seed, *point) for point in points)
        write_whole(path, text.getvalue())

    def close(self) -> None:
        """Release the directory."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_directory(path: Path, config: Config, task: Task, resume: bool = True) -> Directory:
    """The directory for a configuration, made if need be; what a kill left half is mended.

    With `resume` earlier results of the same configuration are kept. Without, they are set aside
    (rows.jsonl becomes rows.previous) and everything starts again.
    Raises ValueError if the directory belongs to another configuration, and names the fields; if it
    holds other files; or if another process is writing into it. FileExistsError for a file.
    """
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"--out {path} is a file; give a directory, or a name that is free")
    _refuse_strangers(path)
    path.mkdir(parents=True, exist_ok=True)
    lock = locked(path)
    try:
        wanted = config.identity() | {"data": fingerprint(config, task)}
        if resume and (path / "config.json").exists():
            _agree(path / "config.json", wanted)
        else:
            _set_aside(path)
            write_whole(path / "config.json", json.dumps(wanted, indent=2) + "\n")
        mend(path / "rows.jsonl")
        return Directory(path, lock)
    except BaseException:
        if lock is not None:
            os.close(lock)
        raise


def fingerprint(config: Config, task: Task) -> str:
    """Name and hash of the data: the same file name can hold another text tomorrow."""
    digest = hashlib.sha256()
    for stream in task.splits().values():
        digest.update(len(stream).to_bytes(8, "little"))
        digest.update(stream.contiguous().numpy().data)
    name = task.name if config.data is None else Path(config.data).name
    return f"{name} {digest.hexdigest()[:16]}"


def _refuse_strangers(path: Path) -> None:
    if not path.exists() or (path / "config.json").exists():
        return
    # Names with a dot are not looked at: the lock, and what a kill left of a file being written.
    strangers = [entry.name for entry in path.iterdir() if not entry.name.startswith(".")]
    if strangers:
        raise ValueError(
            f"--out {path} holds {', '.join(sorted(strangers)[:3])} and no config.json of a "
            "comparison; give a new or empty directory"
        )


def _agree(path: Path, wanted: dict[str, Any]) -> None:
    try:
        found = json.loads(path.read_text())
    except ValueError:
        raise ValueError(f"{path} is no JSON; use a new --out, or --no-resume") from None
    differing = changes(found, wanted)
    if differing:
        raise ValueError(
            f"--out {path.parent} holds results of another configuration: {'; '.join(differing)}. "
            "Use a new --out, or --no-resume to start again in this one"
        )


def _set_aside(path: Path) -> None:
    # config.json stays until it is replaced: a kill in between must not leave rows without it.
    for file in sorted((path / "checkpoints").glob("*.pt")):
        file.unlink()
    (path / "curves.csv").unlink(missing_ok=True)
    if (path / "rows.jsonl").exists():
        os.replace(path / "rows.jsonl", path / "rows.previous")


def locked(path: Path) -> int | None:
    """A lock on the directory, to be closed by os.close; None where there are none.

    ValueError if another process holds it.
    """
    # The system releases a lock of this kind when its process ends, however it ends.
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    lock = os.open(path / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise ValueError(
            f"--out {path} is in use by another run; wait for it, or give another --out"
        ) from None
    return lock


def write_whole(path: Path, text: str) -> None:
    """Put a text at `path`: a kill leaves the old file or the new one, never a part."""
    neighbour = path.with_name(f".{path.name}.new")
    with named(path), neighbour.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(neighbour, path)


def _slug(text: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
