"""A script in a fresh or forked interpreter ends, and when not, one learns where it was."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from fresh import run_forked, run_python

both = pytest.mark.parametrize("run", [run_python, run_forked])


@both
def test_what_it_prints_and_what_it_is_given(run: Callable[..., str]) -> None:
    assert run("print(input()[::-1])", given="abc") == "cba\n"


@both
def test_an_error_is_shown(run: Callable[..., str]) -> None:
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run("1 / 0")


@both
@pytest.mark.parametrize("child", [False, True])
def test_one_that_hangs_is_ended_and_says_where(run: Callable[..., str], child: bool) -> None:
    begin = time.monotonic()
    script = "import subprocess, time\nprint('begun', flush=True)\n"
    if child:  # as a compiler's workers, it keeps our end of the pipe open
        script += "subprocess.Popen(['sleep', '40'])\n"
    with pytest.raises(pytest.fail.Exception, match=r"not done after 2 s\nbegun[^$]*line [34]"):
        run(script + "time.sleep(40)", limit=2)
    assert time.monotonic() - begin < 20


def test_a_fork_has_what_was_loaded_and_nothing_of_the_script_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_forked("import torch, whatwhere; torch.compile = torch.seen = None; x = 1")
    monkeypatch.setenv("WHATWHERE_ASKED", "yes")
    script = """
import os, sys
print("torch._dynamo" in sys.modules, "whatwhere" in sys.modules, "x" in globals(), sys.path[0])
import torch
print(torch.compile is None, hasattr(torch, "seen"), os.environ["WHATWHERE_ASKED"], __name__)
print("wave" in sys.modules)
"""
    told = run_forked(script, loaded=("wave",)).splitlines()
    assert told == ["True False False ", "False False yes __main__", "True"]
