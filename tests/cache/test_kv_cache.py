"""The un-rotated cache: what goes in comes out, whatever is cropped, evicted or moved between."""

from __future__ import annotations

import pytest
import torch
from conformance.cases import BATCH, DV, EXACT, GROUPS, WIDTH, D, draw, layer, make, project, tokens
from conformance.test_decoding import decoder, numbers, poison
from torch import Tensor

from whatwhere import KVCache
from whatwhere.attention import attend

LENGTH = 20
CHUNKS = (7, 1, 12)


def filled(device: torch.device, layers: int = 2) -> tuple[KVCache, Tensor, Tensor]:
    """A cache of LENGTH tokens in awkward chunks, with the keys and values given to layer 0."""
    cache = KVCache(layers, LENGTH + 5)
    k = draw((BATCH, GROUPS, LENGTH, D), device, seed=1)
    v = draw((BATCH, GROUPS, LENGTH, DV), device, seed=2)
    at = torch.arange(100, 100 + LENGTH, device=device).expand(BATCH, -1)
    start = 0
    for size in CHUNKS:
        stop = start + size
        cache.advance(at[:, start:stop])
        for number in range(layers):
            sign = 1 - 2 * number  # layers hold different things
            keys, values = cache.update(
                number, sign * k[:, :, start:stop], sign * v[:, :, start:stop]
            )
            poison(cache)
            assert torch.equal(keys, sign * k[:, :, :stop])
            assert torch.equal(values, sign * v[:, :, :stop])
        start = stop
    return cache, k, v


def held(cache: KVCache, number: int = 0) -> tuple[Tensor, Tensor]:
    return cache._keys[number][:, :, : len(cache)], cache._values[number][:, :, : len(cache)]


def test_chunks_come_out_as_they_went_in(device: torch.device) -> None:
    cache, k, v = filled(device)
    assert (len(cache), cache.length, cache.layers) == (LENGTH, LENGTH, 2)
    assert torch.equal(cache.positions, torch.arange(100, 120, device=device).expand(BATCH, -1))
    assert cache.valid.all()
    assert cache.valid.shape == (BATCH, LENGTH)
    for number, sign in ((0, 1), (1, -1)):
        keys, values = held(cache, number)
        assert torch.equal(keys, sign * k)
        assert torch.equal(values, sign * v)


def test_padding_is_remembered(device: torch.device) -> None:
    cache = KVCache(1, 9)
    valid = torch.tensor([[False, True, True], [True, True, True]], device=device)
    cache.advance(torch.zeros(2, 3, dtype=torch.int64, device=device), valid)
    cache.update(0, torch.ones(2, 1, 3, D, device=device), torch.ones(2, 1, 3, DV, device=device))
    cache.advance(torch.ones(2, 1, dtype=torch.int64, device=device))
    assert cache.valid.tolist() == [[False, True, True, True], [True] * 4]
    assert cache.positions.tolist() == [[0, 0, 0, 1]] * 2


def test_crop_forgets_the_end(device: torch.device) -> None:
    cache, k, v = filled(device)
    cache.crop(8)
    assert len(cache) == 8
    assert cache.positions[0].tolist() == list(range(100, 108))
    cache.advance(torch.full((BATCH, 2), 7, device=device))
    for number in range(2):
        keys, values = cache.update(number, k[:, :, :2] + 5, v[:, :, :2] + 5)
        poison(cache)
        assert keys.shape[2] == values.shape[2] == 10
        assert torch.equal(keys[:, :, 8:], k[:, :, :2] + 5)
        assert torch.equal(values[:, :, 8:], v[:, :, :2] + 5)
    assert torch.equal(held(cache)[0][:, :, :8], k[:, :, :8])
    cache.crop(0)
    assert len(cache) == 0
    assert cache.positions.shape == (BATCH, 0)


@pytest.mark.parametrize("kept", [[0, 1, 2, 19], [5], [19, 3, 11], list(range(LENGTH))[::-1]])
def test_keep_evicts_all_others(kept: list[int], device: torch.device) -> None:
    """Tokens keep their positions; order is as asked, also where places overlap."""
    cache, k, v = filled(device)
    cache.keep(torch.tensor(kept, device=device))
    poison(cache)
    keys, values = held(cache)
    assert torch.equal(keys, k[:, :, kept])
    assert torch.equal(values, v[:, :, kept])
    assert torch.equal(held(cache, 1)[0], -k[:, :, kept])
    assert cache.positions[1].tolist() == [100 + index for index in kept]


