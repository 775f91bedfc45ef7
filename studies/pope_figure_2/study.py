"""PoPE, figure 2: trained at 1,024 tokens, read on books at up to 32,768. See README.md.

python studies/pope_figure_2/study.py --dry-run
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from whatwhere.cli.reproduce import main
from whatwhere.study.cells import Cell, Evaluation, Study
from whatwhere.study.recipes import language, tuned

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
YARN = "yarn(factor=4,train_length=1024)"

# Four lengths of the paper's ten share a multiple of 20,480, so that the same targets of the same
# books are scored at each; the rest of the curve is the longest pass by position.
PAPER = (1024, 2048, 4096, 10240)
FAR = (1024, 8192, 16384, 32768)
# Made without tuning; at the far lengths YaRN alone, which costs no more a token than none.
METHODS = ("yarn", "rerope", "dual_chunk")


def read(data: str, limit: int | None, methods: tuple[str, ...] = (), base: str = "") -> tuple:
    """The evaluations of a model on books: as it is, and with `methods` that need no tuning."""
    plain = Evaluation("lengths", lengths=PAPER, data=data, limit=limit)
    far = replace(plain, lengths=FAR, limit=32768, probe="to 32k")
    others = [replace(plain, encoding=f"{base}+{method}") for method in methods]
    far_too = [replace(far, encoding=f"{base}+yarn")] if methods else []
    return (plain, *others, far, *far_too)


def cells(prefix: str, train: str, data: str, steps: int, limit: int | None) -> list[Cell]:
    """Trained at 1,024; and two of them tuned at 4,096, with YaRN or as they are."""
    short = language(seeds=SEEDS, steps=steps)
    long = tuned(seeds=SEEDS)
    alone = read(data, limit)
    return [
        Cell(f"{prefix}rope", "rope", short, train, read(data, limit, METHODS, "rope")),
        Cell(f"{prefix}pope", "pope", short, train, read(data, limit, METHODS, "pope")),
        Cell(f"{prefix}yarn", f"rope(spectrum={YARN})", long, train, alone,
             start=f"{prefix}rope", shown="rope+yarn"),
        Cell(f"{prefix}pope_tuned", "pope", long, train, alone, start=f"{prefix}pope"),
        Cell(f"{prefix}pope_yarn", f"pope(spectrum={YARN})", long, train, alone,
             start=f"{prefix}pope", shown="pope+yarn", about="does PoPE gain by interpolation?"),
        Cell(f"{prefix}rope_tuned", "rope", long, train, alone, start=f"{prefix}rope",
             about="RoPE tuned as PoPE is, which the paper leaves out"),
        Cell(f"{prefix}alibi", "alibi", short, train, alone, about="not in the paper's figure"),
        Cell(f"{prefix}nope", "nope", short, train, alone, about="not in the paper's figure"),
    ]  # fmt: skip


STUDY = Study(HERE.name, HERE, tuple(
    cells("s_", "books", "novels", 10_000, 40_960) + cells("", "openwebtext", "pg19", 100_000, None)
))  # fmt: skip

if __name__ == "__main__":
    main(HERE)
