"""The file of results: one JSON object a line, appended so that a kill loses at most its line."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from whatwhere import __version__

__all__ = ["append", "commit", "device_name", "mend", "named", "read_rows", "row_key", "versions"]

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, in order; a last line without its end, which a kill left, is no row.

    Raises ValueError that names the line if another line is damaged.
    """
    if not path.exists():
        return []
    *lines, _torn = path.read_bytes().split(b"\n")
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except ValueError:
            raise ValueError(
                f"{path}:{number} is no JSON object; remove the line to measure it again"
            ) from None
    return rows


def mend(path: Path) -> None:
    """Cut off a last line that has no end, so that the next row starts on a line of its own."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
        os.fsync(file.fileno())


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Write one row behind the others, and return when it is on the disk."""
    line = json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n"
    with named(path), path.open("ab") as file:
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def named(path: Path) -> Generator[None]:
    """Within `with` an error of the system names the file: of a full disk it does not itself."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def row_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells the measurements of one directory apart."""
    return tuple(row[key] for key in ("encoding", "seed", "eval_length", "mode", "metric"))


@cache
def commit() -> str:
    """The commit of this package, with "+" if its files differ from it; else its version.

    A package inside somebody else's repository (a virtual environment, say) is not theirs.
    """
    here = Path(__file__).parents[1]
    known = _git(here, "ls-files", "--error-unmatch", "rule.py")
    name = _git(here, "rev-parse", "HEAD") if known else None
    if not name:
        return __version__
    return name + ("+" if _git(here, "status", "--porcelain", "--", ".") else "")


def _git(where: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(where), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@cache
def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "whatwhere": __version__,
    }


def device_name(device: str) -> str:
    """The name of the device as its maker gives it; for a CPU also the number of threads."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    if torch.device(device).type != "cpu":
        return device
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' if threads > 1 else ''}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
