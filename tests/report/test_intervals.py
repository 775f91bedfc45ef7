"""Intervals: against printed tables of Student's t, and against what they promise."""

import math
import random
import statistics

import pytest

from whatwhere.report.intervals import bootstrap, student, t_quantile


@pytest.mark.parametrize(
    ("probability", "freedom", "expected"),
    [  # the usual printed table: two-sided 95 % and 99 %, three decimals
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 4, 2.776),
        (0.975, 7, 2.365),
        (0.975, 30, 2.042),
        (0.975, 1000, 1.962),
        (0.995, 1, 63.657),
        (0.995, 4, 4.604),
        (0.95, 10, 1.812),
        (0.5, 3, 0.0),
    ],
)
def test_t_is_that_of_the_printed_table(
    probability: float, freedom: float, expected: float
) -> None:
    assert t_quantile(probability, freedom) == pytest.approx(expected, abs=6e-4)


def test_fractional_freedom_lies_between() -> None:
    low, middle, high = (t_quantile(0.975, f) for f in (2, 2.5, 3))
    assert low > middle > high
    # one degree in closed form: tan(π (p - 1/2))
    assert t_quantile(0.9, 1) == pytest.approx(math.tan(math.pi * 0.4), rel=1e-8)


@pytest.mark.parametrize(("probability", "freedom"), [(0.4, 3), (1.0, 3), (0.9, 0.5)])
def test_what_has_no_quantile_is_refused(probability: float, freedom: float) -> None:
    with pytest.raises(ValueError, match=r"probability|freedom"):
        t_quantile(probability, freedom)


def test_the_interval_of_five_values_by_hand() -> None:
    found = student([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776445 * math.sqrt(2.5 / 5)
    assert (found.mean, found.low, found.high) == pytest.approx((3, 3 - half, 3 + half), abs=1e-5)
    same = student([2.0, 2.0])
    assert (same.mean, same.low, same.high) == (2.0, 2.0, 2.0)


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    chance = random.Random(1)
    hits = 0
    for _ in range(400):
        found = student([chance.gauss(3, 2) for _ in range(4)])
        hits += found.low <= 3 <= found.high
    assert abs(hits / 400 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 400)


def test_the_bootstrap_is_repeatable_and_about_right() -> None:
    chance = random.Random(2)
    values = [chance.gauss(0, 1) for _ in range(30)]
    found, error = bootstrap(values), statistics.stdev(values) / math.sqrt(30)
    assert found == bootstrap(values)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.08)
    solved = bootstrap([100.0] * 4 + [10.0] * 4)
    assert 10 < solved.low < 35
    assert 75 < solved.high < 100
