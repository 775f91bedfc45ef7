"""Files that are made once and kept: where they lie, and how a kill cannot break one."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path


def cache_dir() -> Path:
    """The directory for what can be made again: $WHATWHERE_CACHE, else the platform's user cache.

    That is $XDG_CACHE_HOME/whatwhere (by default ~/.cache/whatwhere), ~/Library/Caches/whatwhere on
    macOS and %LOCALAPPDATA%\\whatwhere on Windows. It need not exist.
    """
    if chosen := os.environ.get("WHATWHERE_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "whatwhere"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Put `content` at `path` whole or not at all; OSError if the directory cannot be written.

    Readers see the old file or the new one: the bytes go to a neighbour first (a rename is atomic
    only within a file system) and reach the disk before the rename does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # No tempfile, whose files only their owner may read: others share caches and saved tasks.
    neighbour = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with neighbour.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(neighbour, path)
    except BaseException:
        neighbour.unlink(missing_ok=True)
        raise
