"""Faults that people really made, planted in the library: each must turn a check red.

A test that cannot fail proves nothing. Every fault (tests/planted/) is a patch of one function in
this process; the check is a golden test or a small law. It must pass, raise AssertionError under
the fault (no other error: a crash is no verdict), and pass again.
"""

from __future__ import annotations

import pytest
from planted import attending, biases, extending, polar, regions, rotations
from planted.registry import FAULTS

KINDS = (attending, biases, extending, polar, regions, rotations)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_turns_its_check_red(name: str) -> None:
    planted = FAULTS[name]
    planted.check()
    with pytest.MonkeyPatch.context() as patch:
        planted.plant(patch)
        with pytest.raises(AssertionError):
            planted.check()
    planted.check()


def test_there_are_many_faults() -> None:
    assert len(FAULTS) >= 50, [kind.__name__ for kind in KINDS]
