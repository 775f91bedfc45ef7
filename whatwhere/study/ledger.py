"""What a reproduction leaves behind: rows, curves, and to which configurations they belong.

out/rows.jsonl    one row a measurement, written at once
out/curves.csv    training and validation loss along the way
out/cells.json    the configuration of every cell that has rows
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whatwhere.errors import changes
from whatwhere.study.directory import locked, write_whole
from whatwhere.study.rows import append, mend, read_rows
from whatwhere.study.wanted import Wanted

__all__ = ["Ledger"]

CURVE = ("run", "seed", "step", "train_nll", "valid_nll", "valid_accuracy")

Key = tuple[Any, ...]


class Ledger:
    """The files of an --out that one process writes; `close`, or leaving `with`, releases it.

    retry: rows with an error do not count as done. writes: False in all but the first of several
    processes that train together: they read what is there, remember, and write nothing.
    Raises ValueError if another process writes there, or if the rows of a cell belong to another
    configuration, which it names.
    """

    def __init__(
        self,
        path: Path,
        identities: Mapping[str, Mapping[str, Any]],
        retry: bool = False,
        writes: bool = True,
    ) -> None:
        if path.exists() and not path.is_dir():
            raise FileExistsError(f"--out {path} is a file; give a directory")
        if writes:
            path.mkdir(parents=True, exist_ok=True)
        self.path, self.writes, self.retry, self._identities = path, writes, retry, identities
        self._lock = locked(path) if writes else None
        try:
            if writes:
                mend(self.rows)
            rows = read_rows(self.rows)
            self._agree({row["run"] for row in rows if "run" in row})
        except BaseException:
            self.close()
            raise
        self.done: dict[Key, dict[str, Any]] = {}
        for row in rows:
            if "run" in row and not (retry and row.get("error")):
                self.done[key_of(row)] = row

    @property
    def rows(self) -> Path:
        """The file of results."""
        return self.path / "rows.jsonl"

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row and remember it; the first of a cell also keeps its configuration."""
        self.done[key_of(row)] = dict(row)
        if not self.writes:
            return
        kept = self._kept()
        if row["run"] not in kept and row["run"] in self._identities:
            kept[row["run"]] = self._identities[row["run"]]
            write_whole(self.path / "cells.json", json.dumps(kept, indent=1, default=list) + "\n")
        append(self.rows, row)

    def add_curve(self, run: str, points: Sequence[Mapping[str, Any]]) -> None:
        """Put the curves of a training into curves.csv, in place of what its seeds have there."""
        if not self.writes:
            return
        path = self.path / "curves.csv"
        kept = list(csv.reader(io.StringIO(path.read_text()))) if path.exists() else []
        own = {(run, str(point["seed"])) for point in points}
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(CURVE)
        writer.writerows(line for line in kept[1:] if (line[0], line[1]) not in own)
        writer.writerows((run, *(point.get(key) for key in CURVE[1:])) for point in points)
        write_whole(path, text.getvalue())

    def copy(self, folder: Path) -> None:
        """Write what counts as done into `folder`, for a process that goes on there."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.done.values())
        write_whole(folder / "rows.jsonl", text)
        if kept := self._kept():
            write_whole(folder / "cells.json", json.dumps(kept, indent=1) + "\n")

    def close(self) -> None:
        """Release the directory."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _kept(self) -> dict[str, Any]:
        path = self.path / "cells.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def _agree(self, runs: set[str]) -> None:
        for run, found in self._kept().items():
            if run not in runs or run not in self._identities:
                continue
            wanted = json.loads(json.dumps(self._identities[run], default=list))
            if differing := changes(found, wanted):
                raise ValueError(
                    f"{self.rows} has rows of {run} by another configuration: "
                    f"{'; '.join(differing)}. Use another --out, or remove those rows"
                )


def key_of(row: Mapping[str, Any]) -> Key:
    """What tells the rows of a study apart."""
    names = ("encoding", "metric", "eval_length", "split", "data", "probe", "positions")
    benchmark = row["task"] if row.get("data") == "zero_shot" else ""
    return (row["run"], row["seed"], *(row.get(name, "") for name in names), benchmark)


def key(run: str, seed: int, row: Wanted) -> Key:
    """The key of a row that is wanted."""
    place = (row.encoding, row.metric, row.eval_length, row.split, row.data)
    return (run, seed, *place, row.probe, row.positions, row.task)
