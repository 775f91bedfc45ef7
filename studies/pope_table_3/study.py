"""PoPE, table 3: the human genome. See README.md.

python studies/pope_table_3/study.py --dry-run
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from whatwhere.cli.reproduce import main
from whatwhere.study.cells import Cell, Evaluation, Study
from whatwhere.study.recipes import recipe

HERE = Path(__file__).parent
ENCODINGS = {"rope": "rope", "pope": "pope(delta_init=uniform)"}


def pair(prefix: str, data: str, **changes: Any) -> tuple[Cell, ...]:
    """RoPE and PoPE on a genome; the weights of the lowest validation loss are scored."""
    config = recipe("genome", seeds=(0, 1, 2), **changes)
    return tuple(
        Cell(f"{prefix}{short}", text, config, data, (Evaluation(),), keep_best=True)
        for short, text in ENCODINGS.items()
    )


STUDY = Study(HERE.name, HERE, (
    *pair("x_", "grch37_x", steps=10_000, warmup=400),
    *pair("", "hg38"),
))  # fmt: skip

if __name__ == "__main__":
    main(HERE)
