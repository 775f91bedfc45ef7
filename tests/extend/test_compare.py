"""Measurements on a tiny model: against loops, against transformers, killed and gone on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from whatwhere import hf
from whatwhere.extend import measure, retrieval
from whatwhere.extend.compare import compare, plan_of
from whatwhere.extend.forward import Reader, agrees
from whatwhere.extend.models import Source
from whatwhere.extend.plan import Plan
from whatwhere.extend.results import open_results

PLAN = Plan(
    "tiny", (256, 512), ("none", "yarn", "dynamic_ntk", "rerope"), tokens=1024, keys=1,
    depths=(0.0, 1.0), copies=2, batch_tokens=256,
)  # fmt: skip


def run(
    plan: Plan, source: Source, model: Any, ids: torch.Tensor, out: Path, **options: Any
) -> Any:
    return compare(plan, source, model, ids, open_results(out, plan.identity()), **options)


def naive_losses(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """-ln p by the model's own forward pass, a loop over positions."""
    with torch.no_grad():
        logits = model(ids).logits.double().log_softmax(-1)
    return torch.tensor(
        [[-logits[b, i, ids[b, i + 1]] for i in range(ids.shape[1] - 1)] for b in range(len(ids))]
    )


@pytest.mark.parametrize("expression", ["rope", "rope+yarn(factor=4)", "rope+rerope", "rope+logn"])
@pytest.mark.parametrize("pieces", [None, 37])
def test_losses_are_the_models_own(
    model: Any, ids: torch.Tensor, expression: str, pieces: int | None
) -> None:
    rows = ids[:400].view(2, 200)
    with hf.use(model, expression):
        found = Reader(model, pieces).losses(rows)
        torch.testing.assert_close(found.double(), naive_losses(model, rows), atol=2e-5, rtol=2e-5)


def test_pieces_differ_where_frequencies_follow_the_length(model: Any, ids: torch.Tensor) -> None:
    with hf.use(model, "rope+dynamic_ntk"):
        whole = Reader(model).losses(ids[None, :257])
        streamed = Reader(model, 32).losses(ids[None, :257])
    assert float((whole - streamed).abs().max()) > 1e-3


def test_the_head_called_apart_is_the_models_head(model: Any, ids: torch.Tensor) -> None:
    assert agrees(Reader(model), ids[None, :50])
    reader = Reader(model)
    reader._multiplied = 1.1  # what a forgotten logit scale would be
    assert not agrees(reader, ids[None, :50])


def test_perplexity_is_that_of_windows(
    source: Source, model: Any, ids: torch.Tensor, tmp_path: Path
) -> None:
    rows = run(replace(PLAN, methods=("none",)), source, model, ids, tmp_path)
    with hf.use(model, "rope"):
        for length in (128, 256, 512):
            (row,) = [r for r in rows if r["task"] == "perplexity" and r["eval_length"] == length]
            windows = [ids[None, s : s + length + 1] for s in range(0, 1024, length)]
            losses = torch.cat([naive_losses(model, window) for window in windows])
            assert row["value"] == pytest.approx(float(losses.mean()), abs=1e-5)
            assert sum(row["blocks"]) / 32 == pytest.approx(row["value"], abs=1e-4)
            last = losses[:, row["positions"][-2] :].mean()
            assert row["by_position"][-1] == pytest.approx(float(last), abs=1e-4)


def test_a_sliding_window_scores_the_same_tokens_at_every_length(
    source: Source, model: Any, ids: torch.Tensor, tmp_path: Path
) -> None:
    plan = replace(PLAN, methods=("none",), keys=0, copies=0, sliding=64, sliding_windows=3)
    rows = run(plan, source, model, ids, tmp_path)
    with hf.use(model, "rope"):
        for length in (256, 512):
            (row,) = [r for r in rows if r["mode"] == "sliding" and r["eval_length"] == length]
            losses = [  # of tokens 449 to 640, whatever the length
                naive_losses(model, ids[None, end - length : end + 1])[0, -64:]
                for end in (512, 576, 640)
            ]
            assert row["value"] == pytest.approx(float(torch.cat(losses).mean()), abs=1e-5)
            assert (row["n"], row["stride"]) == (192, 64)


