"""The plan as data, and the file of rows: what is there is not measured again."""

import itertools
import json
from pathlib import Path

import pytest

from whatwhere.bench import attention, ledger
from whatwhere.bench.cases import HEAD_DIMS, LENGTHS, PLAN, Case, Job, jobs
from whatwhere.bench.implementations import ANCHORS, TABLE
from whatwhere.bench.ledger import Ledger
from whatwhere.errors import UnknownName
from whatwhere.report import speed


def test_every_line_of_the_plan_is_known() -> None:
    assert {name for line in PLAN for name in line.names} <= set(TABLE)
    assert set(TABLE) <= set(speed.NAMES)
    assert speed.ANCHORS == ANCHORS


def test_no_row_is_planned_twice_and_the_issue_is_covered() -> None:
    keys = [json.dumps(attention.key(job), sort_keys=True) for job in jobs()]
    assert len(set(keys)) == len(keys)
    there = {(job.name, job.case.head_dim, job.case.length, job.case.grouped)
             for job in jobs() if job.case.mask == "causal" and not job.case.features}  # fmt: skip
    compared = ("rope_cudnn", "rope_compiled_cudnn", "rope_fa2", "rope_flex", "rope_fused",
                "pope_expand_cudnn", "pope_flex", "pope_fused", "pope_own")  # fmt: skip
    wanted = set(itertools.product(compared, (64, 128), LENGTHS, (1, 4)))
    wanted |= set(itertools.product(("pope_package",), (64, 128), LENGTHS, (1,)))
    assert wanted - there == set()
    assert {case.head_dim for line in PLAN for case in line.cases} == set(HEAD_DIMS)


def test_the_plan_is_narrowed() -> None:
    chosen = jobs(("pope_fused",), (4096,), (64,))
    assert {(job.name, job.case.length, job.case.head_dim) for job in chosen} == {
        ("pope_fused", 4096, 64)
    }
    for arguments in ((("pope_fusd",),), ((), (5000,)), ((), (), (65,))):
        with pytest.raises(UnknownName):
            jobs(*arguments)


def test_constant_work() -> None:
    for line in PLAN:
        for case in line.cases:
            assert case.heads % 4 == 0
            assert abs(case.heads * case.head_dim - 2048) <= 128
            assert case.batch * case.length == max(32768, case.length)


def job(length: int = 4096) -> Job:
    return Job("pope_fused", Case(64, length), 1.0)


def test_what_this_commit_measured_here_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMMIT", "abc1234")
    path = tmp_path / "deep" / "rows.jsonl"
    first = Ledger(path)
    assert attention.missing([job()], first) == [job()]
    first.add(attention.key(job()) | {"forward_ms": 1.0, "backward_ms": 2.0})
    first.add(attention.key(job(1024)) | {"error": "out of memory"})
    path.write_bytes(path.read_bytes() + b'{"torn": ')

    again = Ledger(path)
    assert [each.case.length for each in attention.missing([job(), job(1024)], again)] == [1024]
    assert len(path.read_text().splitlines()) == 2, "the torn line is cut off"
    assert again.rows[0]["commit"] == "abc1234"
    monkeypatch.setenv("COMMIT", "other")
    assert len(attention.missing([job()], Ledger(path))) == 1


def test_a_budget_leaves_out_what_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "measured", attention.key)
    plan = [job(), Job("pope_package", Case(64, 4096), 85.0), job(1024)]
    done = attention.run(plan, Ledger(tmp_path / "rows.jsonl"), budget=20.0)
    assert [(each.name, each.case.length) for each, _ in done] == [
        ("pope_fused", 4096), ("pope_fused", 1024),
    ]  # fmt: skip


def test_a_changed_file_is_another_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMMIT", raising=False)
    monkeypatch.setattr(ledger, "commit", lambda: "0" * 40)
    assert ledger.provenance()["commit"] == "0" * 40
    for name in ("0" * 40 + "+", "0.1.0"):
        monkeypatch.setattr(ledger, "commit", lambda name=name: name)
        base, _, sources = ledger.provenance()["commit"].partition("+")
        assert name.startswith(base)
        assert len(sources) == 8
