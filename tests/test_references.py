"""What only a GPU runs names the package's modules too: each attribute that it asks of them exists.

A private name that moves breaks benchmarks and GPU tests that no run on a CPU enters.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
SOMETIMES = ("benchmarks/*.py", "scripts/**/*.py", "tests/**/*gpu*.py", "tests/kernels/*.py")
FILES = sorted(path for pattern in SOMETIMES for path in ROOT.glob(pattern))


def module(name: str) -> ModuleType | None:
    """A module of the package; None for a class or function, and where Triton is missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def modules_of(tree: ast.AST) -> dict[str, ModuleType]:
    """Modules of the package by the name that a file gives them."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("whatwhere"):
            for alias in node.names:
                if made := module(f"{node.module}.{alias.name}"):
                    found[alias.asname or alias.name] = made
    return found


def stale(source: str) -> Iterator[str]:
    """The attributes that a source asks of the package's modules and that they do not have."""
    tree = ast.parse(source)
    known = modules_of(tree)
    assigned = {node.id for node in ast.walk(tree)
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}  # fmt: skip
    taken = assigned | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)):
            continue
        name = node.value.id
        if name in known and name not in taken and not hasattr(known[name], node.attr):
            yield f"{name}.{node.attr}, line {node.lineno}"


def test_attributes_of_the_packages_modules_exist() -> None:
    found = {str(path.relative_to(ROOT)): list(stale(path.read_text(encoding="utf-8")))
             for path in FILES}  # fmt: skip
    assert not {path: names for path, names in found.items() if names}


def test_a_name_that_moved_is_found() -> None:
    source = "from whatwhere.study import recipes\nrecipes.language()\nrecipes.langage()\n"
    assert list(stale(source)) == ["recipes.langage, line 3"]
