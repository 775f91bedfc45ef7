"""`whatwhere search` on a tiny model: objectives, stages, resuming, the result's two forms."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from whatwhere import hf
from whatwhere.extend import methods, models, searching
from whatwhere.extend.forward import Reader
from whatwhere.extend.models import Source
from whatwhere.extend.objective import Needles, Perplexity, needles, windows
from whatwhere.extend.search import Space

PLAN = searching.Search("tiny", 2.0, evaluations=24, samples=2, held_out=3)


def test_perplexity_is_the_mean_over_windows(source: Source, model: Any, ids: torch.Tensor) -> None:
    space = Space(16, 2.0, 128, 500.0)
    samples = windows(ids, 256, 3)
    objective = Perplexity(model, space, "cpu", 512, samples)
    candidate = space.closed_forms()["yarn"]
    with hf.use(model, f"rope+{space.spectrum(candidate)}"):
        expected = Reader(model).losses(samples).mean()
    assert objective(candidate) == pytest.approx(float(expected), abs=1e-5)
    by_window = objective.by_window(f"rope+{space.spectrum(candidate)}")
    assert sum(by_window) / 3 == pytest.approx(float(expected), abs=1e-5)
    assert objective(space.closed_forms()["pi"]) != pytest.approx(float(expected), abs=1e-3)


def test_needles_count_the_answers_tokens_only(
    source: Source, model: Any, ids: torch.Tensor
) -> None:
    samples = needles(ids, source.tokenizer, 200, 3, seed=0)
    objective = Needles(model, Space(16, 2.0, 128, 500.0), "cpu", 200, samples)
    with hf.use(model, "rope"):
        reader, total, count = Reader(model), 0.0, 0
        for row, n in zip(samples.rows, samples.counts, strict=True):
            total += float(reader.losses(row[None])[0, -n:].sum())
            count += n
    assert objective.of("rope") == pytest.approx(total / count, abs=1e-5)


@pytest.mark.parametrize("optimizer", searching.OPTIMIZERS)
def test_a_search_ends_with_both_forms(
    source: Source, model: Any, ids: torch.Tensor, tmp_path: Path, optimizer: str
) -> None:
    plan = replace(
        PLAN, optimizer=optimizer, objective="needle" if optimizer == "longrope2" else "perplexity"
    )
    result = searching.run(plan, source, [("cpu", model)], ids, tmp_path)
    assert result["evaluations"] <= plan.evaluations
    assert result["rope_parameters"]["rope_type"] == "longrope"
    assert len(result["rope_parameters"]["long_factor"]) == 8
    assert hf.to_rope_parameters(result["expression"], source.config) == result["rope_parameters"]
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert methods.make(str(tmp_path / "result.json"), 2.0, 128).expression == result["expression"]
    if optimizer != "longrope2":  # which minimises something else
        searched = result["searched"]
        own = searched.pop(f"longrope:{optimizer}")
        assert own <= min(searched[name] for name in ("pi", "ntk", "yarn")) + 1e-6


def test_a_killed_search_asks_only_what_was_not_answered(
    source: Source, model: Any, ids: torch.Tensor, tmp_path: Path
) -> None:
    whole = searching.run(PLAN, source, [("cpu", model)], ids, tmp_path / "whole")

    def kill(stage: str, done: int, best: float) -> None:
        # Which of two amplitudes is searched on depends on the model, and so on releases.
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        searching.run(PLAN, source, [("cpu", model)], ids, tmp_path / "cut", kill)
    calls: list[str] = []
    again = searching.run(
        PLAN, source, [("cpu", model)], ids, tmp_path / "cut", lambda s, d, b: calls.append(s)
    )
    assert again["expression"] == whole["expression"]
    assert len(calls) < whole["evaluations"]


def test_two_devices_share_the_work(source: Source, ids: torch.Tensor, tmp_path: Path) -> None:
    pairs = [("cpu", models.load(source)) for _ in range(2)]
    one = searching.run(PLAN, source, pairs[:1], ids, tmp_path / "one")
    two = searching.run(PLAN, source, pairs, ids, tmp_path / "two")
    assert one["expression"] == two["expression"]


def test_stages_recovery_and_first_positions(
    source: Source, model: Any, ids: torch.Tensor, tmp_path: Path
) -> None:
    plan = replace(PLAN, factor=4.0, through=(2.0,), evaluations=40, recover=True)
    result = searching.run(plan, source, [("cpu", model)], ids, tmp_path / "a")
    assert {p.name.split("-")[1].split(".")[0] for p in (tmp_path / "a/evaluations").iterdir()} == {
        "2", "4", "short",
    }  # fmt: skip
    parameters = result["rope_parameters"]
    assert parameters["short_factor"] != parameters["long_factor"]
    kept = searching.run(
        replace(PLAN, n_hat=True, amplitude="su", optimizer="paper"), source, [("cpu", model)], ids,
        tmp_path / "b",
    )  # fmt: skip
    if "n_hat" in kept["expression"]:
        assert kept["rope_parameters"] is None
        assert "n_hat" in kept["reason"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factor": 0.5}, "--factor is 0.5"),
        ({"optimizer": "smoth"}, "did you mean 'smooth'"),
        ({"objective": "nedle"}, "did you mean 'needle'"),
        ({"evaluations": 3}, "at least 16"),
        ({"through": (4.0,)}, "must ascend"),
    ],
)
def test_what_can_not_be_searched(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PLAN, **change)


def test_an_unknown_device() -> None:
    with pytest.raises(ValueError, match="--device cuda:99"):
        searching.devices("cpu,cuda:99")
