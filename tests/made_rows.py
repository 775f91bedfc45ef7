"""Made-up rows in the shape of real ones, for tests only."""

import json
from pathlib import Path
from typing import Any

LENGTHS = (128, 256, 512)


def row(encoding: str, length: int, value: float | None, seed: int = 0, **more: Any) -> dict:
    """One row; without a value it needs error=..."""
    made = {
        "study": "compare",
        "encoding": encoding,
        "trained_as": encoding.partition("+")[0],
        "options": {
            "width": 96,
            "heads": 4,
            "factor": length / 128,
            "encoding": {"name": encoding},
        },
        "train_length": 128,
        "eval_length": length,
        "mode": "one_pass",
        "task": "chorales",
        "unit": "note",
        "metric": "nll",
        "n": 4096,
        "seed": seed,
        "steps": 400,
        "commit": "c0ffee",
        "versions": {"python": "3.11", "torch": "2.13.0"},
        "device": "a test",
        "seconds": 2.0,
        "train_seconds": 30.0,
    }
    made |= more
    return made if value is None else made | {"value": value}


def rows(seeds: int = 1) -> list[dict]:
    """rope rises, rope+yarn less, pope stays; learned fails beyond its table."""
    made = []
    for seed in range(seeds):
        for step, length in enumerate(LENGTHS):
            made += [
                row("rope", length, 0.70 + 0.5 * step + 0.01 * seed, seed),
                row("rope+yarn", length, 0.71 + 0.1 * step + 0.01 * seed, seed),
                row("pope", length, 0.69 + 0.02 * step + 0.01 * seed, seed),
            ]
            failed = {"error": "position 255 is outside the table"} if step else {}
            made.append(row("learned", length, None if step else 0.8, seed, **failed))
    return made


def write(path: Path, made: list[dict], tail: str = "") -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in made) + tail)
    return path
