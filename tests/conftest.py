"""Runs before any test imports whatwhere: shapes and types are checked in tests, and only there.

On a GPU they are not: torch.compile is met on the way there (FlexAttention, transformers'
`generate` over a static cache), and dynamo can not trace the wrappers.
"""

import os
from collections.abc import Iterator

import jaxtyping
import pytest
import torch
from hypothesis import settings

# With CI set, pytest draws the whole difference of two long lists: for the nested ones of a planted
# fault, whose failure is wanted, difflib takes for ever.
for name in ("CI", "BUILD_NUMBER"):
    os.environ.pop(name, None)

# The same examples each time: a run of the suite tells about the change before it, not about the
# dice. HYPOTHESIS_PROFILE=explore draws new ones; what it finds becomes a test of its own.
settings.register_profile("same", derandomize=True, database=None)
settings.register_profile("explore", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# Not kernels (Triton reads its functions' source) nor cli (typer reads their signatures).
CHECKED = (
    "positions",
    "phases",
    "maps",
    "spectra",
    "regions",
    "rule",
    "cache",
    "attention",
    "encodings",
    "nn",
    "hf",
    "tasks",
    "study",
    "extend",
)
DEVICE = os.environ.get("WHATWHERE_DEVICE", "cpu")
if DEVICE == "cpu":
    jaxtyping.install_import_hook([f"whatwhere.{name}" for name in CHECKED], "typechecker.check")


def pytest_configure(config: pytest.Config) -> None:
    """Keep torch to one thread: pytest-xdist's processes share the cores."""
    del config
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest first: a minute each at the end would leave all but one process idle."""
    items.sort(key=lambda item: "test_interpreter.py" not in item.nodeid)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where tensors are put: WHATWHERE_DEVICE=cuda runs the same tests on a GPU."""
    return torch.device(DEVICE)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Switch the checks off: for tests of bad input, where our own error must answer.

    torch.compile needs more, because dynamo cannot trace the wrappers: compile in a fresh process
    (tests/fresh.py), which has none.
    """
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
