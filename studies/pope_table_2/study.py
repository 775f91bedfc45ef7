"""PoPE, table 2: JSB chorales and MAESTRO. See README.md.

python studies/pope_table_2/study.py --dry-run
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from whatwhere.cli.reproduce import main
from whatwhere.study.cells import Cell, Evaluation, Study
from whatwhere.study.recipes import recipe

HERE = Path(__file__).parent
SEEDS = tuple(range(5))
ENCODINGS = {"rope": "rope", "pope": "pope(delta_init=uniform)"}

# The weights of the lowest validation loss, scored once on the test split; the last weights'
# validation loss is in curves.csv.
BEST: dict[str, Any] = {"evaluations": (Evaluation(),), "keep_best": True}


def pair(name: str, task: str, stacked: int, **changes: Any) -> tuple[Cell, ...]:
    """RoPE and PoPE on a data set."""
    config = recipe(task, seeds=SEEDS, **changes)
    return tuple(
        Cell(f"{name}_{short}", text, config, name, stacked=stacked, **BEST)
        for short, text in ENCODINGS.items()
    )


STUDY = Study(HERE.name, HERE, (
    *pair("jsb", "jsb", stacked=5),
    *pair("asap", "maestro", stacked=1, steps=6000),
    *pair("maestro", "maestro", stacked=1),
))  # fmt: skip

if __name__ == "__main__":
    main(HERE)
