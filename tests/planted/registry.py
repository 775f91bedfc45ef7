"""The planted faults by name: a patch of the library, and the check that must see it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Fault:
    """A patch of one function, and a check that passes without it and must not pass with it."""

    plant: Plant
    check: Callable[[], None]


FAULTS: dict[str, Fault] = {}


def fault(check: Callable[..., None], *arguments: Any) -> Callable[[Plant], Plant]:
    """Enter a planting function under its docstring, the name of the fault."""

    def enter(plant: Plant) -> Plant:
        name = plant.__doc__ or ""
        assert name, "a fault is named by its docstring"
        assert name not in FAULTS, f"a second fault {name!r}"
        FAULTS[name] = Fault(plant, functools.partial(check, *arguments))
        return plant

    return enter