def test_select_takes_rows(device: torch.device) -> None:
    cache, k, _ = filled(device)
    cache.reindex(torch.stack((torch.arange(20), torch.arange(20) + 50)).to(device))
    cache.select(torch.tensor([1, 1, 0], device=device))
    assert torch.equal(held(cache)[0], k[[1, 1, 0]])
    assert cache.positions[:, 0].tolist() == [50, 50, 0]
    cache.advance(torch.full((3, 1), 70, device=device))
    cache.update(0, k[[0, 0, 0], :, :1], draw((3, GROUPS, 1, DV), device))


@pytest.mark.usefixtures("unchecked")
def test_what_does_not_fit_is_refused(device: torch.device) -> None:
    cache, k, v = filled(device)
    at = torch.arange(6, device=device).expand(BATCH, -1)
    with pytest.raises(ValueError, match=r"26 tokens.*25"):
        cache.advance(at)
    assert len(cache) == LENGTH  # and nothing has happened
    with pytest.raises(ValueError, match="rows"):
        cache.advance(torch.zeros(3, 1, dtype=torch.int64, device=device))
    cache.advance(at[:, :2])
    with pytest.raises(ValueError, match="announced"):
        cache.update(0, k[:, :, :3], v[:, :, :3])
    with pytest.raises(ValueError, match="announced"):
        cache.update(0, k[:, :, :2], v[:, :, :1])
    cache.update(0, k[:, :, :2], v[:, :, :2])
    with pytest.raises(RuntimeError, match="twice"):
        cache.advance(at[:, :1])
    cache.update(1, k[:, :, :2], v[:, :, :2])
    cache.advance(at[:, :1])
    for crop in (-1, 24):
        with pytest.raises(ValueError, match="length"):
            cache.crop(crop)
    for index in (-1, 23):
        with pytest.raises(ValueError, match="outside"):
            cache.keep(torch.tensor([0, index], device=device))
    for kept in ([1, 1], [0] * 30):  # the latter would not even fit
        with pytest.raises(ValueError, match="once"):
            cache.keep(torch.tensor(kept, device=device))
    with pytest.raises(ValueError, match="positions"):
        cache.reindex(at)
    with pytest.raises(ValueError, match="empty"):
        _ = KVCache(1, 1).positions


def test_popes_cache_is_as_small_as_ropes(device: torch.device) -> None:
    """Features are twice as wide; raw keys are not."""
    sizes = {}
    for text in ("rope", "pope", "pope+yarn(factor=4)+dual_chunk+logn", "nope"):
        model = decoder(text, device)
        cache = model.new_cache(LENGTH)
        assert cache.bytes == 0
        with torch.no_grad():
            model(numbers(3, device), cache=cache)
        sizes[text] = cache.bytes
    # 2 layers, keys and values, of batch · groups · capacity · D float64 numbers.
    assert set(sizes.values()) == {2 * 2 * BATCH * GROUPS * LENGTH * D * 8}


@pytest.mark.parametrize("text", ["rope", "pope", "pope+dual_chunk", "alibi", "xpos", "t5", "shaw"])
@torch.no_grad()
def test_reindexed_keys_are_keys_at_the_new_positions(text: str, device: torch.device) -> None:
    """After eviction the gap is closed: as if the kept tokens alone had been there."""
    encoding = make(text, device)
    rule = encoding.rule(LENGTH)
    x = tokens(LENGTH, device)
    here = torch.arange(LENGTH, device=device)
    raw = project(encoding, rule, x, here)
    cache = KVCache(1, LENGTH)
    cache.advance(here.expand(BATCH, -1))
    cache.update(0, raw.k, raw.v)
    kept = torch.tensor([0, 1, *range(9, LENGTH)], device=device)
    cache.keep(kept)
    poison(cache)
    closed = torch.arange(len(kept), device=device)
    cache.reindex(closed[None])
    k, v = held(cache)
    found = attend(raw.q[:, :, kept], k, v, rule, q_pos=closed, k_pos=cache.positions)
    torch.testing.assert_close(found, layer(encoding, x[:, kept], closed, LENGTH), **EXACT)
    assert x.shape[-1] == WIDTH
