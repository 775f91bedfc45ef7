"""Against the released functions of transformers, called live: whoever is wrong, they differ.

Each case runs twice. "float64": transformers' own formula with its float32 replaced by float64,
agreement to 1e-12. "released": as it ships. There a pair's frequency b^(-e), e = 2i/d < 1, carries
the rounding of e and of ln b in the exponent, at most u ln b each, and a handful of roundings
after it: u (2 ln b + 12), u = 2^-24. A ramp adds a rounding of gamma that the blend multiplies by
(theta - theta/s) / theta' <= s - 1: see `released_tolerance`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from whatwhere import spectra

torch = pytest.importorskip("torch")
rope_utils = pytest.importorskip("transformers.modeling_rope_utils")
from transformers import LlamaConfig  # noqa: E402
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding  # noqa: E402

FLOAT64 = 1e-12


def transformers(
    rope_type: str, dim: int, length: int | None = None, maximum: int = 4096, **parameters: Any
) -> tuple[list[float], float]:
    """What transformers computes: inverse frequencies and the factor on cos and sin.

    The configuration is flat: transformers 5.23.0 reads `truncate` from nowhere else.
    """
    config = LlamaConfig(
        hidden_size=3 * dim,
        num_attention_heads=3,
        head_dim=dim,
        max_position_embeddings=maximum,
        rope_parameters={"rope_type": rope_type, **parameters},
    )
    if rope_type == "default":
        inv_freq, factor = LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    else:
        inv_freq, factor = rope_utils.ROPE_INIT_FUNCTIONS[rope_type](
            config, torch.device("cpu"), seq_len=length
        )
    return inv_freq.double().tolist(), float(factor)


def in_float64(patch: pytest.MonkeyPatch) -> None:
    """Let `torch.float` mean float64: the formula stays transformers', its rounding goes."""
    patch.setattr(torch, "float", torch.float64)
    patch.setattr(torch, "float32", torch.float64)


def released_tolerance(base: float, ramp: float = 0.0) -> float:
    """u (2 ln b + 12) + u · ramp, `ramp` being the error of gamma in u times s - 1."""
    return 2.0**-24 * (2 * math.log(base) + 12 + ramp)


def assert_same(ours: spectra.Frequencies, theirs: tuple[list[float], float], rel: float) -> None:
    assert len(ours.inv_freq) == len(theirs[0])
    assert ours.inv_freq == pytest.approx(theirs[0], rel=rel, abs=0)
    assert ours.amplitude == pytest.approx(theirs[1], rel=1e-12)


@dataclass
class Case:
    """One spectrum and the same thing in transformers' words."""

    rope_type: str
    spectrum: spectra.Spectrum
    parameters: dict[str, Any]
    dim: int = 128
    length: int | None = None
    maximum: int = 4096
    largest_base: float = 0.0
    ramp: float = 0.0

    def __str__(self) -> str:
        return f"{self.spectrum}-d{self.dim}-n{self.length}"


def cases() -> list[Case]:
    found = []
    for dim, base in [(6, 10000.0), (64, 500000.0), (80, 10000.0), (128, 1e6)]:
        theta = {"rope_theta": base}
        found.append(Case("default", spectra.geometric(base=base), theta, dim))
        for factor in (1.0, 3.7, 16.0):
            found.append(
                Case(
                    "linear",
                    spectra.linear(factor=factor, base=base),
                    {**theta, "factor": factor},
                    dim,
                )
            )
        for share, factor in [(0.25, 1.0), (0.3, 2.0), (1.0, 1.0)]:
            found.append(
                Case(
                    "proportional",
                    spectra.proportional(share=share, divisor=factor, base=base),
                    {**theta, "partial_rotary_factor": share, "factor": factor},
                    dim,
                )
            )
        for factor in (1.0, 2.0, 8.0):
            dynamic = spectra.dynamic_ntk(factor=factor, train_length=1000, base=base)
            for length in (1, 999, 1000, 1001, 7777):
                scale = factor * max(length, 1000) / 1000 - factor + 1
                found.append(
                    Case(
                        "dynamic",
                        dynamic,
                        {**theta, "factor": factor},
                        dim,
                        length,
                        maximum=1000,
                        largest_base=base * scale ** (dim / (dim - 2)),
                    )
                )
    return found + yarn_cases() + llama3_cases()


def yarn_case(dim: int, base: float, factor: float, length: int, **options: Any) -> Case:
    spectrum = spectra.yarn(factor=factor, train_length=length, base=base, **options)
    parameters = {"rope_theta": base, "factor": factor, **options}
    parameters["original_max_position_embeddings"] = length
    # gamma = (i - low)/(high - low) in float32: low rounds by u d/2, a narrow ramp is at least one
    # pair wide, and 1 - gamma and the division round a few times more.
    ramp = (dim / 2 + 6) * (factor - 1)
    return Case("yarn", spectrum, parameters, dim, ramp=ramp)


