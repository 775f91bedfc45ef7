"""Confidence intervals of a mean over few seeds, with nothing but the standard library."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Estimate", "bootstrap", "student", "t_quantile"]

_RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A mean with the ends of its two-sided confidence interval, in the unit of the values."""

    mean: float
    low: float
    high: float


def t_quantile(probability: float, freedom: float) -> float:
    """The t with P(T <= t) = probability for Student's T of `freedom` >= 1 degrees, 0.5 <= p < 1.

    With T = √ν tan φ the density of φ is proportional to cos^(ν-1) φ: smooth on a finite range, so
    Simpson's rule and bisection give ten digits.
    """
    if not 0.5 <= probability < 1:
        raise ValueError(f"probability is {probability}; give one in [0.5, 1)")
    if not freedom >= 1:
        raise ValueError(f"freedom is {freedom}; an interval wants at least 1 degree (two values)")
    whole = 0.5 * math.sqrt(math.pi)
    whole *= math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2))
    wanted = (probability - 0.5) * 2 * whole
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if _simpson(middle, freedom - 1) < wanted:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(low)


def _simpson(end: float, power: float, steps: int = 400) -> float:
    """∫ cos(x)^power from 0 to `end` <= π/2."""
    width = end / steps
    inner = ((4 if step % 2 else 2) * math.cos(step * width) ** power for step in range(1, steps))
    return width / 3 * (1 + math.fsum(inner) + max(math.cos(end), 0.0) ** power)


def student(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """mean ± t s / √n of at least two values."""
    n, mean = len(values), statistics.fmean(values)
    half = t_quantile((1 + confidence) / 2, n - 1) * statistics.stdev(values) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half)


def bootstrap(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """The percentile interval of the mean of 10,000 resamples; the same for the same values.

    For values far from normal, such as "solved or not".
    """
    chance = random.Random(0)
    draws = sorted(
        statistics.fmean(chance.choices(values, k=len(values))) for _ in range(_RESAMPLES)
    )
    cut = round(_RESAMPLES * (1 - confidence) / 2)
    return Estimate(statistics.fmean(values), draws[cut], draws[-1 - cut])
