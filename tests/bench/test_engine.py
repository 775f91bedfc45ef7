"""The engine's benchmark runs whole steps and counts them by seeds."""

from __future__ import annotations

from dataclasses import replace

from whatwhere.bench.engine import PAPER, EngineCase, rows
from whatwhere.study.config import Config
from whatwhere.tasks import draw


def test_a_row_an_encoding_and_number_of_seeds() -> None:
    small = Config(task="indirect", width=16, layers=1, heads=2, batch_size=2, train_length=47)
    case = EngineCase(small, seeds=(1, 2), rounds=3, steps=2)
    found = list(rows(case))
    assert [(row["encoding"], row["seeds"]) for row in found] == [
        ("rope", 1), ("rope", 2), ("pope", 1), ("pope", 2),
    ]  # fmt: skip
    for row in found:
        assert row["tokens"] == row["seeds"] * 2 * draw("indirect").length
        pace = row["seeds"] / row["step_ms"] * 1e3
        assert abs(row["seed_steps_per_s"] / pace - 1) < 0.01
        assert row["fastest_ms"] <= row["step_ms"] <= row["slowest_ms"]
        assert len(row["losses"]) == 5


def test_the_papers_case_fits_its_task() -> None:
    assert PAPER.config.train_length == draw("indirect").length
    assert replace(PAPER, seeds=(4,)).config.precision == "bfloat16"
