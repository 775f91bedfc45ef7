"""The process that `fresh.run_forked` starts: it loads torch and its compiler once, and runs each
script it is given in a fork of itself. One job a line in, one exit code (or null) a line out.
"""

import faulthandler
import importlib
import json
import os
import signal
import sys
import time
import types
from typing import Any

from kernels.quick_interpreter import quicken


def main() -> None:
    importlib.import_module("torch._dynamo")  # and with it torch
    quicken()
    for line in sys.stdin:
        job = json.loads(line)
        for name in job["loaded"]:
            importlib.import_module(name)
        pid = os.fork()
        if pid == 0:
            return run(job)
        sys.stdout.write(json.dumps(ended(pid, job["limit"])) + "\n")
        sys.stdout.flush()


def run(job: dict[str, Any]) -> None:
    """In the fork: the script as `python -c` runs it, between the job's files."""
    os.setsid()  # its children can be ended with it
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        mode = os.O_RDONLY if name == "stdin" else os.O_WRONLY | os.O_APPEND
        os.dup2(os.open(os.path.join(job["folder"], name), mode), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  what the parent read ahead is not for it
    faulthandler.enable()
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["where"])
    sys.argv, sys.path[0] = ["-c"], ""
    sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(job["script"], "<string>", "exec"), sys.modules["__main__"].__dict__)


def ended(pid: int, limit: float) -> int | None:
    """The exit code; None of a script that had to be ended, and was asked first where it was."""
    if (code := waited(pid, limit)) is not None:
        return code
    os.kill(pid, signal.SIGABRT)  # faulthandler prints every thread's stack
    if waited(pid, 3.0) is None:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return None


def waited(pid: int, seconds: float) -> int | None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return None


if __name__ == "__main__":
    main()
