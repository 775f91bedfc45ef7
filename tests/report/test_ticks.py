"""Ticks of logarithmic axes: few, round, and inside."""

from __future__ import annotations

import pytest

from whatwhere.report.ticks import log_ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (79.9, 142.0, [80, 90, 100, 110, 120, 130, 140]),
        (19.3, 22.9, [19.5, 20, 20.5, 21, 21.5, 22, 22.5]),
        (19.9, 92.0, [20, 30, 40, 50, 60, 80]),
        (19.9, 1900.0, [20, 50, 100, 200, 500, 1000]),
    ],
)
def test_ticks_are_round_few_and_inside(low: float, high: float, expected: list[float]) -> None:
    plt = pytest.importorskip("matplotlib.pyplot")
    canvas, axes = plt.subplots()
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    log_ticks(axes, low, high)
    assert [float(label.get_text()) for label in axes.get_yticklabels()] == expected
    plt.close(canvas)
