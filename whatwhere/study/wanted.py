"""Which rows a cell's evaluations will give, known before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from whatwhere.study.cells import Cell, Evaluation
from whatwhere.study.data import Library

__all__ = ["Wanted", "wanted"]


@dataclass(frozen=True)
class Wanted:
    """What tells one row of a cell and seed apart from the others.

    task: of a benchmark; else the task is that of `data`.
    """

    encoding: str
    metric: str
    eval_length: int
    split: str
    data: str
    probe: str
    positions: str = ""
    task: str = ""


def wanted(cell: Cell, each: Evaluation, library: Library) -> list[Wanted]:
    """The rows of an evaluation, those of one seed; reads no data."""
    shown = each.shown or each.encoding or cell.shown or cell.encoding
    data, length = each.data or cell.data, cell.config.train_length

    def one(metric: str, at: int, positions: str = "") -> Wanted:
        probe = "positions" if positions and not each.probe else each.probe
        return Wanted(shown, metric, at, each.split, data, probe, positions)

    if each.kind == "scores":
        length = library.length(data, length, {**cell.drawn, **each.drawn})
        return [one(metric, length) for metric in each.metrics]
    if each.kind == "speed":
        return [one(metric, length) for metric in _speed_metrics(cell)]
    if each.kind == "zero_shot":
        there = each.tasks if "zero_shot" in library.files else ()
        plain = Wanted(shown, "accuracy", length, "test", "zero_shot", each.probe)
        return [replace(plain, task=task) for task in there]
    places = [one("nll", each.lengths[-1], text) for text in _parts(each.lengths)]
    return [*(one("nll", at) for at in each.lengths), *(places if len(places) > 1 else [])]


def _speed_metrics(cell: Cell) -> list[str]:
    """What is measured of speed: memory only where a device counts it."""
    named = ["train_tokens_per_second", "eval_tokens_per_second", "decode_tokens_per_second"]
    memory = ["train_peak_mib", "eval_peak_mib"]
    return named + (memory if cell.config.device.startswith("cuda") else [])


def _parts(lengths: Sequence[int]) -> list[str]:
    """The positions between one length and the next: 0-1024, 1024-2048, …"""
    edges = [0, *sorted(set(lengths))]
    return [f"{start}-{end}" for start, end in pairwise(edges)]
