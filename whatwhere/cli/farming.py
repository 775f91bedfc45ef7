"""`whatwhere reproduce --device cuda:0,cuda:1`: the same command on each, a few seeds at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from whatwhere.cli.board import PARENT

if TYPE_CHECKING:
    from whatwhere.cli.board import Board
    from whatwhere.study.farm import Job

__all__ = ["Starter", "named_devices"]


def named_devices(text: str) -> tuple[str, ...]:
    """ "cuda:0,cuda:1" -> the devices; () for a plain cpu or cuda. ValueError for another word."""
    parts = [part.strip() for part in text.split(",")]
    if parts in (["cpu"], ["cuda"]):
        return ()
    for part in parts:
        kind, colon, number = part.partition(":")
        if part != "cpu" and not (kind == "cuda" and colon and number.isdecimal()):
            raise ValueError(
                f"--device is {text!r}; write cpu, cuda, or several by comma: cuda:0,cuda:1"
            )
    # Several processes may share a CPU, and each needs a name.
    return tuple(f"cpu:{n}" if part == "cpu" else part for n, part in enumerate(parts))


class Starter:
    """Starts `whatwhere reproduce` for one job of a farm.

    devices: those of `named_devices`, ValueError for one that can not be used; same: options that
    each command gets as well.
    """

    def __init__(
        self, devices: Sequence[str], folder: Path, checkpoints: Path, given: Mapping[str, str],
        same: Sequence[str], board: Board,
    ) -> None:  # fmt: skip
        from whatwhere.study.devices import usable

        for device in devices:
            if not device.startswith("cpu"):
                usable(device, touch=False)
        self.devices = devices
        self.folder, self.checkpoints, self.given = folder, checkpoints, given
        self.same, self.board = same, board

    def __call__(self, job: Job, device: str, place: Path, log: Path) -> subprocess.Popen[bytes]:
        kind, _, number = device.partition(":")
        words = [
            sys.executable, "-m", "whatwhere.cli", "reproduce", str(self.folder),
            "--only", job.cell.name.partition("@")[0], "--seeds", ",".join(map(str, job.seeds)),
            "--out", str(place), "--checkpoints", str(self.checkpoints), "--device", kind,
            *self.same,
        ]  # fmt: skip
        for name, file in self.given.items():
            words += ["--data", f"{name}={file}"]
        if self.board.left is not None:
            words += ["--minutes", f"{max(self.board.left, 1e-3):.4f}"]
        own = {PARENT: str(os.getpid())}
        if kind == "cuda":
            seen = os.environ.get("CUDA_VISIBLE_DEVICES")
            own["CUDA_VISIBLE_DEVICES"] = seen.split(",")[int(number)] if seen else number
        with log.open("wb") as file:
            return subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=os.environ | own
            )
