"""A measurement of a cell as a row, with everything that it depends on."""

from __future__ import annotations

from typing import Any

from whatwhere.study import rows
from whatwhere.study.cells import Cell, Evaluation, Study
from whatwhere.study.data import SOURCES, Library
from whatwhere.study.measure import Found
from whatwhere.study.training import Training

__all__ = ["row_of"]

MODE = "one_pass"

_ELSEWHERE = (
    *("task", "data", "encodings", "seeds", "device", "eval_lengths", "eval_tokens"),
    *("train_length", "steps"),
)
"""Fields of a Config that have a column of their own, or say nothing about a cell."""


def row_of(
    study: Study,
    cell: Cell,
    each: Evaluation,
    found: Found,
    training: Training | None,
    library: Library,
    seconds: float,
) -> dict[str, Any]:
    """The row of what was found: value and n, or error.

    `run` is the training's name in claims.toml, `encoding` what the published table calls it,
    trained_as and evaluated_as the expressions that were trained and evaluated; `seconds` are those
    of the evaluation so far, train_seconds those of all `stacked` seeds together. `options` holds
    only what is the same for every seed of a cell.
    """
    w, config, source = found.wanted, cell.config, SOURCES[found.wanted.data]
    factor = w.eval_length / config.train_length
    row: dict[str, Any] = {
        "study": study.name,
        "run": cell.name,
        "encoding": w.encoding,
        "trained_as": cell.encoding,
        "evaluated_as": each.encoding or cell.encoding,
        "options": _options(study, cell, each, found, library) | {"factor": max(1.0, factor)},
        "train_length": config.train_length,
        "eval_length": w.eval_length,
        "mode": MODE,
        "task": w.task or source.task,
        "data": w.data,
        "split": w.split,
        "unit": _unit(cell, each, library),
        "metric": w.metric,
        "seed": found.seed,
        "steps": config.steps,
        "train_tokens": cell.tokens,
        "commit": rows.commit(),
        "versions": rows.versions(),
        "device": rows.device_name(config.device),
        "seconds": round(seconds, 3),
    }
    row |= {name: text for name in ("probe", "positions") if (text := getattr(w, name))}
    if training is not None:
        row["stacked"] = len(training.seeds)
        row["train_seconds"] = round(training.seconds, 3)
        kept = training.best[training.seeds.index(found.seed)] if cell.keep_best else None
        row |= {"selected_step": kept["step"]} if kept else {}
    return row | ({"error": found.error} if found.error else {"value": found.value, "n": found.n})


def _options(
    study: Study, cell: Cell, each: Evaluation, found: Found, library: Library
) -> dict[str, Any]:
    options = {k: v for k, v in cell.config.to_dict().items() if k not in _ELSEWHERE}
    w = found.wanted
    corpus = SOURCES[w.data].corpus
    drawn = {k: _plain(v) for k, v in {**cell.drawn, **each.drawn}.items()}
    return (
        options
        | ({"corpus": corpus} if corpus else {})
        | ({"drawn": drawn} if drawn else {})
        | ({"start": study.identity(cell)["start"]} if cell.start else {})
        | {"trained_on": library.fingerprint(cell.data)}
        | ({"evaluated_on": library.fingerprint(w.data)} if w.data != cell.data else {})
        | ({"keep_best": True} if cell.keep_best else {})
        | ({"positions": w.positions} if w.positions else {})
        | found.columns.get("described", {})
        | dict(cell.columns)
        | dict(each.columns)
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, range | tuple) else value


def _unit(cell: Cell, each: Evaluation, library: Library) -> str:
    name = each.data or cell.data
    if each.kind == "zero_shot":
        return "item"
    if each.data is None or each.kind == "scores":
        return library.drawn(name, cell.config.train_length, {**cell.drawn, **each.drawn}).unit
    return library.task(name).unit