def test_rows_say_what_was_done_and_equal_ones_are_made_once(
    source: Source, model: Any, ids: torch.Tensor, tmp_path: Path
) -> None:
    plan = replace(PLAN, streamed=32, sliding=64, sliding_windows=2)
    rows = run(plan, source, model, ids, tmp_path)
    assert not [row for row in rows if "error" in row]
    none = [r for r in rows if r["method"] == "none" and r["task"] == "perplexity"]
    modes = [(r["mode"], r["eval_length"]) for r in none]
    assert sorted(modes) == [
        *(("one_pass", n) for n in (128, 256, 512)), ("sliding", 256), ("sliding", 512),
        ("streamed", 512),
    ]  # fmt: skip
    dynamic = [r for r in rows if r["method"] == "dynamic_ntk" and r["mode"] == "streamed"]
    assert [r["eval_length"] for r in dynamic] == [256, 512]  # where it is not one pass
    yarn = {r["encoding"] for r in rows if r["method"] == "yarn"}
    assert yarn == {"rope+yarn(factor=2)", "rope+yarn(factor=4)"}
    assert {r["terms"] for r in rows if r["method"] == "rerope"} == {2}


def test_transformers_own_code_agrees(
    source: Source,
    model: Any,
    ids: torch.Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measure, "STOCK", 256)  # the longest is read in pieces
    names = ("none", "pi", "ntk", "dynamic_ntk", "by_parts", "yarn", "llama3", "abf", "rerope")
    plan = replace(PLAN, methods=names, stock=True, keys=0, copies=0)
    rows = run(plan, source, model, ids, tmp_path)
    ours = {
        (r["encoding"], r["eval_length"]): r["value"] for r in rows if r["engine"] != "transformers"
    }
    stock = [r for r in rows if r["engine"] == "transformers"]
    assert {r["method"] for r in stock} == set(names) - {"rerope"}
    for row in stock:
        here = row["encoding"], row["eval_length"]
        assert row["value"] == pytest.approx(ours[here], abs=1e-5), here
    assert len({round(value, 4) for value in ours.values()}) > 20  # methods differ on this model


def test_a_killed_comparison_goes_on(
    source: Source, model: Any, ids: torch.Tensor, tmp_path: Path
) -> None:
    whole = run(PLAN, source, model, ids, tmp_path / "whole")
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 9

    with pytest.raises(KeyboardInterrupt):
        run(PLAN, source, model, ids, tmp_path / "cut", stop=stop)
    file = tmp_path / "cut" / "rows.jsonl"
    done = len(file.read_text().splitlines())
    assert done == 9
    with file.open("a") as torn:
        torn.write('{"half a li')  # as a kill leaves it
    measured: list[Any] = []
    rows = run(PLAN, source, model, ids, tmp_path / "cut", told=lambda t, r: measured.append(r))
    assert [r["value"] for r in rows] == [r["value"] for r in whole]
    assert sum(r is not None for r in measured) == len(rows) - done
    assert run(PLAN, source, None, ids, tmp_path / "cut") == rows  # and nothing is left to do


def test_a_directory_of_other_measurements_is_refused(tmp_path: Path) -> None:
    open_results(tmp_path / "a", PLAN.identity())
    with pytest.raises(ValueError, match="tokens was 1024 and is now 2048"):
        open_results(tmp_path / "a", replace(PLAN, tokens=2048).identity())
    with pytest.raises(ValueError, match="keys was 1 and is now 2"):
        open_results(tmp_path / "a", replace(PLAN, keys=2).identity())
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"holds thesis\.tex"):
        open_results(tmp_path / "b", PLAN.identity())


