"""What is wrong with a study's cells, said before anything is read or trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from whatwhere.study.cells import Cell
from whatwhere.study.data import Library
from whatwhere.study.plan import check_encodings
from whatwhere.study.wanted import wanted

__all__ = ["check"]


def check(cells: Sequence[Cell], library: Library) -> None:
    """Raise ValueError for cells that can not be run as they are asked for.

    Data that is not at hand, expressions that can not be built at their lengths, an example of
    another length than train_length, two evaluations that would give the same row.
    """
    library.check(cells)
    for cell in cells:
        expressions = [cell.encoding, *(e.encoding for e in cell.evaluations if e.encoding)]
        config = cell.config
        lengths = [n for e in cell.evaluations for n in e.lengths] or [config.train_length]
        check_encodings(replace(config, encodings=tuple(expressions), eval_lengths=tuple(lengths)))
        length = library.length(cell.data, config.train_length, cell.drawn)
        if length != config.train_length:
            raise ValueError(
                f"{cell.name}: train_length is {config.train_length}, but an example of "
                f"{cell.data} has {length} tokens"
            )
        keys = [w for each in cell.evaluations for w in wanted(cell, each, library)]
        if twice := [w for w in keys if keys.count(w) > 1]:
            raise ValueError(f"{cell.name} measures {twice[0]} twice; give one of them a probe")
