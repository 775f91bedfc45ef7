"""Faults of regions and temperatures."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from golden import (
    test_dual_chunk,
    test_inverse_leaky_rerope,
    test_leaky_rerope,
    test_llama4_temperature,
    test_logn,
    test_rerope,
    test_self_extend,
    test_yarn_temperature,
)
from planted.registry import fault

from whatwhere import maps
from whatwhere.encodings import dual_chunk as chunks
from whatwhere.encodings import rerope, self_extend, temperature


@fault(test_self_extend.test_distance_matrix)
def _(patch: pytest.MonkeyPatch) -> None:
    """Self-Extend's window has one position more"""
    for name in ("near", "far"):
        true = getattr(self_extend, name)
        patch.setattr(self_extend, name, lambda window, true=true: true(window + 1))


@fault(test_self_extend.test_distance_matrix)
def _(patch: pytest.MonkeyPatch) -> None:
    """Self-Extend's query is shifted one position too far"""
    true = self_extend.Reindex

    def shift(group: int, offset: int | None = None) -> Any:
        return true(group=group, offset=0 if offset is None else offset + 1)  # keys: no offset

    patch.setattr(self_extend, "Reindex", shift)


@fault(test_rerope.test_a_window_beyond_the_text_is_rope)
def _(patch: pytest.MonkeyPatch) -> None:
    """ReRoPE's regions change places"""
    near, far = rerope.near, rerope.far
    patch.setattr(rerope, "near", far)
    patch.setattr(rerope, "far", near)


@fault(test_leaky_rerope.test_limits)
def _(patch: pytest.MonkeyPatch) -> None:
    """Leaky ReRoPE slows far keys and forgets the query's shift"""
    true = rerope.Reindex

    def still(modulo: int | None = None, offset: int = 0) -> Any:
        return true(modulo=modulo, offset=0 if modulo is None else offset)

    patch.setattr(rerope, "Reindex", still)


@fault(test_dual_chunk.test_equal_to_rope_up_to_the_training_length)
def _(patch: pytest.MonkeyPatch) -> None:
    """Dual Chunk has ChunkLlama's constants under the paper's name"""
    true = chunks.DualChunk.__init__

    @functools.wraps(true)
    def init(self: Any, inner: Any, chunk: Any = None, constants: str = "", **o: Any) -> None:
        true(self, inner, chunk, "chunkllama", **o)

    patch.setattr(chunks.DualChunk, "__init__", init)


@fault(test_logn.test_one_factor_per_call)
def _(patch: pytest.MonkeyPatch) -> None:
    """log-n of a call falls below one on short text"""
    patch.setattr(temperature, "max", lambda _, value: value, raising=False)


@fault(test_yarn_temperature.test_frozen_factors, 8)
def _(patch: pytest.MonkeyPatch) -> None:
    """YaRN's temperature is its root"""
    true = temperature._Constant.__call__
    patch.setattr(temperature._Constant, "__call__", lambda self, i: true(self, i).sqrt())


@fault(test_rerope.test_distance_matrix)
def _(patch: pytest.MonkeyPatch) -> None:
    """ReRoPE's far region begins one position early"""
    true = rerope.far
    patch.setattr(rerope, "far", lambda window: true(window - 1))


@fault(test_inverse_leaky_rerope.test_inference_is_plain_rope)
def _(patch: pytest.MonkeyPatch) -> None:
    """inverse Leaky ReRoPE stretches at inference too"""
    true = rerope.InverseLeakyReRoPE.rule
    always = lambda self, horizon=None, training=False: true(self, horizon, training=True)  # noqa: E731
    patch.setattr(rerope.InverseLeakyReRoPE, "rule", always)


@fault(test_dual_chunk.test_figure_2)
def _(patch: pytest.MonkeyPatch) -> None:
    """Dual Chunk's previous chunk has no min(…, c - 1)"""
    true = maps.Reindex.__call__
    patch.setattr(maps.Reindex, "__call__", lambda self, at: true(replace(self, most=None), at))


@fault(test_dual_chunk.test_figure_2)
def _(patch: pytest.MonkeyPatch) -> None:
    """Dual Chunk ends at c instead of c - 1"""
    true = maps.Reindex.__call__

    def longer(self: Any, at: Any) -> Any:
        most = None if self.most is None else self.most + 1
        return true(replace(self, most=most, offset=self.offset + (self.offset == 9)), at)

    patch.setattr(maps.Reindex, "__call__", longer)


@fault(test_logn.test_forms_by_loops)
def _(patch: pytest.MonkeyPatch) -> None:
    """log-n takes the natural logarithm"""
    patch.setattr(temperature._Log, "__call__", lambda self, i: torch.log(i + 1.0))


@fault(test_logn.test_qwen_list)
def _(patch: pytest.MonkeyPatch) -> None:
    """log-n takes the position for the number of keys"""
    true = temperature._Log.__call__
    patch.setattr(temperature._Log, "__call__", lambda self, i: true(self, i - 1))


@fault(test_llama4_temperature.test_frozen_numbers)
def _(patch: pytest.MonkeyPatch) -> None:
    """Llama 4's temperature begins one position late"""
    true = temperature._Floored.__call__
    patch.setattr(temperature._Floored, "__call__", lambda self, i: true(self, i - 1))
