"""The Triton kernels run as Python: TRITON_INTERPRET=1 counts at Triton's first import only, so the
files interpreted_*.py beside this one are run in processes of their own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = {path.stem.removeprefix("interpreted_"): path for path in HERE.glob("interpreted_*.py")}
# A process takes seven seconds to load torch and the tests' checks, and seven more where scripts
# are compiled: those together. Two of about the same length, for two cores.
COMPILED = {"fused", "fused_op", "pages", "prep", "prepared", "step"}
GROUPS = {
    "that compile": sorted(COMPILED),
    "that only run": sorted(FILES.keys() - COMPILED),
}

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)


@pytest.mark.parametrize("group", GROUPS)
def test_interpreted(group: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
         *(str(FILES[name]) for name in GROUPS[group])],
        capture_output=True,
        text=True,
        cwd=HERE.parents[1],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
