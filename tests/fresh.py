"""A fresh interpreter: for what must hold without the checks and imports that tests bring along."""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
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


_forking: list[subprocess.Popen[str]] = []  # the process that forks, once one was asked for


def run_forked(
    script: str, where: Path = ROOT, given: str = "", limit: float = LIMIT,
    loaded: tuple[str, ...] = (),
) -> str:  # fmt: skip
    """As `run_python`, by an interpreter that has loaded torch, its compiler and `loaded` before.

    For scripts that compile: each would spend six seconds on these imports. It runs in a fork of
    one process (forking.py), so what it changes ends with it. What looks at imports takes
    `run_python`, and so does this on a GPU: who has seen CUDA can not fork.
    """
    if os.environ.get("WHATWHERE_DEVICE", "cpu") != "cpu" or not hasattr(os, "fork"):
        return run_python(script, where, given, limit)
    if not _forking or _forking[0].poll() is not None:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        _forking[:] = [
            subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("forking.py"))],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
                env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},  # no threads to lose
            )
        ]  # fmt: skip
        atexit.register(_forking[0].kill)
    tell, hear = _forking[0].stdin, _forking[0].stdout
    assert tell is not None
    assert hear is not None
    with tempfile.TemporaryDirectory() as folder:
        for name in ("stdin", "stdout", "stderr"):
            Path(folder, name).write_text(given if name == "stdin" else "")
        job = {"script": script, "where": str(where), "limit": limit, "loaded": loaded,
               "folder": folder, "environment": dict(os.environ)}  # fmt: skip
        tell.write(json.dumps(job) + "\n")
        tell.flush()
        answer = hear.readline()
        out, err = (Path(folder, name).read_text() for name in ("stdout", "stderr"))
    assert answer, "the process that forks has ended"
    code = json.loads(answer)
    if code is None:
        pytest.fail(f"not done after {limit:g} s\n{out}\n{err}")
    assert code == 0, err
    return out
