"""angles: the numbers of the spectrum, all of them, and only options that it takes."""

import json
import math

import pytest

from whatwhere import spectra

SETTING = ("--dim", "128", "--base", "10000", "--train-length", "2048", "--factor", "8")


def record(run, *arguments: str) -> dict:
    done = run("angles", *arguments, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


@pytest.mark.parametrize("name", sorted(set(spectra.TABLE) - {"longrope"}))
def test_every_spectrum_answers_the_standard_setting(run, name) -> None:
    found = record(run, name, *SETTING)
    assert found["spectrum"] == name
    assert len(found["inv_freq"]) == 64
    # what it says it used gives the same numbers again
    again = spectra.make(name, **found["parameters"])(128, found["horizon"])
    assert list(again.inv_freq) == found["inv_freq"]
    assert again.amplitude == found["amplitude"]
    taken = set(spectra.TABLE[name].parameters)
    for key, value in (("base", 10000.0), ("train_length", 2048), ("factor", 8.0)):
        if key in taken:
            assert found["parameters"][key] == value
    assert set(found["unused"]) == ({"base", "factor"} - taken) - (
        {"factor"} if spectra.make(name, **found["parameters"]).length_dependent else set()
    )


def test_yarn_against_the_papers_numbers(run) -> None:
    """Amplitude 0.1 ln 8 + 1 (arXiv 2309.00071, eq. 22); first pair kept, last divided by 8."""
    found = record(run, "yarn", *SETTING)
    assert found["amplitude"] == pytest.approx(0.1 * math.log(8) + 1)
    assert found["ratio"][0] == 1.0
    assert found["ratio"][-1] == pytest.approx(1 / 8)
    assert found["wavelengths"][0] == pytest.approx(math.tau)
    assert found["turns"][0] == pytest.approx(2048 / math.tau)


def test_the_horizon_decides_where_the_factor_is_left_out(run) -> None:
    assert record(run, "linear", "--horizon", "4096")["ratio"] == [0.5] * 64
    assert record(run, "linear")["ratio"] == [1 / 8] * 64
    assert record(run, "length_scaled", "--factor", "4")["horizon"] == 8192


def test_longrope_with_lists_and_a_start(run) -> None:
    option = "long_factor=[1,2,4,8]"
    found = record(run, "longrope", "--dim", "8", "--option", option, "--option", "n_hat=4")
    assert found["start"] == 4
    assert found["start_inv_freq"] == list(spectra.geometric()(8).inv_freq)
    assert found["ratio"] == pytest.approx([1, 1 / 2, 1 / 4, 1 / 8])


def test_a_pair_that_never_turns_has_no_wavelength(run) -> None:
    assert record(run, "proportional", "--dim", "16")["wavelengths"][-1] is None
    assert "never turns" in run("angles", "proportional", "--dim", "16").out


def test_option_values_are_read_by_their_type(run) -> None:
    options = ("truncate=false", "beta_fast=16", "ramp=code", "attention_factor=none")
    found = record(run, "yarn", *(word for o in options for word in ("--option", o)))
    parameters = found["parameters"]
    assert parameters["truncate"] is False
    assert parameters["beta_fast"] == 16
    assert parameters["ramp"] == "code"
    assert parameters["attention_factor"] is None


def test_a_setting_that_is_not_taken_is_named(run) -> None:
    done = run("angles", "abf", "--factor", "8")
    assert done.code == 0
    assert done.err == "note: abf takes no factor; --factor 8 is not used\n"
    assert run("angles", "abf").err == ""


def test_the_table_fits_and_is_abbreviated(run) -> None:
    short, full = run("angles", "yarn").out, run("angles", "yarn", "--all").out
    assert all(len(line.rstrip()) <= 80 for line in (short + full).splitlines())
    assert "…" in short
    assert "…" not in full
    assert len(full.splitlines()) - len(short.splitlines()) == 64 - 12 - 1
    assert "30 of 64 pairs turn less than once within 2048 tokens" in short


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["yarm"], "did you mean 'yarn'?"),
        (["yarn", "--option", "beta_fsat=3"], "did you mean 'beta_fast'?"),
        (["yarn", "--option", "beta_fast"], "write key=value"),
        (["yarn", "--option", "factor=2", "--factor", "3"], "given twice"),
        (["yarn", "--option", "ramp=a", "--option", "ramp=b"], "given twice"),
        (["yarn", "--dim", "7"], "positive even number"),
        (["yarn", "--dim", "0"], "positive even number"),
        (["linear", "--factor", "0.5"], "at least 1"),
        (["linear", "--factor", "nan"], "'nan'"),
        (["linear", "--horizon", "100"], "below 1"),
        (["linear", "--train-length", "0"], "at least 1"),
        (["geometric", "--train-length", "-3"], "at least 1"),
        (["longrope"], "long_factor"),
        (["longrope", "--option", "long_factor=[1,2]"], "64 numbers"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_plain_line(run, arguments, message) -> None:
    done = run("angles", *arguments)
    assert done.code == 2
    assert done.out == ""
    assert message in done.err
    assert done.err.startswith("whatwhere: ")
    assert done.err.count("\n") == 1
