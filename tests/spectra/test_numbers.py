"""Numbers that the authors printed, or that were checked by hand from their formulas.

The provenance stands at each; "facts" is the project's fact sheet, whose numbers were recomputed
from the papers and from the released code.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from whatwhere import spectra
from whatwhere.spectra.parts import ramp_ends


def ratios(changed: spectra.Spectrum, plain: spectra.Spectrum, dim: int) -> list[float]:
    """theta' / theta for every pair."""
    pairs = zip(changed(dim).inv_freq, plain(dim).inv_freq, strict=True)
    return [ours / theta for ours, theta in pairs]


@pytest.mark.parametrize(
    ("spectrum", "expected"),
    [
        (spectra.ntk(factor=8), (1.0, 0.3478, 0.125)),
        (spectra.ntk_base(factor=8), (1.0, 0.3536, 0.1291)),
        (spectra.ntk_fixed(factor=8), (0.968, 0.3423, 0.125)),
        (spectra.ntk_mixed(factor=8), (0.857, 0.253, 0.125)),
    ],
    ids=str,
)
def test_the_four_formulas_called_ntk(spectrum: spectra.Spectrum, expected: tuple) -> None:
    # Facts, section 9: dim 128, factor 8, pairs 0, 32 and 63; printed to 3 or 4 digits.
    found = ratios(spectrum, spectra.geometric(), 128)
    for index, value in zip((0, 32, 63), expected, strict=True):
        digits = len(f"{value:g}".partition(".")[2])
        assert found[index] == pytest.approx(value, abs=0.5 * 10**-digits)


def test_ntk_mixed_with_the_other_published_exponent() -> None:
    # The rerope repository: theta_i / exp(a (i+1)^.75), a = ln 12 / (d/2)^.75.
    found = ratios(spectra.ntk_mixed(factor=12, beta=0.75), spectra.geometric(), 100)
    a = math.log(12) / 50**0.75
    assert found[9] == pytest.approx(math.exp(-a * 10**0.75), rel=1e-13)
    assert found[-1] == pytest.approx(1 / 12, rel=1e-13)


def test_adjusted_base_is_ntk_with_47() -> None:
    # Facts, section 9: base 10k -> 500k at dim 128 equals bloc97's formula with factor 47.04.
    assert spectra.abf()(128) == spectra.geometric(base=500_000)(128)
    factor = 50 ** (126 / 128)
    assert factor == pytest.approx(47.04, abs=0.005)
    expected = spectra.ntk(factor=factor)(128).inv_freq
    assert spectra.abf()(128).inv_freq == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize(
    ("length", "alpha"),
    [(1, 1), (2048, 1), (2049, 3), (4096, 3), (4097, 7), (8192, 7), (8193, 15), (16385, 31)],
)
def test_qwen_grows_at_every_doubling(length: int, alpha: int) -> None:
    # Facts, section 9, for L = 2048.
    found = spectra.qwen_dynamic(train_length=2048)(128, length).inv_freq
    assert found == pytest.approx(spectra.ntk(factor=alpha)(128).inv_freq, rel=1e-14)


def test_hunyuan_alpha_is_static() -> None:
    spectrum = spectra.ntk_alpha(alpha=1000)
    assert not spectrum.length_dependent
    expected = spectra.geometric(base=10000 * 1000 ** (128 / 126))(128)
    assert spectrum(128) == expected


@pytest.mark.parametrize(("factor", "k"), [(1.0, 2), (2.0, 2), (2.0, 5), (8.0, 3)])
def test_hugging_faces_factor_is_no_ratio_of_lengths(factor: float, k: int) -> None:
    # Facts, section 10: at n = L k the scale is f k - (f - 1), above k for f > 1.
    found = spectra.dynamic_ntk(factor=factor, train_length=1024)(64, 1024 * k)
    effective = factor * k - (factor - 1)
    assert found.inv_freq[-1] == pytest.approx(
        spectra.geometric()(64).inv_freq[-1] / effective, rel=1e-13
    )
    assert effective > k or factor == 1


