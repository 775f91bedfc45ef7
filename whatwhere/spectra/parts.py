"""NTK-by-parts, YaRN and Llama 3: fast pairs stay, slow pairs interpolate, a ramp between."""

from __future__ import annotations

import math
from collections.abc import Callable

from whatwhere.spectra.frequencies import Frequencies, ladder
from whatwhere.spectra.options import (
    Base,
    Factor,
    Flag,
    Positive,
    PositiveOrNone,
    Ramp,
    Tokens,
    scale,
)
from whatwhere.spectra.table import Options, spectrum


def ramp_ends(
    dim: int, base: float, train_length: int, alpha: float, beta: float, truncate: bool
) -> tuple[float, float]:
    """The pairs between which the ramp of the *code* runs: those that make beta and alpha turns.

    D(r) = dim · ln(L/(2πr)) / (2 ln base), floor(D(beta)) and ceil(D(alpha)), kept in 0 .. dim-1.
    """
    low, high = (
        dim * math.log(train_length / (turns * 2 * math.pi)) / (2 * math.log(base))
        for turns in (beta, alpha)
    )
    if truncate:
        low, high = float(math.floor(low)), float(math.ceil(high))
    clamped = max(low, 0.0), min(high, dim - 1.0)
    # Released code clamps to dim - 1, though the pairs run to dim/2 - 1 only: the ramp may end
    # beyond the last pair. Where both ends fall off one side (a training length of six tokens),
    # clamping would swap them and turn the ramp around: then leave them.
    return clamped if clamped[0] <= clamped[1] else (low, high)


