"""The file of rows: who measured with what, and what need not be measured again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from whatwhere.report.speed import row_key
from whatwhere.study.rows import append, commit, mend, read_rows, versions

__all__ = ["Ledger", "Row", "provenance"]

Row = dict[str, Any]
PACKAGE = Path(__file__).parents[1]


def provenance() -> Row:
    """Device, versions and commit: what every row carries.

    The commit is $COMMIT where it is set (a copy of the files without .git), else the clone's. If
    the files differ from it, or there is none, a hash of the package's sources stands behind "+".
    """
    name = os.environ.get("COMMIT") or commit()
    if name.endswith("+") or not ("COMMIT" in os.environ or _is_hash(name)):
        name = f"{name.removesuffix('+')[:12]}+{_sources()}"
    found: dict[str, Any] = dict(versions())
    for package in ("triton", "PoPE-pytorch"):
        try:
            found[package.lower()] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    cuda = torch.cuda.is_available()
    if cuda:
        found["cudnn"] = torch.backends.cudnn.version()
    device = torch.cuda.get_device_name() if cuda else "cpu"
    return {"device": device, "versions": found, "commit": name}


def _is_hash(name: str) -> bool:
    return len(name) == 40 and set(name) <= set("0123456789abcdef")


def _sources() -> str:
    digest = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        digest.update(file.relative_to(PACKAGE).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:8]


class Ledger:
    """Rows of one file; those of this commit on this device count as done, failed ones do not.

    A kill at any moment loses at most the row in work: a torn last line is cut off.
    """

    def __init__(self, path: Path) -> None:
        mend(path)
        self.path, self.shared = path, provenance()
        self.rows: list[Row] = [row for row in read_rows(path) if self._ours(row)]
        self.done = {row_key(row) for row in self.rows if "error" not in row}

    def _ours(self, row: Row) -> bool:
        return all(row.get(key) == self.shared[key] for key in ("device", "commit"))

    def has(self, row: Mapping[str, Any]) -> bool:
        """Whether a row with this key is there already, measured by this commit here."""
        return row_key(row) in self.done

    def add(self, row: Row) -> Row:
        """Write a row behind the others, with its provenance, and return it."""
        row = row | self.shared
        self.path.parent.mkdir(parents=True, exist_ok=True)
        append(self.path, row)
        self.rows.append(row)
        if "error" not in row:
            self.done.add(row_key(row))
        return row
