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
from whatwhere.study import shared
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


ODD = 5001
"""A vocabulary whose 16-bit rows begin at odd multiples of 2 bytes, as GPT-2's 50,257."""


def language_losses(encoding: str, compiled: bool) -> torch.Tensor:
    """Losses of a language model of one seed: the batch in pieces, whole sequences of 256."""
    plan = replace(PLAN, compile=compiled, train_length=256, batch_size=8, accumulate=2)
    tokens = torch.randint(ODD, (20_000,), generator=torch.Generator().manual_seed(0)) ** 2 % ODD
    made = tasks.Task("squares", ODD, tokens, tokens[:1000], tokens[:1000], "token", "squares")
    data, place = tasks.Windows(made, plan.train_length), torch.device("cuda")
    step = Step(
        Stacked([build_model(plan, encoding, ODD, 0).to(place)]).train(), data, plan,
        torch.zeros(1, dtype=torch.int64, device=place),
    )  # fmt: skip
    one = Graphed(step, place)
    if not compiled:
        one.side = None
    for _ in range(6):
        one()
    return step.losses[:6].cpu()


@pytest.mark.parametrize("encoding", ["rope", "pope(delta_init=uniform)"])
def test_a_language_model_of_one_seed(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled, captured and with its head's columns padded, it is what it is as written."""
    found = language_losses(encoding, True)
    monkeypatch.setattr(shared, "LARGE", ODD + 1)
    plain = language_losses(encoding, False)
    assert plain[-1] < plain[0]
    torch.testing.assert_close(found, plain, rtol=2e-3, atol=2e-3)


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
