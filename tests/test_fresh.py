"""A script in a fresh interpreter ends, and when it does not, one learns where it was."""

from __future__ import annotations

import time

import pytest
from fresh import run_python


def test_what_it_prints_and_what_it_is_given() -> None:
    assert run_python("print(input()[::-1])", given="abc") == "cba\n"


def test_an_error_is_shown() -> None:
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run_python("1 / 0")


@pytest.mark.parametrize("child", [False, True])
def test_one_that_hangs_is_ended_and_says_where(child: bool) -> None:
    begin = time.monotonic()
    script = "import subprocess, time\nprint('begun', flush=True)\n"
    if child:  # as a compiler's workers, it keeps our end of the pipe open
        script += "subprocess.Popen(['sleep', '40'])\n"
    with pytest.raises(pytest.fail.Exception, match=r"not done after 2 s\nbegun[^$]*line [34]"):
        run_python(script + "time.sleep(40)", limit=2)
    assert time.monotonic() - begin < 20
