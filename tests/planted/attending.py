"""Faults of scale, heads, masks, cache and padding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from golden import test_llama4_temperature, test_nope, test_rope
from planted.laws import (
    decode_is_one_pass,
    documents_are_apart,
    padding_changes_nothing,
    streaming_is_one_pass,
)
from planted.registry import fault

import whatwhere as ww
from whatwhere import attention, cache
from whatwhere.attention import reference, sdpa, where
from whatwhere.nn import places


@fault(test_rope.test_attention_by_loops)
def _(patch: pytest.MonkeyPatch) -> None:
    """scores are not scaled"""
    true = attention.Call
    patch.setattr(
        attention, "Call", lambda q, k, v, w, scale, *a, **o: true(q, k, v, w, 1.0, *a, **o)
    )


def _tile(patch: pytest.MonkeyPatch) -> None:
    tiled = lambda x, heads: x.repeat(1, heads // x.shape[1], 1, 1)  # noqa: E731
    patch.setattr(reference, "repeat_heads", tiled)
    patch.setattr(sdpa, "repeat_heads", tiled)


@fault(test_nope.test_grouped_heads_read_neighbouring_kv_heads)
def _(patch: pytest.MonkeyPatch) -> None:
    """query heads are paired with KV heads h mod G"""
    _tile(patch)


@fault(test_llama4_temperature.test_attention_layer_live)
def _(patch: pytest.MonkeyPatch) -> None:
    """query heads are paired with KV heads h mod G, on the fast path"""
    _tile(patch)


@fault(test_nope.test_causal_attention_by_loops)
def _(patch: pytest.MonkeyPatch) -> None:
    """the causal mask shows one token of the future"""
    patch.setattr(where.Where, "seen", lambda self, i, j: j <= i + 1)


@fault(test_nope.test_causal_attention_by_loops)
def _(patch: pytest.MonkeyPatch) -> None:
    """the causal mask hides the token itself"""
    patch.setattr(where.Where, "seen", lambda self, i, j: j < i)


@fault(decode_is_one_pass, "reference")
def _(patch: pytest.MonkeyPatch) -> None:
    """the mask of a decoding step is aligned top-left"""
    corner = lambda self: torch.ones(1, self.queries, self.keys).tril().bool()  # noqa: E731
    patch.setattr(where.Where, "visible", corner)


@fault(decode_is_one_pass, "sdpa")
def _(patch: pytest.MonkeyPatch) -> None:
    """is_causal is passed to SDPA for a decoding step"""
    patch.setattr(where.Where, "plain_causal", True)


@fault(documents_are_apart, "sdpa")
def _(patch: pytest.MonkeyPatch) -> None:
    """restarted positions alone keep documents apart"""
    true = where.Where.visible
    without = lambda self: true(replace(self, q_documents=None, k_documents=None))  # noqa: E731
    patch.setattr(where.Where, "visible", without)


@fault(streaming_is_one_pass)
def _(patch: pytest.MonkeyPatch) -> None:
    """the cache holds rotated keys, which are rotated again"""
    true = cache.KVCache.update

    def update(self: Any, layer: int, k: Any, v: Any, *content: Any) -> Any:
        new = self.positions[:, -k.shape[2] :]
        turned = ww.make("rope", heads=6, head_dim=4).rule().only.key(k, new)
        return true(self, layer, turned, v, *content)

    patch.setattr(cache.KVCache, "update", update)


@fault(padding_changes_nothing)
def _(patch: pytest.MonkeyPatch) -> None:
    """positions of a padded row are array indices"""
    indices = lambda valid: torch.arange(valid.shape[1]).expand(valid.shape)  # noqa: E731
    patch.setattr(places.at, "left_padded", indices)
