"""What must hold for every spectrum, generated from TABLE: a new one is tested by being there."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whatwhere import spectra
from whatwhere.citations import bibtex

NAMES = sorted(spectra.TABLE)
TRAINED = 1000
DIMS = st.integers(2, 70).map(lambda half: 2 * half)
BASES = st.floats(1.5, 1e8)


def options_of(name: str, factor: float | str, half: int, base: float) -> dict[str, Any]:
    """Options that stretch by `factor` ("the factor" is called something else in a few)."""
    known = spectra.TABLE[name].parameters
    number = factor if isinstance(factor, float) else 1.0
    found: dict[str, Any] = {"base": base}
    for key, value in {
        "factor": number if name == "dynamic_ntk" else factor,
        "train_length": TRAINED,
        "alpha": number if name == "ntk_alpha" else 1.0,
        "multiplier": number,
        "divisor": number,
        "share": 1.0,
        "long_factor": [number] * half,
        "short_factor": [1.0] * half,
    }.items():
        if key in known:
            found[key] = value
    return found


def build(name: str, factor: float | str, half: int, base: float) -> spectra.Spectrum:
    return spectra.make(name, **options_of(name, factor, half, base))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(dim=DIMS, base=BASES)
def test_factor_one_is_rope(name: str, dim: int, base: float) -> None:
    found = build(name, 1.0, dim // 2, base)(dim, TRAINED)
    expected = spectra.geometric(base=base)(dim)
    assert found.inv_freq == pytest.approx(expected.inv_freq, rel=1e-14, abs=0)
    assert found.amplitude == 1


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(dim=DIMS, base=BASES, factor=st.floats(1.0, 100.0), length=st.integers(1, 100_000))
def test_shape_and_bounds(name: str, dim: int, base: float, factor: float, length: int) -> None:
    """dim // 2 falling frequencies between no change and a division by the factor."""
    spectrum = build(name, factor, dim // 2, base)
    found = spectrum(dim, length)
    assert len(found.inv_freq) == dim // 2
    assert all(faster >= slower > 0 for faster, slower in pairwise(found.inv_freq))
    plain = spectra.geometric(base=base)(dim).inv_freq
    most = factor
    if spectrum.length_dependent:  # steepest is Qwen's 2^(k+1) - 1 for n just above 2^(k-1) L
        most = max(1.0, 4 * factor * length / TRAINED)
    for theta, changed in zip(plain, found.inv_freq, strict=True):
        assert theta / most * (1 - 1e-12) <= changed <= theta * (1 + 1e-12)
    assert found.amplitude >= 1


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(dim=DIMS, lengths=st.lists(st.integers(1, 50 * TRAINED), min_size=2, max_size=4))
def test_length_dependent_says_the_truth(name: str, dim: int, lengths: list[int]) -> None:
    for factor in (4.0, "dynamic"):
        spectrum = build(name, factor, dim // 2, 10000.0)
        if not spectrum.length_dependent:
            assert len({spectrum(dim, n) for n in (None, *lengths)}) == 1
        else:
            assert len({spectrum(dim, n) for n in (TRAINED, 10 * TRAINED)}) == 2
            with pytest.raises(ValueError, match="depends on the length"):
                spectrum(dim)


WITH_FACTOR = [n for n in NAMES if spectra.TABLE[n].parameters.get("factor", 1.0) is None]


@pytest.mark.parametrize("name", WITH_FACTOR)
def test_what_is_no_number_as_factor_comes_from_the_lengths(name: str) -> None:
    shared = options_of(name, 1.0, 32, 10000.0) | {"train_length": TRAINED}
    del shared["factor"]
    open_ended = spectra.make(name, **shared)
    dynamic = spectra.dynamic(name, **shared)
    fixed = spectra.make(name, factor=2.5, **shared)
    assert open_ended.length_dependent
    assert dynamic.length_dependent
    assert open_ended(64, 2500) == dynamic(64, 2500) == fixed(64, 2500)
    assert open_ended(64, 1000) == dynamic(64, 1000) == dynamic(64, 10)
    with pytest.raises(ValueError, match=r"horizon=999, train_length=1000.*factor='dynamic'"):
        open_ended(64, 999)


@pytest.mark.parametrize("length", [1, 999, 1000, 1001, 4321])
def test_two_names_of_one_rule(length: int) -> None:
    def at(spectrum: spectra.Spectrum) -> tuple[float, ...]:
        return spectrum(96, length).inv_freq

    # YaRN paper 3.3 over PI; over NTK it is transformers' "dynamic" with factor 1.
    pi = spectra.linear(factor="dynamic", train_length=1000)
    assert at(spectra.length_scaled(train_length=1000)) == at(pi)
    ntk = spectra.dynamic("ntk", train_length=1000)
    assert at(spectra.dynamic_ntk(train_length=1000)) == pytest.approx(at(ntk), rel=1e-14)


@settings(max_examples=50, deadline=None)
@given(dim=DIMS, base=BASES, factor=st.floats(1.0, 100.0))
def test_ends_of_the_ladder(dim: int, base: float, factor: float) -> None:
    """PI divides all alike; NTK leaves the first pair alone and divides the last by the factor."""
    plain = spectra.geometric(base=base)(dim).inv_freq
    assert plain[0] == 1
    assert plain[-1] == pytest.approx(base ** (2 / dim - 1), rel=1e-13)
    linear = spectra.linear(factor=factor, base=base)(dim).inv_freq
    assert linear == pytest.approx([theta / factor for theta in plain], rel=1e-14, abs=0)
    ntk = spectra.ntk(factor=factor, base=base)(dim).inv_freq
    assert ntk[0] == 1
    assert ntk[-1] == pytest.approx(plain[-1] / factor, rel=1e-12)
    for name in ("ntk_fixed", "ntk_mixed"):
        found = spectra.make(name, factor=factor, base=base)(dim).inv_freq
        assert found[-1] == pytest.approx(plain[-1] / factor, rel=1e-12)


@settings(max_examples=50, deadline=None)
@given(
    dim=DIMS,
    base=BASES,
    factor=st.floats(1.0, 100.0),
    length=st.integers(8, 100_000),
    ramp=st.sampled_from(["code", "paper"]),
)
def test_by_parts_sorts_pairs_by_their_turns(
    dim: int, base: float, factor: float, length: int, ramp: str
) -> None:
    """Kept above 32 turns, divided by the factor below one: for both ramps, up to rounded ends."""
    plain = spectra.geometric(base=base)(dim)
    found = spectra.by_parts(factor=factor, train_length=length, ramp=ramp, base=base)(dim)
    turns = plain.turns_within(length)
    step = base ** (2 / dim) if ramp == "code" else 1.0  # one pair further in turns
    for theta, changed, r in zip(plain.inv_freq, found.inv_freq, turns, strict=True):
        if r > 32 * step * 1.0001:
            assert changed == pytest.approx(theta, rel=1e-12)
        if r < 1 / step * 0.9999:
            assert changed == pytest.approx(theta / factor, rel=1e-12)


def test_yarn_is_by_parts_with_an_amplitude() -> None:
    shared = {"factor": 7, "train_length": 3000, "base": 50000.0}
    for ramp in ("code", "paper"):
        yarn = spectra.yarn(**shared, beta_fast=20, beta_slow=2, ramp=ramp)(64)
        parts = spectra.by_parts(**shared, beta=20, alpha=2, ramp=ramp)(64)
        assert yarn.inv_freq == parts.inv_freq
        assert (parts.amplitude, yarn.amplitude) == (1, 0.1 * math.log(7) + 1)
    # Rounding the ends matters: it is an option of its own, and the released default.
    rounded, exact = (spectra.yarn(**shared, truncate=t)(64).inv_freq for t in (True, False))
    apart = [abs(a / b - 1) for a, b in zip(rounded, exact, strict=True)]
    assert max(apart) > 0.02
    assert spectra.yarn(**shared)(64).inv_freq == rounded


@pytest.mark.parametrize("name", NAMES)
def test_every_spectrum_is_documented_and_cited(name: str) -> None:
    family = spectra.TABLE[name]
    assert bibtex(family.cite).startswith("@")
    text = family.__doc__ or ""
    for part in ("theta", "radians per token", "Source: "):
        assert part in " ".join(text.split()), f"{name}'s docstring lacks {part!r}"
