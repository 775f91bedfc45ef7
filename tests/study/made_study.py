"""A study so small that a training takes a second, for tests only: no result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from whatwhere.study import Config
from whatwhere.study.cells import Cell, Evaluation, Study

STRINGS = {"lengths": (3, 5), "shifts": range(-2, 3), "valid": 20, "test": 40}
LENGTH = 11  # 5 letters and ",a,+1,": what tasks.draw says


def config(**changes: Any) -> Config:
    """One layer, 16 wide, 8 steps."""
    sizes: dict[str, Any] = {
        "seeds": (0, 1, 2), "width": 16, "layers": 1, "heads": 2, "activation": "gelu",
        "steps": 8, "batch_size": 4, "train_length": LENGTH, "valid_points": 2,
        "valid_tokens": 20 * LENGTH,
    }  # fmt: skip
    return Config(**(sizes | changes))


BOTH = Evaluation(metrics=("accuracy", "nll"))
WIDER = Evaluation(metrics=("accuracy",), drawn={"shifts": (-3, 3), "lengths": (4, 5)}, probe="±3")


def indirect(folder: Path, **changes: Any) -> Study:
    """Two encodings on indirect indexing, seeds 0 and 1 trained as one, seed 2 alone."""
    common: dict[str, Any] = {
        "data": "indirect", "drawn": STRINGS, "stacked": 2, "evaluations": (BOTH, WIDER),
    }  # fmt: skip
    return Study("made", folder, (
        Cell("rope", "rope", config(**changes), **common),
        Cell("pope", "pope(delta_init=uniform)", config(dropout=0.1, **changes), **common),
    ))  # fmt: skip


def genome_file(folder: Path, letters: int = 10_000) -> str:
    """A FASTA file of made nucleotides; returns its path."""
    drawn = np.random.default_rng(0).choice(list("ACGT"), letters)
    path = folder / "made.fa"
    path.write_text(">made\n" + "".join(drawn) + "\n")
    return str(path)


def streams(folder: Path) -> Study:
    """A stream at several lengths, and a cell that goes on from the other's weights."""
    base = config(seeds=(0, 1), train_length=16, steps=4, valid_tokens=32)
    tuned = config(seeds=(0, 1), train_length=32, steps=2, final_lr=1.0, valid_tokens=32)
    lengths = Evaluation("lengths", lengths=(16, 32), limit=64)
    modified = Evaluation("lengths", lengths=(16, 32), limit=64, encoding="rope+yarn")
    return Study("made", folder, (
        Cell("x_rope", "rope", base, "grch37_x",
             (Evaluation(split="valid"), lengths, modified), keep_best=True),
        Cell("x_yarn", "rope(spectrum=yarn(factor=2,train_length=16))", tuned, "grch37_x",
             (Evaluation(split="valid"), lengths), start="x_rope", shown="rope+yarn",
             columns={"tuned": True}),
    ))  # fmt: skip
