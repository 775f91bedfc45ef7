"""A fresh interpreter: for what must hold without the checks and imports that tests bring along."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_python(script: str, where: Path = ROOT, given: str = "") -> str:
    """What the script prints, run in `where`; fails with its standard error unless it exits 0."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=given,
        capture_output=True,
        text=True,
        cwd=where,
        check=False,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
