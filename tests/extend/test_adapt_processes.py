"""One training by two processes: the same losses as by one, stopped together, gone on by one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

STEPS, BATCH = 10, 3  # of three windows one process takes two, the other one


def words(folder: Path, out: Path) -> list[str]:
    return [
        "adapt", str(folder), "--method", "yarn", "--to", "2x", "--steps", str(STEPS),
        "--batch-size", str(BATCH), "--warmup", "1", "--rank", "2", "--cpu", "--out", str(out),
    ]  # fmt: skip


def alone(folder: Path, out: Path) -> None:
    from whatwhere.cli import main

    with pytest.raises(SystemExit) as end:
        main(words(folder, out))
    assert not end.value.code


def losses(out: Path) -> dict[tuple[str, int, int], float]:
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    found = {(row["role"], row["step"], row["eval_length"]): row["value"] for row in rows}
    assert len(found) == len(rows)  # nothing twice, whoever wrote it
    return found


def test_two_processes_train_as_one_and_one_goes_on_where_two_were_stopped(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    both = subprocess.Popen(
        [*launch, "-m", "whatwhere.cli", *words(folder, tmp_path / "two")], text=True,
        env=os.environ | own | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    alone(folder, tmp_path / "one")
    told = ""
    assert both.stdout is not None
    for line in both.stdout:
        told += line
        if f"step     1/{STEPS}" in line:
            both.send_signal(signal.SIGINT)  # the launcher sends SIGINT and SIGTERM to each
    both.wait()
    assert told.count(f"step     1/{STEPS}") == 1, told  # one of them speaks
    assert told.count("interrupted; go on with") == 1, told
    stopped = max(step for _, step, _ in losses(tmp_path / "two"))
    assert 1 <= stopped < STEPS
    capsys.readouterr()
    alone(folder, tmp_path / "two")
    assert "going on at step" in capsys.readouterr().err
    expected, found = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert found == pytest.approx(expected, abs=1e-5)
    rows = [json.loads(x) for x in (tmp_path / "two" / "rows.jsonl").read_text().splitlines()]
    assert {row["processes"] for row in rows} == {1, 2}
