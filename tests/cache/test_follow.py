"""Tokens that follow one another: known to the cache and to `Where` without reading a tensor."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from conformance.cases import BATCH, DV, EXACT, GROUPS, D, draw
from conformance.test_decoding import decoder, numbers, poison

from whatwhere import KVCache
from whatwhere.attention import Where
from whatwhere.nn import blocks


def stored(cache: KVCache, count: int, device: torch.device) -> None:
    for number in range(cache.layers):
        cache.update(number, draw((BATCH, GROUPS, count, D), device),
                     draw((BATCH, GROUPS, count, DV), device))  # fmt: skip


def test_positions_go_on_by_one(device: torch.device) -> None:
    cache = KVCache(1, 9)
    first = cache.follow(3, batch=BATCH, first=100, device=device)
    stored(cache, 3, device)
    assert torch.equal(first, torch.arange(100, 103, device=device).expand(BATCH, -1))
    assert cache.follow(2)[1].tolist() == [103, 104]
    stored(cache, 2, device)
    assert (cache.first, cache.padded) == (100, False)
    assert cache.positions[0].tolist() == [100, 101, 102, 103, 104]
    cache.crop(4)
    assert cache.first == 100
    assert cache.follow(1)[0].tolist() == [104]


def test_left_padding_is_before_position_zero(device: torch.device) -> None:
    cache = KVCache(1, 9)
    first = torch.tensor([-2, 0], device=device)
    assert cache.follow(3, first=first).tolist() == [[-2, -1, 0], [0, 1, 2]]
    stored(cache, 3, device)
    assert cache.valid.tolist() == [[False, False, True], [True, True, True]]
    assert cache.padded
    cache.select(torch.tensor([1, 0], device=device))
    assert cache.follow(1).tolist() == [[3], [1]]
    assert isinstance(cache.first, torch.Tensor)
    assert cache.first.tolist() == [0, -2]


@pytest.mark.parametrize("change", ["advance", "reindex", "keep"])
def test_what_may_break_the_order_is_not_trusted(change: str, device: torch.device) -> None:
    cache = KVCache(1, 9)
    cache.follow(3, batch=BATCH, device=device)
    stored(cache, 3, device)
    if change == "advance":
        cache.advance(torch.full((BATCH, 1), 7, device=device))
        stored(cache, 1, device)
    elif change == "reindex":
        cache.reindex(torch.tensor([[0, 5, 6]], device=device))
    else:
        cache.keep(torch.tensor([0, 2], device=device))
    assert cache.first is None
    with pytest.raises(ValueError, match=r"advance\(positions\)"):
        cache.follow(1)
    cache.crop(0)
    cache.follow(1, batch=BATCH, device=device)
    assert cache.first == 0


@pytest.mark.usefixtures("unchecked")
def test_what_does_not_fit_is_refused(device: torch.device) -> None:
    cache = KVCache(1, 4)
    for options, error, match in (
        ({}, (TypeError, ValueError), "batch"),
        ({"batch": 2, "first": 0.5}, (TypeError, ValueError), "first"),
        ({"first": torch.zeros(2, device=device)}, TypeError, "first"),
    ):
        with pytest.raises(error, match=match):
            cache.follow(1, **options)
    with pytest.raises(ValueError, match="fit"):
        cache.follow(5, batch=2, device=device)
    with pytest.raises(ValueError, match="in the place of k_pos"):
        Where(1, 2, torch.tensor([1]), torch.tensor([0, 1]), k_first=0)
    with pytest.raises(TypeError, match="k_first"):
        Where(1, 2, torch.tensor([1]), k_first=torch.tensor([[0]]))


def test_where_says_the_same_as_with_positions(device: torch.device) -> None:
    at = torch.tensor([[3], [1]], device=device)
    told: Any = {"k_pos": torch.tensor([[0, 1, 2, 3], [-2, -1, 0, 1]], device=device)}
    told["k_valid"] = told["k_pos"] >= 0
    known = Where(1, 4, at, k_first=torch.tensor([0, -2], device=device))
    assert torch.equal(known.k_pos, told["k_pos"])
    assert torch.equal(known.visible(), Where(1, 4, at, **told).visible())
    assert known.only_left_padded
    assert not Where(1, 4, at, **told).only_left_padded
    hidden = told["k_valid"].clone()
    hidden[:, 2] = False
    both = Where(1, 4, at, k_valid=hidden, k_first=torch.tensor([0, -2], device=device))
    assert torch.equal(both.k_valid, hidden)
    assert not both.only_left_padded
    assert Where(1, 4, at, k_first=0).k_valid is None


@pytest.mark.parametrize("padding", [0, 3])
@torch.no_grad()
def test_a_decoder_knows_it(padding: int, device: torch.device) -> None:
    """Prompt and steps: attention is told the first position, and no mask where none is needed."""
    model, x = decoder("pope", device), numbers(9, device)
    valid = torch.ones_like(x, dtype=torch.bool)
    valid[0, :padding] = False
    cache, seen = model.new_cache(12), []
    attend = blocks.attend

    def spy(*args: Any, **options: Any) -> Any:
        seen.append(options["where"])
        return attend(*args, **options)

    with mock.patch.object(blocks, "attend", spy):
        model(x[:, :6], cache=cache, valid=valid[:, :6] if padding else None)
        steps = []
        for step in range(6, 9):
            steps.append(model(x[:, step : step + 1], cache=cache))
            poison(cache)
    last = seen[-1]
    if padding:
        assert last.k_first.tolist() == [-padding, 0]
        assert last.only_left_padded
    else:
        assert last.k_first == 0
        assert last.k_valid is None
    expected = model(x, valid=valid if padding else None)[:, 6:]
    torch.testing.assert_close(torch.cat(steps, 1), expected, **EXACT)


@torch.no_grad()
def test_holes_in_the_middle_are_no_left_padding(device: torch.device) -> None:
    model, x = decoder("rope", device), numbers(9, device)
    valid = torch.ones_like(x, dtype=torch.bool)
    valid[1, 2] = False
    cache = model.new_cache(12)
    model(x[:, :8], cache=cache, valid=valid[:, :8])
    assert cache.first is None
    found = model(x[:, 8:], cache=cache)
    torch.testing.assert_close(found, model(x, valid=valid)[:, 8:], **EXACT)
