"""On a GPU: one graph a step gives what steps one by one give, and a stop changes nothing."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from study.toy import Until

from whatwhere import tasks
from whatwhere.study.config import Config
from whatwhere.study.model import build_model
from whatwhere.study.stacked import Stacked
from whatwhere.study.step import Graphed, Step
from whatwhere.study.training import Training

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

PLAN = Config(
    task="indirect", width=256, layers=2, heads=4, activation="gelu", steps=24, batch_size=16,
    train_length=47, lr=1e-3, warmup=4, valid_points=3, device="cuda", precision="bfloat16",
)  # fmt: skip


def stepped(encoding: str, graph: bool, compiled: bool = False, count: int = 10) -> Step:
    plan, data = replace(PLAN, compile=compiled), tasks.draw("indirect")
    models = [build_model(plan, encoding, data.vocab_size, seed).cuda() for seed in (0, 1, 2)]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "sampling is not compiled")
        step = Step(Stacked(models).train(), data, plan, torch.arange(3, device="cuda"))
    one = Graphed(step, torch.device("cuda"))
    if not graph:
        one.side = None
    for _ in range(count):
        one()
    torch.cuda.synchronize()
    assert (one.graph is not None) == graph
    return step


@pytest.mark.parametrize("encoding", ["rope", "pope", "learned", "alibi(heads=0.5)"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_graph_is_its_steps(encoding: str, compiled: bool) -> None:
    plain, graphed = (stepped(encoding, graph, compiled) for graph in (False, True))
    assert torch.isfinite(plain.losses[:10]).all()
    assert int(graphed.number) == 10
    torch.testing.assert_close(graphed.losses[:10], plain.losses[:10], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("options", [{}, {"dropout": 0.1}, {"compile": True}], ids=str)
def test_a_stop_changes_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    plan, data = replace(PLAN, **options), tasks.draw("indirect")
    whole = Training(plan, data, "pope", (0, 1), tmp_path / "whole")
    whole.run(Until(), 1.0)
    broken = Training(plan, data, "pope", (0, 1), tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        broken.run(Until(9), 1.0)
    broken = Training(plan, data, "pope", (0, 1), tmp_path / "broken")
    broken.run(Until(), 1.0)
    assert [p["valid_nll"] for p in broken.curve] == [p["valid_nll"] for p in whole.curve]
    for one, other in zip(whole.models(), broken.models(), strict=True):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b)


def test_bfloat16_follows_float32(tmp_path: Path) -> None:
    half, full = Until(), Until()
    data = tasks.draw("indirect")
    Training(PLAN, data, "pope", (0, 1), tmp_path / "half").run(half, 1.0)
    plan = replace(PLAN, precision="float32")
    Training(plan, data, "pope", (0, 1), tmp_path / "full").run(full, 1.0)
    assert half.losses == pytest.approx(full.losses, rel=0.01)
