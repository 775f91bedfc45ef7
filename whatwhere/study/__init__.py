"""The experiment engine: train each encoding once, evaluate it at many lengths, keep rows.

    config  ->  run(config, task, out)  ->  out/rows.jsonl, one row a measurement

`config` is every parameter in one value, `train` one training that can be killed at any moment,
`evaluate` the negative log-likelihood at a length, `rows` the file of results, `runner` the order
in which all of it happens.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whatwhere.study.config import Config
    from whatwhere.study.directory import open_directory
    from whatwhere.study.evaluate import nll
    from whatwhere.study.observer import Observer
    from whatwhere.study.rows import read_rows
    from whatwhere.study.runner import run

# Lazy, so that the command line can show the defaults of Config without loading torch.
_HOME = {
    "Config": "config",
    "Observer": "observer",
    "nll": "evaluate",
    "open_directory": "directory",
    "read_rows": "rows",
    "run": "runner",
}

__all__ = ["Config", "Observer", "nll", "open_directory", "read_rows", "run"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'whatwhere.study' has no attribute {name!r}")
    return getattr(import_module(f"whatwhere.study.{_HOME[name]}"), name)
