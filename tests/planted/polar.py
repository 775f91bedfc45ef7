"""Faults of PoPE: pope.md, sections 1 and 6."""

from __future__ import annotations

import math

import pytest
from golden import test_pope
from planted.registry import fault

from whatwhere import attention, maps
from whatwhere.encodings import pope
from whatwhere.spectra import geometric, plain


@fault(test_pope.test_equation_6_by_loops)
def _(patch: pytest.MonkeyPatch) -> None:
    """delta is clamped to the wrong side"""
    patch.setattr(pope.PoPE, "bounded_delta", lambda self: self.delta.clamp(0.0, 2 * math.pi))


@fault(test_pope.test_package_numbers)
def _(patch: pytest.MonkeyPatch) -> None:
    """delta has the wrong sign on the query"""
    true = pope.PoPE.bounded_delta
    patch.setattr(pope.PoPE, "bounded_delta", lambda self: -true(self))


@fault(test_pope.test_initial_delta)
def _(patch: pytest.MonkeyPatch) -> None:
    """delta starts on the side where the clamp is dead"""
    true = pope.PoPE.reset_parameters

    def reset(self: Any) -> None:
        true(self)
        self.delta.data.neg_()

    patch.setattr(pope.PoPE, "reset_parameters", reset)


@fault(test_pope.test_dead_zone_of_the_clamp, "straight_through", False)
def _(patch: pytest.MonkeyPatch) -> None:
    """the straight-through clamp loses its gradient"""
    patch.setattr(pope.PoPE, "bounded_delta", lambda self: self.delta.clamp(-2 * math.pi, 0.0))


@fault(test_pope.test_attention_by_loops)
def _(patch: pytest.MonkeyPatch) -> None:
    """scores are divided by the root of the doubled width"""
    true = attention.Call
    half = lambda q, k, v, w, scale, *a, **o: true(q, k, v, w, scale / 2**0.5, *a, **o)  # noqa: E731
    patch.setattr(attention, "Call", half)


@fault(test_pope.test_frequencies)
def _(patch: pytest.MonkeyPatch) -> None:
    """the exponent has the printed, positive sign"""
    rising = lambda dim, base: tuple(base ** (2 * i / dim) for i in range(dim // 2))  # noqa: E731
    patch.setattr(plain, "ladder", rising)


@fault(test_pope.test_equations_7_to_10_by_loops)
def _(patch: pytest.MonkeyPatch) -> None:
    """PoPE has RoPE's frequencies, base^(-2c/d) over d channels"""
    patch.setattr(pope, "geometric", lambda: geometric(base=1e8))


@fault(test_pope.test_without_delta_it_is_rope_over_twice_the_width)
def _(patch: pytest.MonkeyPatch) -> None:
    """magnitudes are ReLU"""
    patch.setattr(maps.Polar, "_size", lambda self, x: x.relu())
