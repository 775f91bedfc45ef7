"""The whole-model benchmark on a CPU, tiny: the same path as on a GPU, without its times."""

import pytest
from fresh import run_forked

from whatwhere.bench import model
from whatwhere.bench.model import ModelCase

TINY = ModelCase(layers=1, width=32, heads=2, vocab_size=64, length=16, batch=2, compile="none",
                 rounds=2, steps=1)  # fmt: skip


def test_rows_of_both_encodings() -> None:
    found = list(model.rows(TINY, "cpu"))
    trained = [row for row in found if row["study"] == "model"]
    assert {row["encoding"] for row in trained} == {"rope", "pope"}
    for row in trained:
        assert row["tokens_per_s"] == pytest.approx(32 / row["step_ms"] * 1e3, rel=1e-3)
        assert row["fastest_ms"] <= row["step_ms"] <= row["slowest_ms"]
        assert row["losses"][0] > row["losses"][-1], "it trains"
    first, second = (row["parameters"] for row in trained)
    assert second - first == 2 * 16, "δ is the only difference"


def test_saved_bytes_count_each_storage_once() -> None:
    import torch

    found = {row["encoding"]: row for row in model.rows(TINY, "cpu") if row["study"] == "saved"}
    tensor = 2 * 2 * 16 * 16 * 2  # batch, heads, tokens, channels, bytes
    # On a CPU: at least raw or mapped q, k, v and the output; PoPE keeps features twice as wide.
    assert found["rope"]["saved_bytes"] >= 4 * tensor
    assert found["pope"]["saved_bytes"] > found["rope"]["saved_bytes"]
    assert found["rope"]["backend"] == "sdpa"
    assert torch.is_grad_enabled()


def test_the_case_is_a_gpt_of_124_million() -> None:
    case = model.GPT
    config = case.config("rope")
    per_layer = 4 * case.width**2 + 2 * config.units * case.width + 2 * case.width
    assert config.units == 4 * case.width
    assert config.channels == 64
    total = case.vocab_size * case.width + case.layers * per_layer + case.width
    assert round(total / 1e6) == 124


@pytest.mark.parametrize("kind", ["blocks", "model"])
def test_compiled_it_trains_too(kind: str) -> None:
    """In another process, as dynamo can not trace the checks; without inductor, which is slow."""
    script = f"""
import torch
from dataclasses import replace
from unittest import mock
from whatwhere.bench import model
torch.set_num_threads(1)
compiled = torch.compile
quick = lambda *args, **options: compiled(*args, backend="eager", **options)
case = model.ModelCase(layers=3, width=32, heads=2, vocab_size=64, length=16, batch=2,
                       compile={kind!r}, rounds=1, steps=1)
with mock.patch.object(torch, "compile", quick):
    for row in model.rows(case, "cpu"):
        print(row["study"], row["encoding"], row.get("losses"))
graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
print("graphs", graphs)
"""
    *rows, graphs = run_forked(script).splitlines()
    assert len(rows) == 4
    # A block and the loss for RoPE, a block for PoPE (the loss is the same); or one of each model.
    assert int(graphs.split()[1]) <= 4
