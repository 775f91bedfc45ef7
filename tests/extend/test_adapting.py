"""A short training: it learns, it goes on exactly where it was killed, and it can be saved."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from whatwhere import hf
from whatwhere.extend import models
from whatwhere.extend.adapting import Adaptation, adapt
from whatwhere.extend.forward import Reader
from whatwhere.extend.models import Source
from whatwhere.extend.saving import save

PLAN = Adaptation("tiny", "yarn", 256, steps=6, batch_size=2, warmup=2, rank=4, valid_windows=2)


def train(plan: Adaptation, source: Source, ids: torch.Tensor, out: Path, **options: Any) -> Path:
    return adapt(plan, source, models.load(source), ids, out, cpu=True, **options)


def losses(out: Path, role: str) -> list[float]:
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    return [row["value"] for row in rows if row["role"] == role]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_it_learns_and_goes_on_with_the_same_bits(
    source: Source, ids: torch.Tensor, tmp_path: Path, kind: str
) -> None:
    plan = replace(PLAN, train=kind)
    folder = train(plan, source, ids, tmp_path / "whole")
    valid = losses(tmp_path / "whole", "valid")
    assert len(valid) == 4
    assert valid[3] < valid[1]  # at 256, after and before
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 3

    with pytest.raises(KeyboardInterrupt):
        train(plan, source, ids, tmp_path / "cut", stop=stop)
    told: list[str] = []
    again = train(plan, source, ids, tmp_path / "cut", say=told.append)
    assert told[0] == "going on at step 3"
    for role in ("train", "valid"):
        assert losses(tmp_path / "cut", role) == losses(tmp_path / "whole", role)
    name = "adapter_model.safetensors" if kind == "lora" else "model.safetensors"
    assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_an_adapter_is_measured_as_it_was_trained(
    source: Source, ids: torch.Tensor, tmp_path: Path
) -> None:
    folder = train(PLAN, source, ids, tmp_path)
    model = models.load(source, adapter=str(folder))
    from whatwhere.extend.objective import windows

    samples = windows(ids[-500:], 256, 2)
    with hf.use(model, "rope+yarn(factor=2)"):
        found = float(Reader(model).losses(samples).double().mean())
    assert found == pytest.approx(losses(tmp_path, "valid")[-1], abs=1e-5)


def test_what_is_saved_runs_in_plain_transformers(
    source: Source, model: Any, ids: torch.Tensor, tmp_path: Path
) -> None:
    sentence = save(model, source, "rope+yarn(factor=2)", tmp_path / "yarn")
    assert "plain transformers runs it" in sentence
    with hf.use(model, "rope+yarn(factor=2)"):
        expected = Reader(model).losses(ids[None, :257])
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "yarn").float().eval()
    torch.testing.assert_close(
        Reader(stock).losses(ids[None, :257]), expected, atol=1e-4, rtol=1e-4
    )
    sentence = save(model, source, "rope+dual_chunk", tmp_path / "chunks")
    assert "splits pairs of tokens" in sentence
    kept = AutoModelForCausalLM.from_pretrained(tmp_path / "chunks").float().eval()
    with hf.use(kept) as handle:
        assert "dual_chunk" in str(handle.expressions)
    with pytest.raises(FileExistsError, match="not empty"):
        save(model, source, "rope", tmp_path / "yarn")


def test_a_larger_base_is_saved_with_its_length(source: Source, model: Any, tmp_path: Path) -> None:
    """A base says nothing about a length, and vLLM serves max_position_embeddings at most."""
    for text, length, told in (("rope+abf", 512, 512), ("rope+linear(factor=4)", 512, 128)):
        save(model, source, text, tmp_path / text, length=length)
        saved = json.loads((tmp_path / text / "config.json").read_text())
        assert saved["max_position_embeddings"] == told  # vLLM multiplies it by linear's factor
        assert model.config.max_position_embeddings == source.train_length == 128


def test_what_can_not_be_trained(source: Source, ids: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="below the trained length"):
        replace(PLAN, target=100).check(source)
    with pytest.raises(ValueError, match="did you mean 'lora'"):
        replace(PLAN, train="lara")
    train(replace(PLAN, steps=1), source, ids, tmp_path)
    with pytest.raises(ValueError, match=r"lr was 0\.001 and is now 0\.1"):
        train(replace(PLAN, steps=1, lr=0.1), source, ids, tmp_path)
    with pytest.raises(FloatingPointError, match="lower --lr"):
        train(replace(PLAN, lr=1e30, steps=4, warmup=0), source, ids, tmp_path / "b")
