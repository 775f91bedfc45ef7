"""A made study with one claim for every verdict, for tests only: no number here is measured."""

import csv
from pathlib import Path
from typing import Any

from made_rows import row, write

RULE = """title = "Made claims"
source = "a made paper"
[rule]
seeds = 3
confidence = 0.95
interval = "t"
why = "Made."
[runs.rope]
hours = 0.5
basis = "made"
[runs.pope]
hours = 2
basis = "made"
[runs.dear]
basis = "nobody knows"
"""
EMPTY = dict.fromkeys(
    ("other", "value", "spread", "spread_seeds", "page", "note", "row.eval_length"), ""
) | {"study": "made", "kind": "value", "metric": "nll", "as": "same", "better": "lower",
     "tolerance": "0.05", "table": "1"}  # fmt: skip


def claim(name: str, encoding: str = "rope", runs: str = "rope", **more: Any) -> dict[str, str]:
    """A line of paper.csv; `at` is its row.eval_length."""
    line = EMPTY | {"claim": name, "encoding": encoding, "runs": runs}
    line["row.eval_length"] = str(more.pop("at", 128))
    return line | {key: str(value) for key, value in more.items()}


RANK = {"kind": "ranking", "tolerance": "0"}
CLAIMS = [
    claim("reproduced", value=0.71),
    claim("better", value=0.90),
    claim("not reproduced", value=0.50, page=7, table="1 and 9"),
    claim("wide", at=256, value=0.70),
    claim("one seed", "learned", value=0.79),
    claim("failed", "t5", value=0.80),
    claim("not run", "alibi", "rope pope", value=0.70),
    claim("no estimate", "cope", "dear", value=0.70),
    claim("rank reproduced", "pope", "rope pope", other="rope", **RANK),
    claim("rank contradicted", "rope", "rope pope", other="pope", **RANK),
    claim("rank undecided", "pope", "rope pope", other="rope", at=256, **RANK),
    claim("rank not run", "pope", "rope pope", other="alibi", **RANK),
    claim("percent", metric="accuracy", better="higher", value="94.8", spread="2.9",
          spread_seeds=3, tolerance=8, **{"as": "percent"}),
]  # fmt: skip


def made_rows() -> list[dict]:
    """Values around 0.71 at 128 (pope 0.1 below); at 256 they scatter too far to say."""
    made = []
    for seed, (near, far) in enumerate([(0.700, 0.4), (0.710, 0.7), (0.715, 1.1)]):
        made += [
            row("rope", 128, near, seed),
            row("pope", 128, near - 0.1 + 0.001 * seed, seed),
            row("rope", 256, far, seed),
            row("pope", 256, 0.7 + 0.01 * seed, seed),
            row("rope", 128, 0.94 + 0.01 * seed, seed, metric="accuracy"),
            row("t5", 128, *((None,) if seed == 1 else (0.8,)), seed,
                **({"error": "out of memory"} if seed == 1 else {})),
        ]  # fmt: skip
    return [*made, row("learned", 128, 0.8)]


def make(root: Path, lines: list[dict], rows: list[dict] | None, rule: str = RULE) -> Path:
    """The study's folder under `root`; `rows` None writes no rows.jsonl."""
    folder = root / "made"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "paper.csv").open("w", newline="") as file:
        columns = dict.fromkeys(key for line in lines for key in line)
        writer = csv.DictWriter(file, list(columns), restval="")
        writer.writeheader()
        writer.writerows(lines)
    (folder / "claims.toml").write_text(rule)
    if rows is not None:
        write(folder / "rows.jsonl", rows)
    return folder
