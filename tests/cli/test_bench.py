"""bench: the plan anywhere, a plain refusal without a GPU, rows that a second run goes on from."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def test_the_plan_needs_no_gpu(run) -> None:
    done = run("bench", "attention", "--dry-run", "--budget", "100")
    assert done.code == 0
    assert "pope_fused" in done.out
    assert "rows, about" in done.out.splitlines()[-1]
    assert "over the budget" in done.out
    few = run("bench", "attention", "--dry-run", "--only", "rope_cudnn", "--lengths", "4k",
              "--head-dims", "64")  # fmt: skip
    assert len(few.out.splitlines()) == 4, few.out  # header, plain, GQA 4:1, sum


@no_gpu
@pytest.mark.parametrize("command", ["attention", "model", "prep", "decode"])
def test_without_a_gpu_it_says_so(run, command: str) -> None:
    done = run("bench", command)
    assert done.code == 2
    assert done.err.startswith("whatwhere: bench measures on a CUDA GPU, and this machine has none")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--only", "rope_cudn"), "did you mean 'rope_cudnn'?"),
        (("--lengths", "4k,long"), "'long' is no number"),
        (("--lengths", "5000"), "unknown length '5000'"),
        (("--head-dims", "65"), "unknown head dim '65'"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(run, arguments, reason: str) -> None:
    done = run("bench", "attention", *arguments)
    assert done.code == 2
    assert reason in done.err


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A GPU that answers at once; the names of what it measured."""
    from whatwhere.bench import attention

    asked: list[str] = []

    def measured(job: Any) -> dict[str, Any]:
        asked.append(job.name)
        if job.name == "pope_fused" and asked.count("pope_fused") == 1:
            return attention.key(job) | {"error": "RuntimeError: first time", "seconds": 0.1}
        times = {"forward_ms": 1.0, "backward_ms": 2.0, "peak_mib": 10.0, "seconds": 0.1}
        return attention.key(job) | times

    monkeypatch.setattr(attention, "measured", measured)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA X 1")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 92000)  # it looks at the devices
    monkeypatch.setenv("COMMIT", "abc")
    return asked


def test_a_second_run_measures_what_is_missing(run, made_up: list[str], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    words = ("bench", "attention", "--only", "rope_cudnn,pope_fused", "--lengths", "4k",
             "--head-dims", "64", "--out", str(path))  # fmt: skip
    first = run(*words)
    assert first.code == 1, "one failed"
    assert "first time" in first.err
    assert made_up == ["rope_cudnn", "pope_fused"] * 2  # ungrouped, then GQA 4:1
    again = run(*words, "--json")
    assert again.code == 0
    assert made_up[4:] == ["pope_fused"]
    assert "3 of 4 rows are there already" in again.err
    rows = json.loads(again.out)
    assert [row["implementation"] for row in rows].count("pope_fused") == 2
    assert {row["device"] for row in rows} == {"NVIDIA X 1"}
    assert not any("error" in row for row in rows)
    assert run(*words).code == 0
    assert len(path.read_text().splitlines()) == 5
