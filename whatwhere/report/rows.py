"""Reading rows: one JSON object a line, one measurement each."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

__all__ = ["Row", "Rows", "expressions", "read"]

Row = Mapping[str, Any]

REQUIRED = ("encoding", "train_length", "eval_length", "metric")


class Rows(list[Row]):
    """Rows of one or several files; `notes` says what was odd about the files."""

    def __init__(self, rows: Iterable[Row] = (), notes: Iterable[str] = ()) -> None:
        super().__init__(rows)
        self.notes = list(notes)


def read(path: str | PathLike[str], none: bool = False) -> Rows:
    """The rows of a JSONL file, or of a folder's rows.jsonl (else of all its .jsonl files).

    A last line that is cut off, as a killed run leaves it, is dropped with a note. Raises
    FileNotFoundError if there is nothing to read (with `none` a folder may have no rows yet),
    ValueError that names the file and line of anything else that is no row.
    """
    path = Path(path)
    if path.is_dir():
        own = path / "rows.jsonl"
        files = [own] if own.exists() else sorted(path.glob("*.jsonl"))
        if not files and not none:
            raise FileNotFoundError(f"{path} has no rows.jsonl: give the folder of a finished run")
    elif path.exists():
        files = [path]
    else:
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    rows = Rows()
    for file in files:
        _read_file(file, rows)
    if not rows and not none:
        raise ValueError(f"{files[0]} has no rows" + (f" ({rows.notes[0]})" if rows.notes else ""))
    return rows


def _read_file(file: Path, rows: Rows) -> None:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8 (byte {error.start})") from None
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            if number == len(lines):  # no newline behind it: the writer was killed
                rows.notes.append(f"{file.name}: the last line is cut off and was left out")
                continue
            raise ValueError(f"{file}, line {number}: no JSON object") from None
        reason = _fault(row)
        if reason:
            raise ValueError(f"{file}, line {number}: {reason}")
        rows.append(row)


def _fault(row: Any) -> str | None:
    """Why this is no row, or None."""
    if not isinstance(row, dict):
        return f"a row is a JSON object, not {type(row).__name__}"
    for key in REQUIRED:
        if key not in row:
            return f"the row has no {key!r}"
    for key in ("train_length", "eval_length"):
        value = row[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            return f"{key} is {value!r}; it must be a whole number of at least 1"
    if row.get("error"):
        return None
    value = row.get("value")
    if value is None:
        return "the row has neither value nor error"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return f"value is {value!r}; a row without a finite value states its error"
    return None


def expressions(rows: Iterable[Row]) -> list[str]:
    """The different encodings of the rows, in the order of their first appearance."""
    return list(dict.fromkeys(row["encoding"] for row in rows))
