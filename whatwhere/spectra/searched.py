"""LongRoPE: one factor per frequency, found by search."""

from __future__ import annotations

import math

from whatwhere.spectra.frequencies import Frequencies, ladder
from whatwhere.spectra.options import (
    Attention,
    Base,
    Count,
    Factor,
    Factors,
    FactorsOrNone,
    Tokens,
    scale,
)
from whatwhere.spectra.parts import magnitude
from whatwhere.spectra.table import Options, open_factor, spectrum


def _switches(options: Options) -> bool:
    return options["short_factor"] not in (None, options["long_factor"])


def _depends(options: Options) -> bool:
    policy = options["attention_factor"]
    return _switches(options) or (isinstance(policy, str) and open_factor(options))


def _same_number(options: Options) -> str | None:
    short, long = options["short_factor"], options["long_factor"]
    if short is not None and len(short) != len(long):
        return f"short_factor has {len(short)} numbers, long_factor has {len(long)}"
    if options["attention_factor"] == "su" and options["train_length"] == 1:
        return "attention_factor='su' divides by ln(train_length), which is 0 for train_length=1"
    return None


@spectrum(cite="longrope", depends=_depends, check=_same_number)
def longrope(
    dim: int,
    horizon: int,
    *,
    long_factor: Factors,
    short_factor: FactorsOrNone = None,
    factor: Factor = None,
    train_length: Tokens,
    n_hat: Count = 0,
    attention_factor: Attention = "su",
    base: Base = 10000.0,
) -> Frequencies:
    """LongRoPE: every frequency is divided by its own factor, except at the first positions.

    theta'_i = theta_i / lambda_i at positions from n_hat on, theta_i below it; radians per token.
    lambda is `long_factor` for a horizon above train_length and `short_factor` up to it (without a
    short_factor: long_factor always). `factor` = s enters the amplitude only, which is the same for
    both: "su" sqrt(1 + ln s/ln L), "yarn" 0.1 ln s + 1, or a number as it stands. ValueError if
    the lists do not hold dim/2 numbers.
    Where others go wrong: keys rotated by the short list stay in the cache when a text crosses
    train_length; vLLM and llama.cpp choose the list by the *allocated* length; the released search
    has no n_hat, and its one implementation addresses rows of the call instead of positions. With
    n_hat > 0 scores are no longer a function of the distance, by design.
    Source: Ding et al., arXiv 2402.13753, eq. 3; Hugging Face's rope_type "longrope".
    """
    short = short_factor is not None and horizon <= train_length
    factors = short_factor if short_factor is not None and short else long_factor
    if len(factors) != dim // 2:
        raise ValueError(
            f"{'short' if short else 'long'}_factor must hold dim // 2 = {dim // 2} numbers for "
            f"dim={dim}, got {len(factors)}"
        )
    amplitude = _amplitude(attention_factor, factor, train_length, horizon)
    plain = ladder(dim, base)
    inv_freq = tuple(theta / each for theta, each in zip(plain, factors, strict=True))
    return Frequencies(inv_freq, amplitude, n_hat, plain if n_hat else None)


def _amplitude(
    policy: float | str, factor: float | str | None, train_length: int, horizon: int
) -> float:
    if not isinstance(policy, str):
        return policy
    s = scale(factor, train_length, horizon)
    if policy == "yarn" or s == 1:
        return magnitude(s)
    return math.sqrt(1 + math.log(s) / math.log(train_length))
