"""The gate of the benchmark: sound attention passes at every case, a wrong one gets an error."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from whatwhere.attention import attend
from whatwhere.bench import attention, setting, truth
from whatwhere.bench.cases import Case, Job
from whatwhere.bench.implementations import TABLE, Implementation
from whatwhere.bench.setting import Setup

CASES = [
    Case(64, 192, tokens=384),
    Case(64, 192, grouped=4, tokens=192),
    Case(128, 192, mask="documents", tokens=192),
    Case(64, 192, mask="window", tokens=192),
    Case(96, 192, tokens=192),
]


@pytest.fixture(autouse=True)
def _on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are made up; everything else is as on a GPU, in float32."""
    monkeypatch.setattr(setting, "DTYPE", torch.float32)
    monkeypatch.setattr(setting, "DEVICE", "cpu")
    monkeypatch.setattr(setting, "WINDOW", 70)
    monkeypatch.setattr(attention, "milliseconds", lambda run, before=None: 2.0)
    monkeypatch.setattr(attention, "peak_mib", lambda run: run() and 3.0)


def run_case(
    monkeypatch: pytest.MonkeyPatch, encoding: str, case: Case,
    build: Callable[[Setup], Callable[[Tensor, Tensor, Tensor], Tensor]],
) -> dict[str, Any]:  # fmt: skip
    monkeypatch.setitem(TABLE, "tried", Implementation(encoding, build))
    return attention.measured(Job("tried", case, 1.0))


def sound(s: Setup) -> Any:
    return lambda q, k, v: attend(q, k, v, s.rule(), where=s.where, scale=s.scale, backend="sdpa")


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("encoding", ["rope", "pope", "alibi"])
def test_sound_attention_passes(monkeypatch: pytest.MonkeyPatch, encoding: str, case: Case) -> None:
    row = run_case(monkeypatch, encoding, case, sound)
    assert "error" not in row, row["error"]
    names = {"output", "dq", "dk", "dv"} | ({"d_delta"} if encoding == "pope" else set())
    assert set(row["error_of"]) == names
    assert max(row["error_of"].values()) < 1e-5
    assert (row["forward_ms"], row["backward_ms"], row["peak_mib"]) == (2.0, 2.0, 3.0)
    assert (row["mask"], row["heads"] // row["kv_heads"]) == (case.mask, case.grouped)


def wrong(kind: str) -> Any:
    def build(s: Setup) -> Any:
        right = sound(s)

        def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if kind == "no gradient of keys":
                return right(q, k.detach() + 0 * k, v)
            if kind == "shifted":
                return right(q, k.roll(1, dims=2), v)
            if kind == "unscaled":
                return right(q * 1.1, k, v)
            out = right(q, k, v)
            if kind == "a tile of NaN":
                return torch.where(torch.arange(out.shape[2])[:, None] < 5, torch.nan, out)
            return torch.where(torch.arange(out.shape[2])[:, None] < 5, 0.0, out)

        return run

    return build


KINDS = ("no gradient of keys", "shifted", "unscaled", "a tile of NaN", "a tile of zeros")


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_attention_gets_no_time(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    row = run_case(monkeypatch, "rope", CASES[0], wrong(kind))
    assert "disagrees with float64" in row["error"]
    assert "forward_ms" not in row
    assert "error_of" not in row


def test_a_failure_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(s: Setup) -> Any:
        raise RuntimeError("no such kernel")

    row = run_case(monkeypatch, "rope", CASES[0], refuses)
    assert row["error"] == "RuntimeError: no such kernel"


def test_attention_alone_has_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(64, 192, features=128, tokens=192)
    row = run_case(monkeypatch, "nope", case, sound)
    assert "error" not in row, row["error"]
    # 32 heads, 192² pairs halved, 2 flops, widths 128 + 64, in 2 ms.
    assert row["forward_tflops"] == round(32 * 192**2 * (128 + 64) / 2e-3 * 1e-12, 1)


def test_atomics_are_forced_inside_only(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = pytest.importorskip("whatwhere.kernels.attention", reason="triton is not installed")
    before, seen = kernels.FAST, []

    def build(s: Setup) -> Any:
        seen.append(("tiled", "a GPU of tomorrow", 64, 64) in kernels.FAST)
        return sound(s)

    for fast in (True, False):
        monkeypatch.setitem(TABLE, "tried", Implementation("rope", build, fast=fast))
        assert "error" not in attention.measured(Job("tried", CASES[0], 1.0))
    assert seen == [True, False]
    assert kernels.FAST is before


@pytest.mark.parametrize("length", [1, 4096, 4097, 65536])
def test_every_block_of_queries_is_checked(length: int) -> None:
    rows = truth.queries(length, "cpu")
    assert rows.min() == 0
    assert rows.max() == length - 1
    assert torch.equal(rows, rows.unique())
    assert set((rows // 128).tolist()) == set(range(-(-length // 128)))
