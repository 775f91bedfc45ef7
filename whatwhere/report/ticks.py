"""Ticks that people read: 20, 30, 40 on a logarithmic axis, not 2 x 10^1."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["log_ticks"]


def log_ticks(axes: Axes, low: float, high: float) -> None:
    """Round numbers between low and high as ticks of the y axis: equal steps within a factor of 3
    (eight at most), else 1, 1.5, 2, 3, 4, 5, 6, 8 of a power of ten, beyond 30 only 1, 2, 5."""
    if high > 3 * low:
        marks = (1, 2, 5) if high > 30 * low else (1, 1.5, 2, 3, 4, 5, 6, 8)
        ticks = [s * 10.0**e for e in range(-4, 9) for s in marks]
    else:
        sizes = (s * 10.0**e for e in range(-6, 9) for s in (1, 2, 5))
        step = next(size for size in sizes if (high - low) / size <= 8)
        ticks = [n * step for n in range(math.floor(low / step), math.ceil(high / step) + 1)]
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:.6g}" for tick in ticks], minor=False)
    axes.set_yticks([], minor=True)
