"""ALiBi, figure 1 and tables 1 and 3: read at up to 16 times the trained length. See README.md.

python studies/alibi_figure_1/study.py --dry-run
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from whatwhere.cli.reproduce import main
from whatwhere.study.cells import Cell, Evaluation, Study
from whatwhere.study.recipes import language

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
ENCODINGS = ("sinusoidal", "rope", "t5", "alibi", "pope")


def cells(length: int, suffix: str) -> list[Cell]:
    """Five encodings with the same 65,536 tokens a step at a training length."""
    config = language(
        seeds=SEEDS, steps=10_000, train_length=length, batch_size=64 * 1024 // length
    )
    lengths = tuple(length * factor for factor in (1, 2, 4, 8, 16))
    evaluations = (
        Evaluation("lengths", lengths=lengths, limit=2 * lengths[-1]),
        Evaluation("speed"),
    )
    # T5's bias is learned, so its score matrices are kept for the backward pass: smaller pieces.
    pieces = {"t5": replace(config, accumulate=8)}
    return [
        Cell(f"{text}_{suffix}", text, pieces.get(text, config), "books", evaluations)
        for text in ENCODINGS
    ]


STUDY = Study(HERE.name, HERE, tuple(cells(1024, "books") + cells(512, "books_512")))

if __name__ == "__main__":
    main(HERE)
