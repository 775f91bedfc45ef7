"""Ticks that people read: 20, 30, 40 on a logarithmic axis, not 2 x 10^1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["log_ticks"]


def log_ticks(axes: Axes, low: float, high: float) -> None:
    """Round numbers between low and high as ticks of the y axis; the closer these, the finer."""
    wide: Sequence[float] = (1, 1.5, 2, 3, 4, 5, 6, 8)
    steps = wide if high > 2 * low else [n / 10 for n in range(10, 100)]
    if high < 1.25 * low:
        steps = [n / 20 for n in range(20, 200)]
    ticks = [s * 10**e for e in range(8) for s in steps if low <= s * 10**e <= high]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
    axes.set_yticks([], minor=True)
