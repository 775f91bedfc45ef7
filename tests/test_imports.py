"""Imports go down only: read from the source, so that lazy and typing-only imports count too."""

import ast
import fnmatch
from collections.abc import Iterator
from pathlib import Path

import pytest
from fresh import ROOT, run_python

PACKAGE = ROOT / "whatwhere"

# Top to bottom. What stands in one set are peers: they do not import one another.
LAYERS = (
    {"cli"},
    {"bench"},
    {"report", "extend"},
    {"study"},
    {"hf"},
    {"nn", "tasks"},
    {"encodings"},
    {"attention"},
    {"rule", "cache"},
    {"kernels"},
    {"maps"},
    {"phases"},
    {"spectra", "regions", "positions", "content"},
)
LEVEL = {unit: level for level, units in enumerate(LAYERS) for unit in units}
EVERYWHERE = {"errors", "citations", "tracing"}
BACKENDS = {"reference", "sdpa", "flex", "fused"}
# The fused backend, and the features that every backend but the reference lets a kernel prepare.
KERNELS_IN = ("attention/fused*.py", "attention/prepared.py")

# Distributions that only some files may import; patterns are relative to the package.
ONLY_IN = {
    "transformers": ("hf/*", "extend/*", "nn/hf*.py", "nn/huggingface*.py"),
    "peft": ("hf/*", "extend/*"),
    "triton": ("kernels/*", "attention/fused*.py"),
    "music21": ("tasks/*",),
    "matplotlib": ("report/*", "cli/*"),
    "pandas": ("report/*", "cli/*"),
    "typer": ("cli/*",),
}


def violations(package: Path) -> list[str]:
    """Every import of the package that the design forbids, as "file:line: reason"."""
    found: list[str] = []
    for file in sorted(package.rglob("*.py")):
        inside = file.relative_to(package)
        tree = ast.parse(file.read_text())
        outermost = {id(node) for statement in tree.body for node in at_import_time(statement)}
        for node, target in imports(tree, inside):
            reason = fault(inside, target, lazy=id(node) not in outermost)
            if reason:
                found.append(f"{inside}:{node.lineno}: {reason}")
    return list(dict.fromkeys(found))


