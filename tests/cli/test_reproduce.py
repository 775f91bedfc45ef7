"""reproduce: a study from its folder to rows and verdicts, stopped and gone on with."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from made_claims import RULE, claim, make
from study.made_study import LENGTH

from whatwhere.cli.board import Board

STUDY = """
from pathlib import Path
from study.made_study import indirect
from whatwhere.cli.reproduce import main
HERE = Path(__file__).parent
STUDY = indirect(HERE, steps=2, seeds=(0, 1))
if __name__ == "__main__":
    main(HERE)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study with one claim: rope beats pope, at two seeds."""
    line = claim("rope beats pope", at=LENGTH, kind="ranking", other="pope(delta_init=uniform)",
                 tolerance="0", runs="rope pope")  # fmt: skip
    made = make(tmp_path, [line], None, RULE.replace("seeds = 3", "seeds = 2"))
    (made / "study.py").write_text(STUDY)
    return made


def test_from_cells_to_verdicts(run, folder: Path, tmp_path: Path) -> None:
    plan = run("reproduce", str(folder), "--dry-run", "--device", "cpu")
    assert plan.code == 0
    assert [line.split()[:2] for line in plan.out.splitlines()[1:3]] == [
        ["rope", "0/2"], ["pope", "0/2"],
    ]  # fmt: skip
    assert "about 5 h on one GPU" in plan.out  # 2 seeds · (0.5 + 2) h
    assert not (folder / "rows.jsonl").exists()
    run("reproduce", str(folder), "--dry-run", "--out", str(tmp_path / "never"))
    assert not (tmp_path / "never").exists()
    late = run("reproduce", str(folder), "--device", "cpu", "--minutes", "1e-9")
    assert late.code == 3
    assert "the time is over; go on with" in late.err
    first = run("reproduce", str(folder), "--device", "cpu", "--only", "rope", "--seeds", "0")
    assert first.code == 0
    assert "1 not run" in first.out
    done = run("reproduce", str(folder), "--device", "cpu")
    assert done.code == 0
    assert "0 not run" not in done.out
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 12
    assert len({(r["run"], r["seed"], r["metric"], r.get("probe")) for r in rows}) == 12
    assert (tmp_path / "checkpoints").is_dir()  # beside the study's folder
    assert "2/2" in run("reproduce", str(folder), "--dry-run", "--device", "cpu").out
    elsewhere = tmp_path / "short"
    short = run("reproduce", str(folder), "--device", "cpu", "--share", "0.5", "--only", "rope",
                "--out", str(elsewhere))  # fmt: skip
    assert short.code == 0
    assert "rope@0.5" in (elsewhere / "rows.jsonl").read_text()
    assert "1 not run" in short.out  # a share of the steps is no seed of the claim


def test_a_plan_of_rows_from_a_gpu(run) -> None:
    """Read on a machine without one: the rows are the study's, not another configuration's."""
    studies = Path(__file__).parents[2] / "studies"
    plan = run("reproduce", str(studies / "pope_table_2"), "--dry-run")
    assert plan.code == 0
    assert [line.split()[:2] for line in plan.out.splitlines()[1:3]] == [
        ["jsb_rope", "5/5"], ["jsb_pope", "5/5"],
    ]  # fmt: skip
    other = run("reproduce", str(studies / "pope_table_2"), "--dry-run", "--device", "cpu")
    assert other.code == 2
    assert "precision was 'bfloat16' and is now 'float32'" in other.err
    small = ("--device", "cpu", "--pieces", "16", "--only", "asap_rope", "--dry-run")
    assert run("reproduce", str(studies / "pope_table_2"), *small).code == 0  # has no rows yet


def test_a_process_a_device(run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{root}{os.pathsep}{root / 'tests'}")
    done = run("reproduce", str(folder), "--device", "cpu,cpu", "--only", "rope")
    assert done.code == 0
    assert "cpu:0: rope, seed 0,1: done in" in done.err
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert len({(r["run"], r["seed"], r["metric"], r.get("probe")) for r in rows}) == 6
    assert not (folder / ".devices").exists()


def test_the_time_left_is_that_of_trainings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of the steps took 40 s and the evaluations an hour: 40 s of training are left."""
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    board = Board()
    board.begin(10.0, 0.0)
    board.train("rope, seed 0", 0, 0, 5)
    for step in range(1, 6):
        clock[0] += 8.0
        board.step(step, 1.0, 1.0)
    board.trained("rope, seed 0", 0, 40.0, None)
    for _ in range(4):
        board.evaluate("rope scores", 0, 16)
        clock[0] += 900.0
        board.evaluated({}, 0.0)
    clock[0] += 100.0
    board.train("pope, seed 0", 0, 0, 5)
    clock[0] += 8.0
    board.step(1, 1.0, 1.0)
    board.close()
    told = [line for line in capsys.readouterr().err.splitlines() if "left" in line]
    assert [line.partition("  (")[0] for line in told] == [
        "40% done, about 48 s of training left",
        *["50% done, about 40 s of training left"] * 4,
        "60% done, about 32 s of training left",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "rop"), "unknown cell of made 'rop'; did you mean 'rope'"),
        (("--only", " ,"), "--only is ' ,', which names no cell"),
        (("--seeds", "one"), "--seeds is 'one'; write 0-7"),
        (("--device", "cuda:0,gpu"), "write cpu, cuda, or several by comma: cuda:0,cuda:1"),
        (("--seeds", "5"), "seed 5 is none of these cells'"),
        (("--device", "cpu,cpu", "--seeds", "5"), "seed 5 is none of these cells'"),
        (("--device", "cpu,cuda:99"), "--device cuda:99 can not be used"),
        (("--data", "jbs=x"), "did you mean 'jsb'"),
        (("--data", "jsb"), "--data is 'jsb'; write NAME=FILE"),
        (("--share", "2"), "share is 2.0"),
        (("--minutes", "0"), "--minutes is 0.0"),
    ],
)
def test_bad_input_is_one_line(run, folder: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run("reproduce", str(folder), "--device", "cpu", *arguments)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert not (folder / "rows.jsonl").exists()


def test_folders_that_hold_no_study(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("reproduce", str(tmp_path))
    assert (done.code, "there is no such study" in done.err) == (2, True)
    monkeypatch.chdir(tmp_path)
    assert "which no installed package holds" in run("reproduce", "pope_table_1").err
    (tmp_path / "studies/pope_table_1").mkdir(parents=True)
    (tmp_path / "studies/pope_table_1/study.py").write_text("x = 1\n")
    assert "did you mean 'studies/pope_table_1'?" in run("reproduce", "pope_tabel_1").err
    (tmp_path / "study.py").write_text("x = 1\n")
    done = run("reproduce", str(tmp_path))
    assert (done.code, "defines no STUDY" in done.err) == (2, True)


def test_cells_without_data_are_named(run, tmp_path: Path) -> None:
    (tmp_path / "study.py").write_text(
        "from pathlib import Path\nfrom study.made_study import streams\n"
        "STUDY = streams(Path(__file__).parent)\n"
    )
    done = run("reproduce", str(tmp_path), "--device", "cpu")
    assert done.code == 2
    assert "left out without --data grch37_x=FILE" in done.err
    assert "no cell of made has its data" in done.err
