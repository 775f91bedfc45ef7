"""Our rotation in a released model is the stock model, for every covered architecture."""

from __future__ import annotations

import pytest
import torch
from hf.models import BASE, KINDS, WINDOW, assert_close, logits, tiny_model, tokens

from whatwhere import hf


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def test_our_rope_is_the_stock_model(kind: str) -> None:
    model, ids = tiny_model(kind), tokens()
    expected = logits(model, ids)
    with hf.use(model):
        found = logits(model, ids)
    assert_close(found, expected)
    assert torch.equal(logits(model, ids), expected), "undo does not restore the model"


def test_a_wrong_base_is_seen(kind: str) -> None:
    model, ids = tiny_model(kind), tokens()
    expected = logits(model, ids)
    with hf.use(model, f"rope(spectrum=geometric(base={BASE * 1.05}))"):
        found = logits(model, ids)
    assert (found - expected).abs().max() > 3e-3


def test_the_window_is_seen(kind: str) -> None:
    """Where a layer has a window, its length matters in the stock model and in ours."""
    model, ids = tiny_model(kind), tokens()
    if getattr(model.config, "sliding_window", None) != WINDOW:
        pytest.skip("no layer has a window")
    expected = logits(model, ids)
    for module in model.modules():
        if getattr(module, "sliding_window", None) == WINDOW:
            module.sliding_window = WINDOW + 1
    model.config.sliding_window = WINDOW + 1
    with hf.use(model):
        assert (logits(model, ids) - expected).abs().max() > 1e-3


def test_left_padding(kind: str) -> None:
    model, ids = tiny_model(kind), tokens(3, 23)
    mask = torch.ones_like(ids)
    mask[0, :5], mask[2, :11] = 0, 0
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    real = mask.bool()
    for arguments in ({}, {"position_ids": positions}):
        expected = logits(model, ids, attention_mask=mask, **arguments)
        with hf.use(model):
            found = logits(model, ids, attention_mask=mask, **arguments)
        assert_close(found[real], expected[real])


def test_packed_documents_do_not_see_one_another(kind: str) -> None:
    model, ids = tiny_model(kind), tokens(1, 29)
    lengths = (7, 13, 9)
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    with hf.use(model):
        packed = logits(model, ids, position_ids=positions, use_cache=False)
        alone = [logits(model, part) for part in ids.split(lengths, dim=1)]
    assert_close(packed, torch.cat(alone, dim=1))


def test_greedy_generation(kind: str) -> None:
    """Dynamic and static caches, rows padded to the left, beyond every window.

    Step by step: on a GPU transformers would compile over a static cache (test_gpu.py does).
    """
    model, ids = tiny_model(kind), tokens(3, 13)
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    settings = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False}
    settings["disable_compile"] = True
    expected = model.generate(ids, **settings)
    with hf.use(model):
        for cache in ("dynamic", "static"):
            found = model.generate(ids, cache_implementation=cache, **settings)
            assert torch.equal(found, expected), cache