@pytest.mark.parametrize(
    ("factor", "expected", "digits"), [(32, 1.34657, 5), (10, 1.23026, 5), (8, 1.208, 3)]
)
def test_yarn_amplitude(factor: float, expected: float, digits: int) -> None:
    # Facts, section 12: sqrt(1/t) = 0.1 ln s + 1.
    amplitude = spectra.yarn(factor=factor, train_length=4096)(128).amplitude
    assert amplitude == pytest.approx(expected, abs=0.5 * 10**-digits)


def test_yarn_amplitude_by_hand_written_options() -> None:
    def amplitude(**options: float) -> float:
        return spectra.yarn(factor=40, train_length=4096, **options)(64).amplitude

    assert amplitude(mscale=1.0, mscale_all_dim=1.0) == 1
    assert amplitude(mscale=0.707, mscale_all_dim=1.3) == pytest.approx(
        (0.0707 * math.log(40) + 1) / (0.13 * math.log(40) + 1), rel=1e-14
    )
    assert amplitude(attention_factor=1.5, mscale=1.0, mscale_all_dim=3.0) == 1.5
    assert amplitude() == pytest.approx(0.1 * math.log(40) + 1, rel=1e-14)


def test_ramp_of_the_code() -> None:
    # Facts, section 11: dim 128, L 2048, s 10; both ramps blend the pairs 17..40, no others.
    code = spectra.by_parts(factor=10, train_length=2048)
    paper = spectra.by_parts(factor=10, train_length=2048, ramp="paper")
    for spectrum in (code, paper):
        found = ratios(spectrum, spectra.geometric(), 128)
        assert found[:17] == pytest.approx([1.0] * 17, rel=1e-14)
        assert found[41:] == pytest.approx([0.1] * 23, rel=1e-14)
        assert all(0.1 < ratio < 1 for ratio in found[17:41])
    assert ramp_ends(128, 10000.0, 2048, 1.0, 32.0, True) == (16, 41)
    # Their largest difference is 2.56 times, at pair 32.
    apart = ratios(code, paper, 128)
    assert max(range(64), key=lambda i: abs(math.log(apart[i]))) == 32
    assert apart[32] == pytest.approx(2.56, abs=0.005)


def test_ramp_of_the_paper() -> None:
    # YaRN eqs. 17-20 for one pair, written out: gamma = (r - alpha)/(beta - alpha).
    theta = 10000 ** (-2 * 28 / 128)
    r = 2048 * theta / (2 * math.pi)
    gamma = (r - 1) / (32 - 1)
    assert 0.1 < gamma < 0.9
    found = spectra.by_parts(factor=10, train_length=2048, ramp="paper")(128).inv_freq[28]
    assert found == pytest.approx((1 - gamma) * theta / 10 + gamma * theta, rel=1e-14)


