"""Faults of biases, pairs and embeddings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from golden import (
    test_alibi,
    test_cope,
    test_fire,
    test_kerple,
    test_learned,
    test_sandwich,
    test_shaw,
    test_sinusoidal,
    test_t5,
)
from planted.registry import fault

from whatwhere.encodings import alibi, cope, fire, kerple, learned, sandwich, shaw, sinusoidal, t5


@fault(test_alibi.test_scores_by_loops)
def _(patch: pytest.MonkeyPatch) -> None:
    """ALiBi's slopes are 2^(-8h/H) for twelve heads"""
    naive = lambda heads: tuple(2.0 ** (-8 * h / heads) for h in range(1, heads + 1))  # noqa: E731
    patch.setattr(alibi, "slopes", naive)


@fault(test_alibi.test_column_form_under_causal_softmax)
def _(patch: pytest.MonkeyPatch) -> None:
    """ALiBi's penalty is multiplied by 1/√d"""
    true = alibi._Linear.__call__
    patch.setattr(alibi._Linear, "__call__", lambda self, *a: true(self, *a) / 2)


@fault(test_alibi.test_bloom_live)
def _(patch: pytest.MonkeyPatch) -> None:
    """ALiBi's slopes are sorted where the number of heads is no power of two"""
    true = alibi.slopes
    patch.setattr(alibi, "slopes", lambda heads: tuple(sorted(true(heads), reverse=True)))


@fault(test_t5.test_buckets_live, False, 64, 1024)
def _(patch: pytest.MonkeyPatch) -> None:
    """T5's max_distance is always 128"""
    true = t5.bucket
    patch.setattr(t5, "bucket", lambda r, both=False, n=32, most=128: true(r, both, n, 128))


@fault(test_t5.test_frozen_buckets)
def _(patch: pytest.MonkeyPatch) -> None:
    """T5's future keys share the buckets of the past"""
    true = t5.bucket
    folded = lambda r, bidirectional=False, *a: true(-r.abs(), bidirectional, *a)  # noqa: E731
    patch.setattr(t5, "bucket", folded)


@fault(test_t5.test_attention_layer_live, True)
def _(patch: pytest.MonkeyPatch) -> None:
    """T5's bucket takes query minus key"""
    true = t5.bucket
    patch.setattr(t5, "bucket", lambda r, *a: true(-r, *a))


@fault(test_shaw.test_scores_by_loops)
def _(patch: pytest.MonkeyPatch) -> None:
    """Shaw's distance is query minus key"""
    true = shaw._RelativeTables._index
    flipped = lambda self, q, k: 2 * self.clip - true(self, q, k)  # noqa: E731
    patch.setattr(shaw._RelativeTables, "_index", flipped)


@fault(test_cope.test_scores_by_loops)
def _(patch: pytest.MonkeyPatch) -> None:
    """CoPE counts the gates of future keys"""
    true = cope._Counted.scores
    everything = lambda self, q, s, i, j, seen, c: true(self, q, s, i, j, seen | True, c)  # noqa: E731
    patch.setattr(cope._Counted, "scores", everything)


@fault(test_kerple.test_scores_by_loops)
def _(patch: pytest.MonkeyPatch) -> None:
    """KERPLE's two parameters change places"""
    true = kerple._Kernel.__call__
    swap = lambda s, *a: true(replace(s, first=s.second, second=s.first), *a)  # noqa: E731
    patch.setattr(kerple._Kernel, "__call__", swap)


@fault(test_fire.test_scores_by_loops)
def _(patch: pytest.MonkeyPatch) -> None:
    """FIRE divides by the key's position"""
    true = fire._Interpolated.__call__
    patch.setattr(fire._Interpolated, "__call__", lambda self, h, i, j: true(self, h, j, i))


@fault(test_sandwich.test_zero_distance)
def _(patch: pytest.MonkeyPatch) -> None:
    """Sandwich counts heads from one"""
    true = sandwich._Cosines.__call__
    patch.setattr(sandwich._Cosines, "__call__", lambda self, h, i, j: true(self, h + 1, i, j))


@fault(test_sinusoidal.test_paper_by_loops)
def _(patch: pytest.MonkeyPatch) -> None:
    """sines and cosines stand in halves where the paper interleaves them"""
    true = sinusoidal.Sinusoidal.code

    def code(self: Any, *a: Any) -> Any:
        patch.setattr(self, "layout", "halves")
        return true(self, *a)

    patch.setattr(sinusoidal.Sinusoidal, "code", code)


@fault(test_learned.test_gpt2_embeddings)
def _(patch: pytest.MonkeyPatch) -> None:
    """learned positions start at one"""
    true = learned.Learned.embed
    late = lambda self, x, at: true(self, x, (at + 1) % self.max_length)  # noqa: E731
    patch.setattr(learned.Learned, "embed", late)