def yarn_cases() -> list[Case]:
    found = [
        yarn_case(dim, base, factor, length, **options)
        for length in (700, 4096)
        for dim, base, factor, options in [
            (64, 10000.0, 8.0, {}),
            (128, 10000.0, 10.0, {}),
            (128, 1e6, 4.0, {"truncate": False}),
            (96, 10000.0, 32.0, {"truncate": False}),
            (128, 500000.0, 40.0, {"mscale": 1.0, "mscale_all_dim": 1.0}),
            (64, 10000.0, 40.0, {"mscale": 0.707, "mscale_all_dim": 1.3}),
            (64, 10000.0, 6.0, {"attention_factor": 1.7}),
            (64, 10000.0, 6.0, {"attention_factor": 0.9, "mscale": 2.0, "mscale_all_dim": 1.0}),
            (80, 10000.0, 5.0, {"beta_fast": 20.0, "beta_slow": 2.5}),
            (16, 10000.0, 1.0, {}),
            # The slowest pair turns more than once: the upper end runs past the last pair.
            (8, 50.0, 4.0, {}),
        ]
    ]
    # Both ends round to pair 0, and 0.001 keeps the ramp from being a division by zero.
    return [*found, yarn_case(64, 10000.0, 4.0, 5)]


def llama3_cases() -> list[Case]:
    found = []
    for dim, base, factor, low, high, length in [
        (128, 500000.0, 8.0, 1.0, 4.0, 8192),
        (64, 500000.0, 32.0, 1.0, 4.0, 8192),
        (96, 10000.0, 5.5, 0.5, 32.0, 333),
    ]:
        spectrum = spectra.llama3(
            factor=factor,
            low_freq_factor=low,
            high_freq_factor=high,
            train_length=length,
            base=base,
        )
        parameters = {
            "rope_theta": base,
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": length,
        }
        # smooth = (turns - low)/(high - low), the turns as wrong as the frequency they come from.
        ramp = high / (high - low) * (2 * math.log(base) + 12) * (factor - 1)
        found.append(Case("llama3", spectrum, parameters, dim, ramp=ramp))
    return found


@pytest.mark.parametrize("case", cases(), ids=str)
def test_agrees_in_float64(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    in_float64(monkeypatch)
    theirs = transformers(case.rope_type, case.dim, case.length, case.maximum, **case.parameters)
    assert_same(case.spectrum(case.dim, case.length), theirs, FLOAT64)


@pytest.mark.parametrize("case", cases(), ids=str)
def test_agrees_as_released(case: Case) -> None:
    theirs = transformers(case.rope_type, case.dim, case.length, case.maximum, **case.parameters)
    base = max(case.largest_base, case.parameters["rope_theta"])
    rel = released_tolerance(base, case.ramp)
    assert_same(case.spectrum(case.dim, case.length), theirs, rel)


@pytest.mark.parametrize("length", [1, 500, 4095, 4096, 4097, 60000])
@pytest.mark.parametrize("attention_factor", [None, 1.3])
def test_longrope_switches_lists_as_transformers_does(
    length: int, attention_factor: float | None
) -> None:
    # Its exponents are made by `.float()`, which no patch reaches: as released only.
    dim, base = 20, 10000.0
    short = [1.0, 1.05, 1.1, 1.2, 1.2, 1.5, 2.0, 2.0, 3.0, 3.5]
    long = [1.0, 1.3, 1.9, 4.0, 7.0, 12.5, 20.0, 31.0, 32.0, 39.0]
    parameters = {
        "rope_theta": base,
        "short_factor": short,
        "long_factor": long,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
    }
    ours = spectra.longrope(
        short_factor=short,
        long_factor=long,
        factor=32,
        train_length=4096,
        attention_factor="su" if attention_factor is None else attention_factor,
        base=base,
    )
    if attention_factor is not None:
        parameters["attention_factor"] = attention_factor
    theirs = transformers("longrope", dim, length, 131072, **parameters)
    assert_same(ours(dim, length), theirs, released_tolerance(base))
    assert len({ours(dim, n).inv_freq for n in (4096, 4097)}) == 2


def test_no_factor_is_the_ratio_of_the_lengths_as_in_transformers() -> None:
    parameters = {"rope_theta": 10000.0, "factor": None, "original_max_position_embeddings": 2048}
    theirs = transformers("yarn", 64, None, 10240, **parameters)
    ours = spectra.yarn(train_length=2048)(64, horizon=10240)
    assert_same(ours, theirs, released_tolerance(10000.0, (64 / 2 + 6) * 4))
    assert ours == spectra.yarn(factor=5, train_length=2048)(64)


@settings(max_examples=40, deadline=None)
@given(
    half=st.integers(2, 96),
    base=st.floats(20.0, 1e7),
    factor=st.floats(1.0, 64.0),
    length=st.integers(256, 100_000),
    slow=st.floats(0.5, 4.0),
    wider=st.floats(1.0, 40.0),
    truncate=st.booleans(),
)
def test_yarn_agrees_anywhere(
    half: int, base: float, factor: float, length: int, slow: float, wider: float, truncate: bool
) -> None:
    options = {"beta_slow": slow, "beta_fast": slow * wider, "truncate": truncate}
    # Where the ends fall off one side transformers turns the ramp around: see test_numbers.
    first = 2 * half * math.log(length / (slow * wider * math.tau)) / (2 * math.log(base))
    assume(first < 2 * half - 1)
    parameters = {"rope_theta": base, "factor": factor, **options}
    parameters["original_max_position_embeddings"] = length
    ours = spectra.yarn(factor=factor, train_length=length, base=base, **options)(2 * half)
    with pytest.MonkeyPatch.context() as patch:
        in_float64(patch)
        theirs = transformers("yarn", 2 * half, None, length, **parameters)
    # A ramp much narrower than a pair multiplies the rounding of its ends.
    assert_same(ours, theirs, 1e-9)
