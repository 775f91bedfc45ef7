"""The directory of a comparison: config.json and rows.jsonl; nothing is measured twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from whatwhere.errors import changes
from whatwhere.study import rows as files

__all__ = ["Results", "open_results"]

Row = dict[str, Any]

OPTIONAL = ("keys", "copies", "sliding", "sliding_windows", "streamed")
"""What may be measured later than the rest, or not at all (0)."""

KEY = ("method", "encoding", "engine", "task", "mode", "metric", "eval_length", "depth", "seed")


def key_of(row: Row) -> tuple[Any, ...]:
    """What tells the measurements of one directory apart."""
    return tuple(row.get(name) for name in KEY)


class Results:
    """Rows by what they measure, each on the disk before the next is begun."""

    def __init__(self, path: Path) -> None:
        self.path = path / "rows.jsonl"
        files.mend(self.path)
        self.rows = {key_of(row): row for row in files.read_rows(self.path)}

    def has(self, row: Row) -> bool:
        """Whether this is measured; what failed before is tried again."""
        found = self.rows.get(key_of(row))
        return found is not None and "error" not in found

    def add(self, row: Row) -> None:
        """Append a row and remember it."""
        files.append(self.path, row)
        self.rows[key_of(row)] = row


def open_results(path: Path, identity: dict[str, Any]) -> Results:
    """The directory for measurements that share `identity`, made if need be.

    What was not measured before (no pass keys, copies, sliding or streamed windows) may be added.
    Raises ValueError if it holds those of another, and names the fields; FileExistsError for a
    file.
    """
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"--out {path} is a file; give a directory, or a name that is free")
    wanted = json.loads(json.dumps(identity))
    file = path / "config.json"
    if file.exists():
        found = json.loads(file.read_text())
        for name in OPTIONAL:  # 0 asks for none of these, and so leaves those that are there
            if not found.get(name) or not wanted.get(name):
                found[name] = wanted[name] = found.get(name) or wanted.get(name)
        differing = changes(found, wanted)
        if differing:
            raise ValueError(
                f"--out {path} holds results of another configuration: {'; '.join(differing)}. "
                "Give a new --out"
            )
        _write(file, wanted)
    else:
        strangers = [e.name for e in path.iterdir()] if path.is_dir() else []
        if any(not name.startswith((".", "README")) for name in strangers):
            raise ValueError(
                f"--out {path} holds {', '.join(sorted(strangers)[:3])} and no config.json; give a "
                "new or empty directory"
            )
        path.mkdir(parents=True, exist_ok=True)
        _write(file, wanted)
    return Results(path)


def _write(file: Path, content: dict[str, Any]) -> None:
    beside = file.with_name(f".{file.name}.new")
    beside.write_text(json.dumps(content, indent=2) + "\n")
    beside.replace(file)
