"""PoPE, tables 4, 5 and 6: language models. See README.md.

python studies/pope_table_4_5/study.py --dry-run
"""

from __future__ import annotations

from pathlib import Path

from whatwhere.cli.reproduce import main
from whatwhere.study.cells import Cell, Evaluation, Study
from whatwhere.study.recipes import language

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
ENCODINGS = {"rope": "rope", "pope": "pope"}
ABLATIONS = {
    "identity": "pope(magnitude=identity)",
    "relu": "pope(magnitude=relu)",
    "nodelta": "pope(delta_init=none)",
}

# The last weights on the validation split, as the paper reports; 4 million tokens, as it has.
VALID = Evaluation(split="valid", limit=4_000_000)


# Where --data zero_shot=FOLDER (or hub:) is given.
TASKS = ("lambada_openai", "blimp", "cbt", "hellaswag", "piqa", "arc_easy")
ZERO_SHOT = Evaluation("zero_shot", tasks=TASKS)


def cells(encodings: dict[str, str], size: str, data: str, suffix: str, steps: int) -> list[Cell]:
    """One cell an encoding, three seeds one after the other."""
    config = language(size, seeds=SEEDS, steps=steps)
    return [
        Cell(f"{k}_{suffix}", v, config, data, (VALID, ZERO_SHOT) if k in ENCODINGS else (VALID,))
        for k, v in encodings.items()
    ]


STUDY = Study(HERE.name, HERE, tuple(
    cells(ENCODINGS | ABLATIONS, "124M", "books", "books", 10_000)
    + cells(ENCODINGS | ABLATIONS, "124M", "openwebtext", "124M", 100_000)
    + cells(ENCODINGS | ABLATIONS, "253M", "openwebtext", "253M", 100_000)
    + cells(ENCODINGS, "774M", "openwebtext", "774M", 100_000)
))  # fmt: skip

if __name__ == "__main__":
    main(HERE)
