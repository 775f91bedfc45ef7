"""YaRN's temperature: arXiv 2309.00071 Eq. 22, √(1/t) = 0.1 ln s + 1; scores carry its square."""

from __future__ import annotations

import math

import pytest
from golden.naive import SINGLE, close, scores
from golden.test_rope import AT, D, H, K, Q, rope

import whatwhere as ww

#: s: 0.1 ln s + 1, rounded: what released configurations call attention_factor.
TABLE = {1: 1.0, 2: 1.0693147, 4: 1.1386294, 8: 1.2079442, 16: 1.2772589, 32: 1.3465736}


@pytest.mark.parametrize("factor", TABLE)
def test_frozen_factors(factor: int) -> None:
    enc = ww.make(f"rope+yarn_temperature(factor={factor})", heads=H, head_dim=D)
    expected = TABLE[factor] ** 2 * scores(rope(), Q, K, AT)
    close(scores(enc.rule(), Q, K, AT), expected, 8 * SINGLE)


def test_transformers_attention_factor_live() -> None:
    utils = pytest.importorskip("transformers.modeling_rope_utils")
    from transformers import LlamaConfig

    parameters = {"rope_type": "yarn", "factor": 16.0, "rope_theta": 1e4}
    parameters["original_max_position_embeddings"] = 64
    config = LlamaConfig(
        hidden_size=64, num_attention_heads=2, max_position_embeddings=1024,
        rope_parameters=parameters,
    )  # fmt: skip
    factor = utils.ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")[1]
    assert math.isclose(factor, TABLE[16], abs_tol=1e-7)


def test_by_parts_and_temperature_are_yarn() -> None:
    """The spectrum yarn is NTK-by-parts with this factor on both sides."""
    whole = ww.make("rope+yarn(factor=8,train_length=64)", heads=H, head_dim=D)
    parts = ww.make(
        "rope+by_parts(factor=8,train_length=64)+yarn_temperature(factor=8)", heads=H, head_dim=D
    )
    close(scores(parts.rule(), Q, K, AT), scores(whole.rule(), Q, K, AT), 8 * SINGLE)
    amplitude = ww.spectra.yarn(factor=8, train_length=64)(D).amplitude
    assert math.isclose(amplitude, TABLE[8], abs_tol=1e-7)
