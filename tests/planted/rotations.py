"""Faults of rotations and spectra."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from golden import (
    test_llama_model,
    test_rope,
    test_rope_partial,
    test_rope_values,
    test_vo_rope,
    test_xpos,
)
from planted.registry import fault

from whatwhere import maps, phases
from whatwhere.encodings import rope
from whatwhere.spectra import geometric, parts


@fault(test_rope.test_complex_formula_by_loops)
def _(patch: pytest.MonkeyPatch) -> None:
    """the angle turns the other way"""
    true = phases.Angles.phase
    patch.setattr(phases.Angles, "phase", lambda self, *a: -true(self, *a))


@fault(test_rope.test_far_positions_keep_their_phase)
def _(patch: pytest.MonkeyPatch) -> None:
    """phases are float32 products of position and frequency"""

    def phase(self: Any, at: Any, dtype: Any = torch.float32) -> Any:
        frequencies = (self.turns.double() * 2 * math.pi / 2.0**64).float()
        return (at.float()[..., None] * frequencies).to(dtype)

    patch.setattr(phases.Angles, "phase", phase)


def _swap_layout(patch: pytest.MonkeyPatch) -> None:
    true, other = maps.Rotate.__call__, {"half": "interleaved", "interleaved": "half"}
    swapped = lambda self, *a: true(replace(self, layout=other[self.layout]), *a)  # noqa: E731
    patch.setattr(maps.Rotate, "__call__", swapped)


@fault(test_rope.test_llama_live)
def _(patch: pytest.MonkeyPatch) -> None:
    """halves are taken for interleaved pairs"""
    _swap_layout(patch)


@fault(test_rope.test_gptj_live)
def _(patch: pytest.MonkeyPatch) -> None:
    """interleaved pairs are taken for halves"""
    _swap_layout(patch)


@fault(test_rope_partial.test_gpt_neox_live)
def _(patch: pytest.MonkeyPatch) -> None:
    """partial RoPE divides the exponent by the whole head"""
    whole = lambda _, dim: phases.Phases(geometric(base=1e4 ** (dim / 24)), dim)  # noqa: E731
    patch.setattr(rope, "Phases", whole)


@fault(test_vo_rope.test_outputs_by_an_explicit_sum)
def _(patch: pytest.MonkeyPatch) -> None:
    """rotated values are not turned back"""
    true = rope.RoPE.rule_with
    patch.setattr(rope.RoPE, "rule_with", lambda self, *a: replace(true(self, *a), output=None))


@fault(test_rope_values.test_an_attention_factor_does_not_lengthen_values)
def _(patch: pytest.MonkeyPatch) -> None:
    """YaRN's attention factor lengthens values"""
    patch.setattr(rope, "_unit", lambda angles: angles)


@fault(test_xpos.test_torchscale_by_loops)
def _(patch: pytest.MonkeyPatch) -> None:
    """xPos decays keys as it decays queries"""
    true = maps.Decay.factor
    patch.setattr(maps.Decay, "factor", lambda self, *a: true(replace(self, side=1), *a))


@fault(test_llama_model.test_attention_of_the_model, "yarn")
def _(patch: pytest.MonkeyPatch) -> None:
    """YaRN's ramp is the paper's instead of the code's"""
    true = parts._unchanged
    patch.setattr(parts, "_unchanged", lambda *a: true(*a[:5], "paper", True))


@fault(test_llama_model.test_attention_of_the_model, "yarn")
def _(patch: pytest.MonkeyPatch) -> None:
    """YaRN's attention factor is applied on one side only"""
    true = parts.magnitude
    patch.setattr(parts, "magnitude", lambda *a: math.sqrt(true(*a)))
