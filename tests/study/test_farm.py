"""A study on several devices: what one process a device gives is what one process gives."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from study.made_study import BOTH, config, genome_file, indirect, streams

from whatwhere.cli.farming import named_devices
from whatwhere.study.cells import Study
from whatwhere.study.data import Library
from whatwhere.study.farm import Child, Job, farm
from whatwhere.study.ledger import key_of
from whatwhere.study.observer import Observer
from whatwhere.study.reproduce import open_ledger, reproduce


class Stops(Observer):
    """Asks to stop at the n-th look."""

    def __init__(self, looks: int = 10**9) -> None:
        self.looks = looks

    def stop(self) -> bool:
        self.looks -= 1
        return self.looks < 0


class Made:
    """A process that does its job at its n-th look, in this process."""

    def __init__(self, work: Callable[[], int], looks: int) -> None:
        self.work, self.looks = work, looks
        self.returncode: int | None = None

    def poll(self) -> int | None:
        self.looks -= 1
        if self.looks <= 0 and self.returncode is None:
            self.returncode = self.work()
        return self.returncode

    def send_signal(self, sig: int, /) -> None:
        if self.returncode is None:
            self.returncode = 130

    def wait(self) -> int | None:
        return self.returncode


class Started:
    """Starts such processes, and remembers which jobs ran beside which."""

    def __init__(self, study: Any, library: Library, place: Path, looks: dict[str, int]) -> None:
        self.study, self.library, self.place, self.looks = study, library, place, looks
        self.order: list[str] = []
        self.code: dict[str, int] = {}
        self.retry = False

    def __call__(self, job: Job, device: str, folder: Path, log: Path) -> Child:
        log.write_text("0% done\nthe last line\n")

        def work() -> int:
            self.order.append(f"end {job}")
            if job.cell.name in self.code:
                return self.code[job.cell.name]
            with open_ledger(self.study, folder, self.retry) as ledger:
                reproduce(self.study, ledger, self.library, self.place,
                          only=[job.cell.name], seeds=job.seeds)  # fmt: skip
            return 0

        self.order.append(f"{device} {job}")
        return Made(work, self.looks.get(job.cell.name, 1))


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whatwhere.study.farm.LOOK", 0.0)


def plain(folder: Path) -> list[dict[str, Any]]:
    """Rows without what differs from run to run, in an order of their own."""
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    other = ("seconds", "train_seconds", "commit", "time")
    kept = [{k: v for k, v in row.items() if k not in other} for row in rows]
    return sorted(kept, key=lambda row: json.dumps(row, sort_keys=True))


def test_the_rows_are_those_of_one_process(tmp_path: Path) -> None:
    study, library = indirect(tmp_path, steps=2), Library({})
    with open_ledger(study, tmp_path / "one") as ledger:
        reproduce(study, ledger, library, tmp_path / "a")
    started, said = Started(study, library, tmp_path / "b", {"rope": 3}), list[str]()
    with open_ledger(study, tmp_path / "two") as ledger:
        broken = farm(study, ledger, library, ("x:0", "x:1"), started, Observer(), said.append)
    assert broken == []
    assert plain(tmp_path / "two") == plain(tmp_path / "one")
    curves = [(tmp_path / each / "curves.csv").read_text().splitlines() for each in ("one", "two")]
    assert sorted(curves[0]) == sorted(curves[1])
    assert started.order[:2] == ["x:0 rope, seed 0,1", "x:1 rope, seed 2"]
    assert started.order[2] == "end rope, seed 0,1"
    assert not (tmp_path / "two" / ".devices").exists()
    assert said[:2] == ["x:0: rope, seed 0,1", "x:1: rope, seed 2"]
    with open_ledger(study, tmp_path / "two") as ledger:  # and nothing is done twice
        farm(study, ledger, library, ("x:0",), started, Observer(), said.append)
    assert len(started.order) == 8


def test_a_start_is_waited_for(tmp_path: Path) -> None:
    library, study = Library({"grch37_x": genome_file(tmp_path)}), streams(tmp_path)
    started = Started(study, library, tmp_path / "place", {"x_rope": 4})
    with open_ledger(study, tmp_path / "out") as ledger:
        farm(study, ledger, library, ("x:0", "x:1", "x:2"), started, Observer(), lambda _: None)
    for seed in (0, 1):
        of_seed = [each for each in started.order if each.endswith(f"seed {seed}")]
        names = [each.split()[-3].rstrip(",") for each in of_seed]
        assert names[:3] == ["x_rope", "x_rope", "x_yarn"]  # begun, ended, begun


def test_what_breaks_is_said_and_the_others_go_on(tmp_path: Path) -> None:
    study, library = indirect(tmp_path, steps=1, seeds=(0, 1)), Library({})
    started = Started(study, library, tmp_path / "place", {})
    started.code["rope"] = -9
    with open_ledger(study, tmp_path / "out") as ledger:
        broken = farm(study, ledger, library, ("x:0",), started, Observer(), lambda _: None)
        assert {row["run"] for row in ledger.done.values()} == {"pope"}
    (sentence,) = broken
    assert sentence.startswith("rope, seed 0,1 broke on x:0 (exit code -9): the last line; all")
    assert (tmp_path / "out" / ".devices" / "rope-0_1" / "log").exists()
    started.code.clear()
    with open_ledger(study, tmp_path / "out") as ledger:
        farm(study, ledger, library, ("x:0",), started, Observer(), lambda _: None)
        assert {row["run"] for row in ledger.done.values()} == {"rope", "pope"}


@pytest.mark.parametrize("code", [0, 1])
def test_no_job_is_done_that_left_no_rows(tmp_path: Path, code: int) -> None:
    """A traceback ends with exit code 1, which also says that some seeds failed."""
    study, library = indirect(tmp_path, steps=1, seeds=(0, 1)), Library({})
    started, said = Started(study, library, tmp_path / "place", {}), list[str]()
    started.code["rope"] = code
    with open_ledger(study, tmp_path / "out") as ledger:
        broken = farm(study, ledger, library, ("x:0",), started, Observer(), said.append)
        assert {row["run"] for row in ledger.done.values()} == {"pope"}
    assert broken == [line for line in said if f"broke on x:0 (exit code {code})" in line]
    assert len(broken) == 1
    assert (tmp_path / "out" / ".devices" / "rope-0_1" / "log").exists()


def test_what_failed_is_measured_again(tmp_path: Path) -> None:
    """Neither the rows with errors nor those that a kill left keep the new ones out."""
    study, library = indirect(tmp_path, steps=1, seeds=(0, 1)), Library({})
    out, left = tmp_path / "out", tmp_path / "out" / ".devices" / "rope-0_1"
    with open_ledger(study, out) as ledger:
        reproduce(study, ledger, library, tmp_path / "a")
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    failed = [{k: v for k, v in row.items() if k != "value"} | {"error": "broke"} for row in rows]
    (out / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in failed))
    left.mkdir(parents=True)
    shutil.copy(out / "rows.jsonl", left)
    started = Started(study, library, tmp_path / "b", {})
    started.retry = True
    with open_ledger(study, out, retry=True) as ledger:
        farm(study, ledger, library, ("x:0",), started, Observer(), lambda _: None)
        assert len(ledger.done) == len(rows)
    with open_ledger(study, out) as ledger:
        found = {key: row.get("value", row.get("error")) for key, row in ledger.done.items()}
    assert found == {key_of(row): row["value"] for row in rows}
    assert len((out / "rows.jsonl").read_text().splitlines()) == 2 * len(rows)


def test_a_stop_collects_what_there_is(tmp_path: Path) -> None:
    study, library = indirect(tmp_path, steps=1, seeds=(0, 1)), Library({})
    started = Started(study, library, tmp_path / "place", {"pope": 100})
    with open_ledger(study, tmp_path / "out") as ledger, pytest.raises(KeyboardInterrupt):
        farm(study, ledger, library, ("x:0", "x:1"), started, Stops(5), lambda _: None)
    assert {row["run"] for row in plain(tmp_path / "out")} == {"rope"}


def test_rows_of_a_run_that_was_killed_are_kept(tmp_path: Path) -> None:
    study, library = indirect(tmp_path, steps=1, seeds=(0, 1)), Library({})
    with open_ledger(study, tmp_path / "one") as ledger:
        reproduce(study, ledger, library, tmp_path / "a")
    left = tmp_path / "out" / ".devices" / "rope-0_1"
    shutil.copytree(tmp_path / "one", left)
    with (left / "rows.jsonl").open("a") as file:
        file.write('{"run": "ro')  # torn
    started = Started(study, library, tmp_path / "b", {})
    with open_ledger(study, tmp_path / "out") as ledger:
        farm(study, ledger, library, ("x:0",), started, Observer(), lambda _: None)
    assert started.order == []
    assert plain(tmp_path / "out") == plain(tmp_path / "one")


def test_it_refuses_what_one_process_refuses(tmp_path: Path) -> None:
    study, read = indirect(tmp_path), streams(tmp_path)
    rope = study.cells[0]
    cases: list[tuple[Study, dict[str, str], dict[str, Any]]] = [
        (study, {}, {"only": ("rop",)}),
        (study, {}, {"seeds": (99,)}),
        (study, {}, {"seeds": (0, 99)}),
        (study, {}, {"only": ("rope",), "seeds": (3,)}),
        (read, {}, {}),
        (read, {"grch37_x": "/no/such"}, {}),
        (replace(study, cells=(replace(rope, encoding="rop"),)), {}, {}),
        (replace(study, cells=(replace(rope, config=config(train_length=9)),)), {}, {}),
        (replace(study, cells=(replace(rope, evaluations=(BOTH, BOTH)),)), {}, {}),
    ]
    for asked_of, files, options in cases:
        library, said = Library(files), list[str]()
        started = Started(asked_of, library, tmp_path / "place", {})
        with open_ledger(asked_of, tmp_path / "out") as ledger:
            with pytest.raises((ValueError, FileNotFoundError)) as one:
                reproduce(asked_of, ledger, library, tmp_path / "place", **options)
            with pytest.raises(one.type, match=f"^{re.escape(str(one.value))}$"):
                farm(asked_of, ledger, library, ("x:0",), started, Observer(), said.append,
                     **options)  # fmt: skip
        assert (started.order, said) == ([], [])
    assert not (tmp_path / "out" / "rows.jsonl").exists()


def test_devices_by_name() -> None:
    assert named_devices("cuda") == named_devices("cpu") == ()
    assert named_devices("cuda:0, cuda:3") == ("cuda:0", "cuda:3")
    assert named_devices("cpu,cpu") == ("cpu:0", "cpu:1")
    for text in ("cuda,cuda", "gpu:0", "cuda:x", "cuda:0,"):
        with pytest.raises(ValueError, match="write cpu, cuda, or several by comma: cuda:0,cuda:1"):
            named_devices(text)