def at_import_time(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the file is imported: all but the bodies of functions."""
    yield node
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        for child in ast.iter_child_nodes(node):
            yield from at_import_time(child)


def imports(tree: ast.Module, inside: Path) -> Iterator[tuple[ast.stmt | ast.expr, str]]:
    """Each import with the dotted name it reaches; `from a import b` reaches a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ("whatwhere", *inside.parent.parts)
            near = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*near, *([node.module] if node.module else [])])
            yield from ((node, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and (name := imported_by_call(node)):
            yield node, name


def imported_by_call(call: ast.Call) -> str | None:
    """The name in importlib.import_module("name") or __import__("name"), else None."""
    if not ast.unparse(call.func).endswith(("import_module", "__import__")):
        return None
    name = call.args[0] if call.args else None
    return str(name.value) if isinstance(name, ast.Constant) else None


def fault(inside: Path, target: str, lazy: bool) -> str | None:
    """Why the file may not import the target, or None."""
    root, *rest = target.split(".")
    if root != "whatwhere":
        return external_fault(inside, root)
    here = unit_of(inside)
    if here == "__init__":  # the package's own page may show anything
        return None
    if here not in LEVEL and here not in EVERYWHERE | {"__main__"}:
        return f"{here} has no place in LAYERS (tests/test_imports.py)"
    there = rest[0] if rest else "__init__"
    if there in EVERYWHERE | {"__version__"} or there == here:
        return backend_fault(inside, rest)
    if here in EVERYWHERE:
        return f"{here} is imported by all, so it imports nothing of ours, not {there}"
    if there not in LEVEL:
        return f"{target}: import the module that defines it, not the package's page"
    if here == "report":
        return f"report reads rows and imports no torch, so it may not import {there}"
    if there == "kernels":
        if here != "bench" and not any(fnmatch.fnmatch(inside.as_posix(), p) for p in KERNELS_IN):
            return "only fused.py, its parts and prepared.py import kernels (and bench, to time)"
        return None if lazy else "kernels must be imported inside a function (no GPU, no triton)"
    if here in LEVEL and LEVEL[there] <= LEVEL[here]:
        return f"{here} imports {there}, which is not below it"
    return None


def backend_fault(inside: Path, rest: list[str]) -> str | None:
    """Backends are independent witnesses: none may lean on another, nor on one by what they share;
    and the definition on nothing that a kernel computes."""
    if inside.parent.as_posix() != "attention" or len(rest) < 2:
        return None
    here, other = inside.stem, rest[1]
    if here in BACKENDS | {"prepared"} and other in BACKENDS - {here}:
        return f"backend {here} imports backend {other}"
    if here == "reference" and other == "prepared":
        return "the reference is the definition: its features are the maps' own"
    return None


def external_fault(inside: Path, root: str) -> str | None:
    if unit_of(inside) == "report" and root in {"torch", "jaxtyping", "accelerate"}:
        return f"report imports no torch, and {root} brings it"
    allowed = ONLY_IN.get(root)
    if allowed and not any(fnmatch.fnmatch(inside.as_posix(), pattern) for pattern in allowed):
        return f"{root} may be imported by {', '.join(allowed)} only"
    return None


def unit_of(inside: Path) -> str:
    return inside.parts[0].removesuffix(".py")


def test_imports_go_down_only() -> None:
    assert violations(PACKAGE) == []


SOUND = {
    "__init__.py": "from whatwhere.encodings import TABLE\nfrom .rule import ScoreRule",
    "errors.py": "import difflib",
    "spectra/__init__.py": "import torch\nfrom whatwhere.errors import UnknownName",
    "maps.py": "import torch\nfrom whatwhere.spectra import yarn",
    "rule.py": "from whatwhere.maps import Plain",
    "attention/__init__.py": "from whatwhere.attention import sdpa\nfrom . import reference",
    "attention/sdpa.py": "from whatwhere.attention.backend import Call",
    "attention/fused.py": "def f():\n    import triton\n    from whatwhere.kernels import forward",
    "attention/prepared.py": "def f():\n    from whatwhere.kernels import forward",
    "kernels/forward.py": "import triton",
    "encodings/rope.py": "from ..rule import ScoreRule",
    "nn/hf.py": "import transformers",
    "report/table.py": "import pandas\nfrom whatwhere.errors import did_you_mean",
    "cli/__init__.py": "import typer\nfrom whatwhere import report, study",
}

# file, its source, and a part of the reason
PLANTED = [
    ("maps.py", "from whatwhere.rule import ScoreRule", "maps imports rule"),
    ("maps.py", "from whatwhere import rule", "maps imports rule"),
    ("maps.py", "from . import rule", "maps imports rule"),
    ("maps.py", "def f():\n    import whatwhere.nn.decoder", "maps imports nn"),
    ("maps.py", "import importlib\nimportlib.import_module('whatwhere.nn')", "maps imports nn"),
    ("regions.py", "from whatwhere.positions import grid", "regions imports positions"),
    ("attention/backend.py", "from ..encodings import TABLE", "attention imports encodings"),
    ("attention/sdpa.py", "from whatwhere.attention.flex import Flex", "backend sdpa"),
    ("attention/flex.py", "from .reference import Reference", "backend flex"),
    ("attention/flex.py", "from . import reference", "backend flex"),
    ("attention/sdpa.py", "from whatwhere.kernels import forward", "only fused.py, its parts and"),
    ("bench/cases.py", "from whatwhere.kernels import forward", "inside a function"),
    ("study/training.py", "from whatwhere.bench import measure", "study imports bench"),
    ("attention/fused.py", "from whatwhere.kernels import forward", "inside a function"),
    ("attention/fused.py", "if True:\n    import whatwhere.kernels", "inside a function"),
    ("attention/sdpa.py", "import triton.language as tl", "triton may be imported by"),
    ("attention/reference.py", "from whatwhere.attention.prepared import mapped", "definition"),
    ("attention/prepared.py", "from whatwhere.kernels import forward", "inside a function"),
    ("attention/prepared.py", "from whatwhere.attention.sdpa import Sdpa", "imports backend"),
    ("nn/decoder.py", "from transformers import PreTrainedModel", "transformers may be"),
    ("study/training.py", "import transformers", "transformers may be"),
    ("study/training.py", "from whatwhere.report import table", "study imports report"),
    ("study/training.py", "from whatwhere.cli import main", "study imports cli"),
    ("report/plot.py", "import torch", "report imports no torch"),
    ("report/plot.py", "from torch import nn", "report imports no torch"),
    ("report/plot.py", "from whatwhere.spectra import yarn", "may not import spectra"),
    ("errors.py", "from whatwhere.maps import Plain", "imports nothing of ours"),
    ("tasks/text.py", "from whatwhere import ScoreRule", "not the package's page"),
    ("tasks/text.py", "import whatwhere as ww", "not the package's page"),
    ("extras.py", "from whatwhere.maps import Plain", "no place in LAYERS"),
]


def plant(package: Path, files: dict[str, str]) -> None:
    for name, source in files.items():
        file = package / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source + "\n")


def test_a_sound_tree_has_no_violation(tmp_path: Path) -> None:
    plant(tmp_path / "whatwhere", SOUND)
    assert violations(tmp_path / "whatwhere") == []


@pytest.mark.parametrize(("name", "source", "reason"), PLANTED)
def test_a_planted_violation_is_found(tmp_path: Path, name: str, source: str, reason: str) -> None:
    plant(tmp_path / "whatwhere", SOUND | {name: source})
    (found,) = violations(tmp_path / "whatwhere")
    assert found.startswith(f"{name}:")
    assert reason in found


HEAVY = {"triton", "transformers", "matplotlib", "pandas", "music21", "peft", "accelerate", "typer"}


def newly_loaded(statement: str) -> set[str]:
    """Top-level packages that the statement loads and torch does not, in a fresh process."""
    script = (
        "import sys, torch, jaxtyping\nbefore = {name.split('.')[0] for name in sys.modules}\n"
        f"{statement}\nprint(*{{name.split('.')[0] for name in sys.modules}} - before)"
    )
    return set(run_python(script).split())


def test_import_whatwhere_is_light() -> None:
    # Names load on first use, so that touching all of them is what a user's import amounts to.
    loaded = newly_loaded("import whatwhere; [getattr(whatwhere, n) for n in whatwhere.__all__]")
    assert "whatwhere" in loaded
    assert loaded & HEAVY == set()


def test_a_heavy_import_would_be_seen() -> None:
    assert "pandas" in newly_loaded("import pandas")
