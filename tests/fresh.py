"""A fresh interpreter: for what must hold without the checks and imports that tests bring along."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIMIT = 300.0


def run_python(script: str, where: Path = ROOT, given: str = "", limit: float = LIMIT) -> str:
    """What the script prints, run in `where`; fails with its standard error unless it exits 0.

    After `limit` seconds it fails as well, and says where the script was; its children end with it.
    """
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=where,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,
    )
    try:
        out, err = process.communicate(given, timeout=limit)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # faulthandler prints every thread's stack
        try:
            out, err = process.communicate(timeout=3)
        except subprocess.TimeoutExpired:  # a compiler that it started holds the pipes
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
        pytest.fail(f"not done after {limit:g} s\n{out}\n{err}")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, err
    return out
