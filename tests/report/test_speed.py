"""Ratios of speed from rows: the anchor, what has none, the table and the figure."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from whatwhere.report import speed, speed_plot


def row(name: str, forward: float, backward: float, length: int = 4096, **more: Any) -> speed.Row:
    known = {
        "implementation": name, "head_dim": 64, "heads": 32, "kv_heads": 32, "length": length,
        "tokens": 32768, "forward_ms": forward, "backward_ms": backward, "peak_mib": 100.0,
        "device": "H200", "commit": "a",
    }  # fmt: skip
    return known | more


ROWS = [
    row("rope_cudnn", 1.0, 3.0),
    row("rope_compiled_cudnn", 1.0, 2.0),
    row("pope_fused", 1.5, 4.5, peak_mib=150.0),
    row("pope_fused", 9.0, 9.0, commit="b"),
    row("pope_fused", 8.0, 8.0, kv_heads=8),
    row("pope_fused", 1.0, 2.0, mask="window"),
    row("bare_own", 1.0, 2.0, features=128),
    row("rope_fa2", 0.0, 0.0) | {"error": "out of memory"},
    {"copy_gb_s": 4100},
]


def test_the_anchor_is_the_faster_rotation_of_the_same_run_and_case() -> None:
    found = {(s.row["commit"], s.row["kv_heads"], s.name): s for s in speed.speeds(ROWS[:5])}
    # The later row of a key counts, also from another commit, which has no anchor then.
    assert ("a", 32, "pope_fused") not in found
    assert found["b", 32, "pope_fused"].over() is None
    assert found["a", 8, "pope_fused"].over() is None
    (mine,) = [s for s in speed.speeds(ROWS[:3]) if s.name == "pope_fused"]
    assert mine.over() == pytest.approx(2.0)
    assert mine.over("forward") == pytest.approx(1.5)
    assert mine.over("backward") == pytest.approx(2.25)
    assert mine.over("memory") == pytest.approx(1.5)


def test_what_was_measured_long_ago_keeps_the_ratio_of_its_run() -> None:
    later = [row("rope_cudnn", 0.5, 1.5, commit="b"), row("pope_fused", 1.0, 2.0, commit="b")]
    rows = [*ROWS[:2], row("pope_package", 10.0, 20.0), *later]
    assert {s.name: s.over() for s in speed.speeds(rows) if s.name.startswith("pope")} == {
        "pope_package": pytest.approx(10.0), "pope_fused": pytest.approx(1.5),
    }  # fmt: skip
    lines = speed.markdown(rows, ["pope_fused", "pope_package"], [(64, 4096)]).splitlines()
    assert lines[2:] == [
        "| RoPE, cuDNN (1.00 is) | 2.00 ms |",
        "| PoPE, whatwhere | 1.50 |",
        f"| {speed.NAMES['pope_package']} | 10.00 |",
    ]


def test_rows_from_before_a_column_are_the_same_measurement() -> None:
    old, new = row("pope_fused", 1.0, 2.0), row("pope_fused", 3.0, 4.0)
    new = {**new, "study": "attention", "mask": "causal", "features": 0}
    assert speed.last([old, new]) == [new]
    failed = {**new, "error": "lost"}
    assert speed.last([old, failed]) == [old], "a number beats an error"


def test_the_table_shows_plain_cases_only() -> None:
    text = speed.markdown(
        ROWS[:3] + ROWS[4:], ["pope_fused", "pope_flex"], [(64, 4096), (64, 1024)]
    )
    assert text.splitlines() == [
        "| forward + backward | d 64, 4k | d 64, 1k |",
        "|---|--:|--:|",
        "| RoPE, cuDNN (1.00 is) | 3.00 ms | – |",
        "| PoPE, whatwhere | 2.00 | – |",
    ]


def test_the_terminal_shows_every_case_and_failures(capsys: pytest.CaptureFixture[str]) -> None:
    speed.render(ROWS, Console(width=80))
    shown = capsys.readouterr().out
    lines = [line.rstrip() for line in shown.splitlines()]
    assert {
        "head dim 64, length 4k", "head dim 64, length 4k, GQA 4:1",
        "head dim 64, length 4k, window", "attention alone, 128/64, length 4k",
        "failed: rope_fa2 at head dim 64, length 4k: out of memory",
    } <= set(lines)  # fmt: skip
    assert any(line.startswith("rope_compiled_cudnn ◂") for line in lines)


def test_a_torn_line_is_no_row_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[0]) + '\n{"torn')
    assert speed.read_speed(path) == [ROWS[0]]
    path.write_text("damaged\n" + json.dumps(ROWS[0]) + "\n")
    with pytest.raises(ValueError, match="line 1"):
        speed.read_speed(path)


def many() -> list[speed.Row]:
    names = (("rope_cudnn", 1.0), ("pope_fused", 1.5), ("rope_fa2", 1.4), ("pope_package", 50.0))
    return [
        row(name, n / 4096 * ratio, n / 2048 * ratio, n, head_dim=d)
        for name, ratio in names for d in (64, 128) for n in (1024, 4096, 16384)
    ]  # fmt: skip


def test_the_figure_is_drawn_and_says_what_it_drew(tmp_path: Path) -> None:
    paths = speed_plot.speed_figure(many(), tmp_path / "deep" / "speed")
    assert [path.name for path in paths] == ["speed.png", "speed.svg"]
    mark = speed_plot.digest(speed_plot.drawn(many()))
    for path in paths:
        assert mark.encode() in path.read_bytes()
    slower = [*many(), row("pope_fused", 9.0, 9.0)]
    assert speed_plot.digest(speed_plot.drawn(slower)) != mark
    assert speed_plot.digest(speed_plot.drawn(many()[::-1])) == mark
    assert speed_plot.speed_figure(ROWS, tmp_path / "few") == [], "two lengths are no curve"
