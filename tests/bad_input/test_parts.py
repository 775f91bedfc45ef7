"""What positions, regions, re-indexing and the cache refuse."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from bad_input.refusal import refuses

import whatwhere as ww
from whatwhere import positions

CAPACITY, LAYERS = 4, 2
AT = torch.arange(2)[None]


def vectors(batch: int = 1, heads: int = 1, n: int = 2, d: int = 3, **options: Any) -> Any:
    return torch.zeros(batch, heads, n, d, **options), torch.zeros(batch, heads, n, d, **options)


def filled() -> ww.KVCache:
    cache = ww.KVCache(LAYERS, CAPACITY)
    cache.advance(AT)
    for layer in range(LAYERS):
        cache.update(layer, *vectors())
    return cache


def step(name: str, *args: Any) -> Any:
    return lambda: getattr(filled(), name)(*args)


def update(layer: Any = 0, k: Any = None, v: Any = None) -> Any:
    """A good announcement after the first, then an update."""

    def run() -> None:
        cache = filled()
        cache.advance(AT + 2)
        usual = vectors()
        cache.update(layer, usual[0] if k is None else k, usual[1] if v is None else v)

    return run


partial = functools.partial
CASES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "contiguous 0": (partial(positions.contiguous, 0), ("length is 0", "at least 1")),
    "contiguous 2.5": (partial(positions.contiguous, 2.5), ("length is 2.5", "whole")),
    "contiguous True": (partial(positions.contiguous, True), ("length is True", "whole")),
    "contiguous start": (partial(positions.contiguous, 2, "a"), ("start is 'a'", "whole")),
    "packed none": (partial(positions.packed, []), ("lengths is empty", "at least one")),
    "packed empty": (partial(positions.packed, [2, 0]), ("lengths[1] is 0", "at least 1")),
    "packed float": (partial(positions.packed, [2.5]), ("lengths[0] is 2.5", "whole")),
    "packed int": (partial(positions.packed, 5), ("lengths is 5", "list")),
    "documents list": (partial(positions.from_documents, [0]), ("documents is list", "int64")),
    "documents empty": (partial(positions.from_documents, AT[:, :0]), ("documents is empty",)),
    "documents scalar": (partial(positions.from_documents, AT[0, 0]), ("shape ()", "(n,)")),
    "valid ints": (partial(positions.left_padded, AT), ("valid", "int64", "bool")),
    "chunk 0": (partial(ww.Region, chunk=0), ("chunk is 0", "at least 1")),
    "chunk 1.5": (partial(ww.Region, chunk=1.5), ("chunk is 1.5", "whole")),
    "region empty": (partial(ww.Region, 3, 2), ("least is 3", "most 2")),
    "region text": (partial(ww.Region, "a"), ("least is 'a'", "whole")),
    "modulo 0": (partial(ww.Reindex, modulo=0), ("modulo is 0", "at least 1")),
    "group True": (partial(ww.Reindex, group=True), ("group is True", "whole")),
    "offset 1.5": (partial(ww.Reindex, offset=1.5), ("offset is 1.5", "whole")),
    "no layers": (partial(ww.KVCache, 0, 4), ("layers is 0", "at least 1")),
    "capacity 2.5": (partial(ww.KVCache, 1, 2.5), ("capacity is 2.5", "whole")),
    "empty cache": (lambda: ww.KVCache(1, 2).positions, ("the cache is empty",)),
    "positions list": (step("advance", [2, 3]), ("positions is list", "int64")),
    "positions float": (step("advance", AT.float()), ("positions", "float32", "int64")),
    "positions flat": (step("advance", AT[0]), ("shape (2,)", "(batch, n)")),
    "overflow": (step("advance", torch.arange(3)[None]), ("5 tokens", "cache of 4", "larger")),
    "another batch": (step("advance", AT.expand(3, 2)), ("positions has 3 rows", "holds 1")),
    "valid shape": (step("advance", AT, AT[:, :1] > 0), ("valid has shape (1, 1)", "(1, 2)")),
    "valid dtype": (step("advance", AT, AT), ("valid", "int64", "bool")),
    "layer 2": (update(2), ("layer is 2", "0 to 1")),
    "layer -1": (update(-1), ("layer is -1", "0 to 1")),
    "layer text": (update("a"), ("layer is 'a'", "0 to 1")),
    "k list": (update(k=[1]), ("k is list", "(batch, kv_heads, n, channels)")),
    "k flat": (update(k=torch.zeros(1, 2, 3)), ("k is a tensor of shape (1, 2, 3)",)),
    "k rows": (update(k=vectors(3)[0]), ("k has 3 rows", "1 were announced")),
    "v channels": (update(v=vectors(d=5)[1]), ("v has 1 heads of 5", "1 of 3")),
    "k heads": (update(k=vectors(heads=2)[0]), ("k has 2 heads of 3", "1 of 3")),
    "k dtype": (update(k=vectors(dtype=torch.float64)[0]), ("float64", "float32")),
    "too many": (update(0, *vectors(n=3)), ("layer 0", "3 keys", "4 were announced")),
    "unannounced": (step("update", 0, *vectors()), ("layer 0", "2 were announced")),
    "crop": (step("crop", 9), ("length is 9", "2 tokens")),
    "crop -1": (step("crop", -1), ("length is -1", "at least 0")),
    "crop 1.5": (step("crop", 1.5), ("length is 1.5", "whole")),
    "reindex columns": (step("reindex", AT[:, :1]), ("positions has shape (1, 1)", "2 tokens")),
    "reindex rows": (step("reindex", AT.expand(3, 2)), ("positions has shape (3, 2)", "1 rows")),
    "reindex float": (step("reindex", AT.float()), ("positions", "float32", "int64")),
    "reindex empty": (lambda: ww.KVCache(1, 2).reindex(AT), ("the cache is empty",)),
    "keep": (step("keep", torch.tensor([5])), ("outside the 2 cached tokens",)),
    "keep mask": (step("keep", AT[0] > 0), ("tokens", "bool", "int64")),
    "select": (step("select", torch.tensor([0, 1])), ("rows is [0, 1]", "1 cached")),
    "select list": (step("select", [0]), ("rows is list", "int64")),
}


@pytest.mark.parametrize("case", CASES)
def test_refusals(case: str) -> None:
    call, words = CASES[case]
    refuses(call, *words)


def test_a_step_announced_twice() -> None:
    cache = ww.KVCache(LAYERS, CAPACITY)
    cache.advance(AT)
    with pytest.raises(RuntimeError, match="twice without an update of every layer"):
        cache.advance(AT)


def test_the_good_steps_are_good() -> None:
    update()()
    cache = filled()
    cache.reindex(AT + 5)
    cache.keep(torch.tensor([1]))
    cache.select(torch.tensor([0, 0]))
    assert cache.positions.tolist() == [[6], [6]]