@pytest.mark.parametrize(
    ("dim", "train_length", "base", "ratio"), [(64, 2, 10000.0, 0.25), (4, 562, 20.0, 1.0)]
)
def test_ends_that_fall_off_one_side_do_not_turn_the_ramp_around(
    dim: int, train_length: int, base: float, ratio: float
) -> None:
    # No pair turns once within 2 tokens, so all interpolate; at base 20 all turn more than 20
    # times in 562, so none does. transformers' clamp swaps the two ends and does the opposite.
    options = {"factor": 4, "train_length": train_length, "base": base, "beta": 1.5}
    plain = spectra.geometric(base=base)
    for ramp in ("code", "paper"):
        found = ratios(spectra.by_parts(**options, ramp=ramp), plain, dim)
        assert found == pytest.approx([ratio] * (dim // 2), rel=1e-14)


@pytest.mark.parametrize("factor", [1.0, 8.0, 32.0])
def test_llama3_is_by_parts_with_the_papers_ramp(factor: float) -> None:
    # Facts, section 11: equal to 2e-16 with alpha = 1, beta = 4.
    shared = {"factor": factor, "train_length": 8192, "base": 500_000.0}
    llama = spectra.llama3(**shared)(128).inv_freq
    parts = spectra.by_parts(**shared, alpha=1, beta=4, ramp="paper")(128).inv_freq
    assert llama == pytest.approx(parts, rel=1e-15)


def test_llama31_keeps_blends_and_divides() -> None:
    # Meta's values: pairs faster than 2048 tokens a turn stay, slower than 8192 are divided by 8.
    spectrum = spectra.llama3(factor=8, train_length=8192, base=500_000)
    plain = spectra.geometric(base=500_000)
    waves = plain(128).wavelengths
    for ratio, wave in zip(ratios(spectrum, plain, 128), waves, strict=True):
        if wave < 2048:
            assert ratio == 1
        elif wave > 8192:
            assert ratio == 1 / 8
        else:
            assert 1 / 8 < ratio < 1
    assert sum(2048 < wave < 8192 for wave in waves) == 6


def test_longrope_amplitude() -> None:
    # Facts, section 14: sqrt(1 + ln s / ln L) = 1.19024 for 128k from 4k.
    def amplitude(policy: float | str, factor: float | None = 32, length: int | None = None):
        spectrum = spectra.longrope(
            long_factor=[1.0] * 32,
            factor=factor,
            train_length=4096,
            attention_factor=policy,
        )
        return spectrum(64, length).amplitude

    assert amplitude("su") == pytest.approx(1.19024, abs=0.5e-5)
    assert amplitude("su", None, 131072) == amplitude("su")
    assert amplitude("yarn") == pytest.approx(1.34657, abs=0.5e-5)
    assert amplitude(1.25) == 1.25
    assert amplitude("su", 1) == 1


def test_longrope_is_every_static_method() -> None:
    # Facts, section 14: lambda = 1 is RoPE, lambda = s is PI, lambda_i = s^(2i/(d-2)) is NTK.
    def longrope(factors: list[float]) -> tuple[float, ...]:
        spectrum = spectra.longrope(long_factor=factors, train_length=4096, attention_factor=1)
        assert not spectrum.length_dependent
        return spectrum(96).inv_freq

    assert longrope([1.0] * 48) == spectra.geometric()(96).inv_freq
    assert longrope([6.0] * 48) == spectra.linear(factor=6)(96).inv_freq
    ntk = longrope([6.0 ** (2 * i / 94) for i in range(48)])
    assert ntk == pytest.approx(spectra.ntk(factor=6)(96).inv_freq, rel=1e-14)


def test_longrope_leaves_the_first_positions_alone() -> None:
    # Eq. 3: below n_hat the plain frequencies. The released code has no n_hat; HF's list switch
    # happens at the length, n_hat at the position.
    shared = {"long_factor": [2.0] * 8, "train_length": 100, "attention_factor": 1.0}
    with_start = spectra.longrope(n_hat=4, **shared)(16)
    assert (with_start.start, with_start.start_inv_freq) == (4, spectra.geometric()(16).inv_freq)
    without = spectra.longrope(**shared)(16)
    assert (without.start, without.start_inv_freq) == (0, None)
    assert with_start.inv_freq == without.inv_freq


def test_slowest_channel_of_pope_and_of_rope() -> None:
    # Facts (pope.md 1.1), d = 64: PoPE has d frequencies, so it asks for twice the dim.
    pope, rope = spectra.geometric()(2 * 64), spectra.geometric()(64)
    assert (len(pope.inv_freq), len(rope.inv_freq)) == (64, 32)
    assert pope.inv_freq[-1] == pytest.approx(1.1548e-4, rel=5e-5)
    assert pope.wavelengths[-1] == pytest.approx(54410, abs=0.5)
    assert rope.inv_freq[-1] == pytest.approx(1.3335e-4, rel=5e-5)
    assert rope.wavelengths[-1] == pytest.approx(47117, abs=0.5)


def test_wavelengths_and_turns() -> None:
    found = spectra.Frequencies((math.pi, math.tau / 50, 0.0))
    assert found.wavelengths == pytest.approx((2, 50, math.inf))
    assert found.turns_within(100) == pytest.approx((50, 2, 0))
    # Transformer, section 3.5: wavelengths run from 2 pi towards 10000 * 2 pi.
    waves = spectra.geometric()(512).wavelengths
    assert waves[0] == pytest.approx(math.tau)
    assert all(a < b for a, b in pairwise(waves))
    assert waves[-1] < 10000 * math.tau