def test_what_was_not_measured_may_be_added(tmp_path: Path) -> None:
    bare = replace(PLAN, keys=0, copies=0).identity()
    open_results(tmp_path, bare)
    open_results(tmp_path, replace(PLAN, keys=3, copies=0, sliding=64).identity())
    open_results(tmp_path, bare)
    found = json.loads((tmp_path / "config.json").read_text())
    assert (found["keys"], found["copies"], found["sliding"]) == (3, 0, 64)
    with pytest.raises(ValueError, match="sliding was 64 and is now 32"):
        open_results(tmp_path, replace(PLAN, sliding=32, keys=3).identity())


def test_a_method_that_fails_is_a_row_with_its_error(
    source: Source, model: Any, ids: torch.Tensor, tmp_path: Path
) -> None:
    plan = replace(PLAN, methods=("rope+longrope(long_factor=[1,2],factor=4)", "none"))
    rows = run(plan, source, model, ids, tmp_path)
    failed = [r for r in rows if "error" in r]
    assert {r["method"] for r in failed} == {plan.methods[0]}
    assert "must hold dim // 2 = 8 numbers" in failed[0]["error"]
    assert all("value" not in r for r in failed)


def test_pass_keys_stand_where_they_should(source: Source, ids: torch.Tensor) -> None:
    for depth in (0.0, 0.5, 1.0):
        made = retrieval.passkeys(ids, source.tokenizer, 300, depth, 3, seed=0)
        again = retrieval.passkeys(ids, source.tokenizer, 300, depth, 3, seed=0)
        other = retrieval.passkeys(ids, source.tokenizer, 300, depth, 3, seed=1)
        for row, count, same, different in zip(
            made.rows, made.counts, again.rows, other.rows, strict=True
        ):
            text = source.tokenizer.decode(row)
            key = source.tokenizer.decode(row[-count:]).strip()
            assert len(row) == 300
            assert len(key) == 5
            assert key.isdigit()
            assert text.count(key) == 3
            assert text.endswith(f"The pass key is {key}")
            place = text.index(f"The pass key is {key}") / len(text)
            assert abs(place - depth * 0.75) < 0.12
            assert torch.equal(row, same)
            assert not torch.equal(row, different)


def test_a_blank_that_is_a_token_of_its_own_is_not_asked_for(source: Source) -> None:
    question, answer = retrieval._asked(source.tokenizer, "71432")
    assert source.tokenizer.decode(question).endswith("The pass key is ")
    assert [source.tokenizer.decode(token) for token in answer] == list("71432")


def test_hits_are_greedy_decoding(source: Source, model: Any, ids: torch.Tensor) -> None:
    made = retrieval.passkeys(ids, source.tokenizer, 150, 0.5, 4, seed=0)
    found = retrieval.score(Reader(model), made, "cpu", 300)
    hits = right = 0
    for row, count in zip(made.rows, made.counts, strict=True):
        with torch.no_grad():
            best = model(row[None]).logits[0, -count - 1 : -1].argmax(-1)
            prompt = row[None, :-count]
            written = model.generate(prompt, max_new_tokens=count, do_sample=False)
        hits += torch.equal(written[0, -count:], row[-count:])
        right += int((best == row[-count:]).sum())
    assert (found.hits, found.right, found.samples) == (hits, right, 4)


def test_copies_repeat_a_passage(ids: torch.Tensor) -> None:
    made = retrieval.copies(ids, 200, 0.25, 2, seed=0)
    for row, count in zip(made.rows, made.counts, strict=True):
        assert len(row) == 200
        assert count == retrieval.PASSAGE - 1
        place = round(0.25 * (200 - 2 * retrieval.PASSAGE - 1))
        size = retrieval.PASSAGE
        assert torch.equal(row[place : place + size], row[-size:])
    with pytest.raises(ValueError, match="no room"):
        retrieval.copies(ids, 2 * retrieval.PASSAGE, 0.25, 1, seed=0)


def test_the_plan_counts_work(source: Source) -> None:
    assert all(task.work > 0 for task in plan_of(PLAN, source))
