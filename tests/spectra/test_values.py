"""Spectra as values: equality, printing, serialization; and every refusal with its words."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from whatwhere import spectra
from whatwhere.errors import UnknownName, did_you_mean

EXAMPLES = [
    spectra.geometric(),
    spectra.geometric(base=1e6),
    spectra.abf(),
    spectra.proportional(),
    spectra.linear(factor=8),
    spectra.linear(train_length=128),
    spectra.length_scaled(train_length=128),
    spectra.ntk(factor=1e16),
    spectra.ntk_base(factor=8.25),
    spectra.ntk_fixed(factor=8),
    spectra.ntk_mixed(factor="dynamic", train_length=9),
    spectra.ntk_alpha(),
    spectra.dynamic_ntk(train_length=128),
    spectra.qwen_dynamic(train_length=128),
    spectra.by_parts(factor=8, train_length=128, ramp="paper"),
    spectra.yarn(train_length=128, truncate=False, attention_factor=0.75),
    spectra.llama3(factor=8, train_length=8192, base=5e5),
    spectra.longrope(long_factor=[1.0, 2.5], short_factor=(1, 1), train_length=9, n_hat=4),
]


def test_the_examples_hold_every_spectrum() -> None:
    assert {spectrum.name for spectrum in EXAMPLES} == set(spectra.TABLE)


@pytest.mark.parametrize("spectrum", EXAMPLES, ids=str)
def test_round_trips(spectrum: spectra.Spectrum) -> None:
    data = spectrum.to_dict()
    assert json.loads(json.dumps(data)) == data
    again = spectra.Spectrum.from_dict(json.loads(json.dumps(data)))
    assert again == spectrum
    assert hash(again) == hash(spectrum)
    # And as printed: the text names every option that is not at its default.
    words = {"dynamic": "dynamic", "paper": "paper"}
    assert eval(str(spectrum), dict(spectra.TABLE) | words) == spectrum
    # A '+' joins modifiers in the expression of an encoding: 1e+16 would be cut in two.
    assert "+" not in str(spectrum)


def test_two_spellings_are_one_value() -> None:
    short = spectra.yarn(factor=8, train_length=2048)
    long = spectra.yarn(
        base=10000, truncate=True, factor=8.0, train_length=2048, beta_fast=32, ramp="code"
    )
    assert short == long
    assert len({short, long, spectra.make("yarn", factor=8, train_length=2048)}) == 1
    assert str(short) == repr(short) == "yarn(factor=8, train_length=2048)"
    assert list(dict(short.options)) == list(spectra.TABLE["yarn"].parameters)
    assert short != spectra.yarn(factor=8, train_length=2049)
    assert short != spectra.by_parts(factor=8, train_length=2048)
    listed = spectra.longrope(long_factor=[1, 2], train_length=9)
    assert listed == spectra.longrope(long_factor=(1.0, 2.0), train_length=9)


def test_replace_changes_one_option_and_checks_it() -> None:
    spectrum = spectra.yarn(train_length=2048, beta_fast=16)
    assert spectrum.replace(factor=4) == spectra.yarn(factor=4, train_length=2048, beta_fast=16)
    with pytest.raises(ValueError, match="factor"):
        spectrum.replace(factor=0.5)


def test_values_do_not_change() -> None:
    spectrum = spectra.linear(factor=2)
    with pytest.raises(FrozenInstanceError):
        spectrum.name = "ntk"
    with pytest.raises(FrozenInstanceError):
        spectrum(8).amplitude = 2.0


def out_of_range() -> list[tuple[str, Any, str]]:
    """One number where it may not be: (what, call, words of the message)."""
    nan, inf = math.nan, math.inf
    found = [
        (f"base {b}", lambda b=b: spectra.geometric(base=b), f"geometric: base .*above 1.*got {b}")
        for b in (nan, inf, -10000.0, 0, 1, 0.5)
    ]
    found += [
        (
            f"factor {f}",
            lambda f=f: spectra.linear(factor=f),
            rf"linear: factor .*at least 1.*got {f}",
        )
        for f in (nan, inf, 0.999, 0, -2, True)
    ]
    found += [
        (
            f"train_length {n}",
            lambda n=n: spectra.yarn(factor=2, train_length=n),
            f"yarn: train_length must be a whole number of at least 1, got {n}",
        )
        for n in (0, -1, 2048.0, True)
    ]
    found += [
        (f"dim {d}", lambda d=d: spectra.geometric()(d), f"dim .*even.*got {d}")
        for d in (0, -2, 1, 63, True)
    ]
    found += [
        (f"horizon {n}", lambda n=n: spectra.geometric()(8, n), f"horizon .*at least 1.*got {n}")
        for n in (0, -5, True)
    ]
    return found


def misfits() -> list[tuple[str, Any, str]]:
    """Missing, misspelt or contradictory options: (what, call, words of the message)."""
    yarn = {"factor": 4, "train_length": 2048}
    return [
        ("factor word", lambda: spectra.ntk(factor="dynamc"), "'dynamic' or None, got 'dynamc'"),
        ("text", lambda: spectra.ntk(factor="8"), "must be a finite number of at least 1"),
        ("nothing", spectra.linear, "linear: give factor, or train_length so that"),
        ("no length", lambda: spectra.yarn(factor=8), r"yarn needs train_length: yarn\("),
        ("open", lambda: spectra.yarn(train_length=9)(8), "give horizon, in tokens, or a number"),
        (
            "too short",
            lambda: spectra.linear(train_length=9)(8, 8),
            r"below 1 here: horizon=8, train_length=9\. Give factor=1, or factor='dynamic'",
        ),
        ("one pair", lambda: spectra.ntk(factor=2)(2), "dim must be at least 4, got 2"),
        ("ramp", lambda: spectra.yarn(**yarn, ramp="papr"), "ramp must be 'code' or 'paper'"),
        ("flag", lambda: spectra.yarn(**yarn, truncate=1), "truncate must be True or False, got 1"),
        (
            "ramp turned",
            lambda: spectra.yarn(**yarn, beta_fast=1, beta_slow=2),
            "beta_slow=2 must not exceed beta_fast=1",
        ),
        (
            "llama ramp turned",
            lambda: spectra.llama3(**yarn, low_freq_factor=5),
            "low_freq_factor=5 must not exceed high_freq_factor=4",
        ),
        (
            "ends of the paper",
            lambda: spectra.by_parts(**yarn, ramp="paper", truncate=False),
            "truncate=False belongs to ramp='code'",
        ),
        ("mscale", lambda: spectra.yarn(**yarn, mscale=1.0), "mscale_all_dim=None go together"),
        ("alpha", lambda: spectra.ntk_alpha(alpha=0.5), "alpha must be .*at least 1, got 0.5"),
        ("share", lambda: spectra.proportional(share=1.5), "share is 1.5"),
        (
            "list lengths",
            lambda: spectra.longrope(long_factor=[1, 2], short_factor=[1], train_length=9),
            "short_factor has 1 numbers, long_factor has 2",
        ),
        (
            "long list",
            lambda: spectra.longrope(long_factor=[1] * 5, factor=2, train_length=9)(8),
            "long_factor must hold dim // 2 = 4 numbers for dim=8, got 5",
        ),
        (
            "short list",
            lambda: spectra.longrope(
                long_factor=[1] * 3, short_factor=[2] * 3, factor=2, train_length=9
            )(8, 4),
            "short_factor must hold dim // 2 = 4 numbers for dim=8, got 3",
        ),
        (
            "list entry",
            lambda: spectra.longrope(long_factor=[1, -2], train_length=9),
            "long_factor must hold positive finite numbers only",
        ),
        (
            "no list",
            lambda: spectra.longrope(long_factor=2.0, train_length=9),
            "long_factor must be a list of positive numbers",
        ),
        (
            "policy",
            lambda: spectra.longrope(long_factor=[1], train_length=9, attention_factor="none"),
            "attention_factor must be .*'su' or 'yarn', got 'none'",
        ),
        (
            "one token",
            lambda: spectra.longrope(long_factor=[1], train_length=1),
            "divides by ln",
        ),
        ("n_hat", lambda: spectra.longrope(long_factor=[1], train_length=9, n_hat=-1), "n_hat"),
        ("nameless", lambda: spectra.Spectrum.from_dict({"options": {}}), "needs a name"),
        ("empty", lambda: spectra.Frequencies(()), "at least one frequency"),
        ("nan", lambda: spectra.Frequencies((1.0, math.nan)), "finite and not negative, got nan"),
        ("negative", lambda: spectra.Frequencies((-1.0,)), "finite and not negative, got -1.0"),
        ("amplitude", lambda: spectra.Frequencies((1.0,), 0.0), "amplitude must be finite and pos"),
        ("start", lambda: spectra.Frequencies((1.0,), start=3), "start=3 and start_inv_freq"),
        (
            "start length",
            lambda: spectra.Frequencies((1.0,), 1.0, 3, (1.0, 0.5)),
            "start_inv_freq has 2 frequencies, inv_freq has 1",
        ),
        ("turns", lambda: spectra.Frequencies((1.0,)).turns_within(0), "at least 1 token, got 0"),
    ]


@pytest.mark.parametrize(
    ("call", "words"), [pytest.param(c, w, id=name) for name, c, w in out_of_range() + misfits()]
)
def test_refuses_with_a_reason(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_unknown_names_say_what_was_meant() -> None:
    with pytest.raises(UnknownName, match=r"unknown spectrum 'yarm'; did you mean 'yarn'\?"):
        spectra.make("yarm", factor=2)
    with pytest.raises(UnknownName, match=r"unknown spectrum 'nkt'"):
        spectra.Spectrum("nkt", ())(8)
    with pytest.raises(
        UnknownName, match=r"unknown option of yarn 'beta_fst'; did you mean 'beta_"
    ):
        spectra.make("yarn", train_length=8, beta_fst=3)
    with pytest.raises(UnknownName, match=r"did you mean 'options'"):
        spectra.Spectrum.from_dict({"name": "ntk", "option": {"factor": 2}})
    with pytest.raises(TypeError, match="linear takes its options by name"):
        spectra.TABLE["linear"](8)


def test_the_sentence_for_an_unknown_name() -> None:
    known = ["yarn", "ntk"]
    assert did_you_mean("spectrum", "yarm", known) == (
        "unknown spectrum 'yarm'; did you mean 'yarn'? Known: ntk, yarn"
    )
    assert did_you_mean("task", "zzzz", known) == "unknown task 'zzzz'. Known: ntk, yarn"
    assert did_you_mean("task", 3, []) == "unknown task 3; there are none."
    assert issubclass(UnknownName, ValueError)