def _unchanged(
    dim: int,
    base: float,
    train_length: int,
    alpha: float,
    beta: float,
    ramp: str,
    truncate: bool,
) -> list[float]:
    """For each pair gamma: 1 where it keeps its frequency, 0 where it interpolates."""
    if ramp == "paper":
        turns = [train_length * theta / math.tau for theta in ladder(dim, base)]
        if alpha == beta:
            return [float(r > beta) for r in turns]
        return [min(max((r - alpha) / (beta - alpha), 0.0), 1.0) for r in turns]
    low, high = ramp_ends(dim, base, train_length, alpha, beta, truncate)
    width = high - low or 0.001
    return [1 - min(max((i - low) / width, 0.0), 1.0) for i in range(dim // 2)]


def _blend(dim: int, base: float, s: float, gamma: list[float]) -> tuple[float, ...]:
    """The frequencies theta' = (1 - gamma) theta/s + gamma theta."""
    pairs = zip(ladder(dim, base), gamma, strict=True)
    return tuple((1 - g) * theta / s + g * theta for theta, g in pairs)


def _by_turns(fast: str, slow: str) -> Callable[[Options], str | None]:
    """The check that the option `fast` counts at least as many turns as the option `slow`."""

    def reason(options: Options) -> str | None:
        if options[slow] > options[fast]:
            return (
                f"{slow}={options[slow]:g} must not exceed {fast}={options[fast]:g}: pairs that "
                f"make more than {fast} turns keep their frequency, below {slow} they interpolate"
            )
        if options.get("ramp") == "paper" and not options["truncate"]:
            return "truncate=False belongs to ramp='code': the paper's ramp has no ends to round"
        return None

    return reason


@spectrum(cite="by_parts", check=_by_turns("beta", "alpha"))
def by_parts(
    dim: int,
    horizon: int,
    *,
    factor: Factor = None,
    train_length: Tokens,
    alpha: Positive = 1.0,
    beta: Positive = 32.0,
    ramp: Ramp = "code",
    truncate: Flag = True,
    base: Base = 10000.0,
) -> Frequencies:
    """NTK-by-parts: pairs that turn often in training keep their frequency, slow ones interpolate.

    theta' = (1 - gamma) theta/s + gamma theta, s = factor; radians per token. gamma falls from 1
    for pairs that make `beta` turns within train_length to 0 for those that make `alpha`:
    ramp="paper" linearly in the number of turns, gamma = (r - alpha)/(beta - alpha) with r =
    L theta/2π; ramp="code" linearly in the *index* of the pair, between the indices that turn beta
    and alpha times (rounded outwards if `truncate`).
    Where others go wrong: all released code has the second ramp under the first one's formula; for
    dim 128, L 2048, s 10 they differ up to 2.56 times. The middle is a blend, not "NTK-aware", and
    L is the *trained* length, not max_position_embeddings.
    Source: YaRN, arXiv 2309.00071, eqs. 17-20; bloc97, jquesnelle/yarn pull request 1.
    """
    s = scale(factor, train_length, horizon)
    gamma = _unchanged(dim, base, train_length, alpha, beta, ramp, truncate)
    return Frequencies(_blend(dim, base, s, gamma))


def _yarn_options(options: Options) -> str | None:
    if (options["mscale"] is None) != (options["mscale_all_dim"] is None):
        return (
            f"mscale={options['mscale']} and mscale_all_dim={options['mscale_all_dim']} go "
            "together: give both or neither (of one alone, DeepSeek's code and Hugging Face's "
            "make different factors), or give attention_factor"
        )
    return _by_turns("beta_fast", "beta_slow")(options)


def magnitude(s: float, mscale: float = 1.0) -> float:
    """YaRN's factor on cos and sin, 0.1 · mscale · ln s + 1 for s > 1, else 1."""
    return 0.1 * mscale * math.log(s) + 1 if s > 1 else 1.0


@spectrum(cite="yarn", check=_yarn_options)
def yarn(
    dim: int,
    horizon: int,
    *,
    factor: Factor = None,
    train_length: Tokens,
    attention_factor: PositiveOrNone = None,
    mscale: PositiveOrNone = None,
    mscale_all_dim: PositiveOrNone = None,
    beta_fast: Positive = 32.0,
    beta_slow: Positive = 1.0,
    ramp: Ramp = "code",
    truncate: Flag = True,
    base: Base = 10000.0,
) -> Frequencies:
    """YaRN: NTK-by-parts and a sharper softmax.

    theta' = (1 - gamma) theta/s + gamma theta, radians per token, with gamma as in `by_parts` for
    beta = beta_fast and alpha = beta_slow, and s = factor. amplitude = attention_factor, or
    g(s, mscale)/g(s, mscale_all_dim), or g(s, 1), in this order, with g(s, m) = 0.1 m ln s + 1 for
    s > 1, else 1: on q *and* k, so scores grow by its square.
    Where others go wrong: the factor applied once instead of on both sides, or on the unrotated
    part of a partly rotated head too; DeepSeek's ports, where mscale == mscale_all_dim makes the
    amplitude 1 and the softmax scale takes g(s, mscale)^2 instead, lose one or do both;
    transformers 5.23.0 ignores `truncate` in per-layer-type dictionaries. A static factor hurts
    short text: see ``factor="dynamic"``.
    Source: Peng et al., arXiv 2309.00071, sections 3.2-3.4; Hugging Face's rope_type "yarn".
    """
    s = scale(factor, train_length, horizon)
    gamma = _unchanged(dim, base, train_length, beta_slow, beta_fast, ramp, truncate)
    if attention_factor is not None:
        amplitude = attention_factor
    elif mscale is not None and mscale_all_dim is not None:
        amplitude = magnitude(s, mscale) / magnitude(s, mscale_all_dim)
    else:
        amplitude = magnitude(s)
    return Frequencies(_blend(dim, base, s, gamma), amplitude)


@spectrum(cite="llama3", check=_by_turns("high_freq_factor", "low_freq_factor"))
def llama3(
    dim: int,
    horizon: int,
    *,
    factor: Factor = None,
    train_length: Tokens,
    low_freq_factor: Positive = 1.0,
    high_freq_factor: Positive = 4.0,
    base: Base = 10000.0,
) -> Frequencies:
    """Llama 3.1's scaling: `by_parts` with the paper's ramp, between 1 and 4 turns.

    With wavelength w = 2π/theta: w < L/high_freq_factor keeps theta; w > L/low_freq_factor takes
    theta/s; between, c theta + (1-c) theta/s with c = (L/w - low)/(high - low); radians per token.
    Llama 3.1 has factor 8, train_length 8192, base 5e5.
    Where others go wrong: the base stays at 1e4; xformers' option of this name defaults to factor
    16 and high 32; L is the trained 8192, not max_position_embeddings.
    Source: Llama 3, arXiv 2407.21783; Meta's llama-models; Hugging Face's rope_type "llama3".
    """
    s = scale(factor, train_length, horizon)

    def scaled(theta: float) -> float:
        turns = train_length * theta / math.tau
        if turns > high_freq_factor:
            return theta
        if turns < low_freq_factor or low_freq_factor == high_freq_factor:
            return theta / s
        smooth = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor)
        return (1 - smooth) * theta / s + smooth * theta

    return Frequencies(tuple(map(scaled, ladder(dim, base))))
