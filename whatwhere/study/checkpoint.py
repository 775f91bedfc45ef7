"""The state of a training on disk: whole or not at all, and readable without running code."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

__all__ = ["alone", "load", "random_state", "restore_random_state", "save"]


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Put the state at `path`; OSError if that fails.

    A kill leaves the old file or the new one, never a part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    neighbour = path.with_name(f".{path.name}.new")
    with neighbour.open("wb") as file:
        try:
            torch.save(dict(state), file)
        except RuntimeError as error:  # how torch reports a full disk
            raise OSError(f"{path} could not be written: {error}") from error
        file.flush()
        os.fsync(file.fileno())
    os.replace(neighbour, path)


@contextmanager
def alone(path: Path, wait: Callable[[], object]) -> Generator[None]:
    """Within `with` no other process trains what lies at `path`; `wait` is called until then.

    Studies that share a folder share trainings: two runs at once would do the same work twice, and
    take each other's half-written file. Where files cannot be locked, nobody waits.
    """
    with ExitStack() as held:
        # Windows, a network's file system, a folder to be read only: no lock.
        with suppress(ImportError, OSError):
            import fcntl

            path.parent.mkdir(parents=True, exist_ok=True)
            file = held.enter_context(path.with_name(f".{path.name}.lock").open("a"))
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    wait()
                    time.sleep(0.2)
        yield


def load(path: Path) -> dict[str, Any] | None:
    """The state at `path` on the CPU, or None if there is none.

    Raises OSError that says what to delete if the file is damaged: no fault of the training, so no
    ValueError, which would become the error of a row.
    """
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001  pickle, zip and torch each raise their own
        raise OSError(f"{path} is damaged ({error}); delete it to train again") from None


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of torch's generators that a training on `device` draws from."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Put back what `random_state` gave."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
