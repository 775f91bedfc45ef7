"""The spectra called "NTK": at least six formulas under one name, each here under its own.

Ratio theta'/theta at dim 128 and factor 8, for pairs 0, 32 and 63:
ntk 1, .3478, .125; ntk_base 1, .3536, .1291; ntk_fixed .968, .3423, .125; ntk_mixed .857, .253,
.125.
"""

from __future__ import annotations

import math

from whatwhere.spectra.frequencies import Frequencies, ladder
from whatwhere.spectra.options import (
    AtLeastOne,
    Base,
    Factor,
    Positive,
    Tokens,
    TokensOrNone,
    scale,
)
from whatwhere.spectra.table import spectrum


def _ntk_ladder(dim: int, base: float, s: float) -> Frequencies:
    """The ladder whose first pair stays and whose last is divided by exactly `s`."""
    if s == 1:
        return Frequencies(ladder(dim, base))
    if dim < 4:
        raise ValueError(
            f"dim must be at least 4, got {dim}: NTK-aware scaling keeps the first pair and "
            "divides the last by the factor, and here they are one pair"
        )
    return Frequencies(ladder(dim, base * s ** (dim / (dim - 2))))


@spectrum(cite="ntk")
def ntk(
    dim: int,
    horizon: int,
    *,
    factor: Factor = None,
    train_length: TokensOrNone = None,
    base: Base = 10000.0,
) -> Frequencies:
    """NTK-aware scaling: a larger base, so that the last pair interpolates and the first does not.

    theta'_i = b'^(-2i/dim), b' = base · s^(dim/(dim-2)), s = factor; radians per token.
    Where others go wrong: b' = base · s is another spectrum (`ntk_base`): its last pair turns by
    .1291 instead of .125 at factor 8. And s must be set above the ratio of the lengths (the YaRN
    paper's warning), since the middle pairs are stretched by less.
    Source: bloc97, r/LocalLLaMA, June 2023; YaRN, arXiv 2309.00071, eq. 24.
    """
    return _ntk_ladder(dim, base, scale(factor, train_length, horizon))


@spectrum(cite="su9675")
def ntk_base(
    dim: int,
    horizon: int,
    *,
    factor: Factor = None,
    train_length: TokensOrNone = None,
    base: Base = 10000.0,
) -> Frequencies:
    """Su's "NTK-RoPE-old": the base times the factor, without the exponent.

    theta'_i = (s · base)^(-2i/dim), radians per token; the last pair is divided by s^(1-2/dim).
    Where others go wrong: `ntk`. Source: Su, kexue.fm/archives/9675 and 9706 ("old").
    """
    return Frequencies(ladder(dim, base * scale(factor, train_length, horizon)))


@spectrum(cite="su9706")
def ntk_fixed(
    dim: int,
    horizon: int,
    *,
    factor: Factor = None,
    train_length: TokensOrNone = None,
    base: Base = 10000.0,
) -> Frequencies:
    """Su's "NTK-RoPE-fixed": every digit of the position, the first too, takes an equal share.

    theta'_i = theta_i · s^(-2(i+1)/dim), radians per token; the last pair is divided by s.
    Where others go wrong: vLLM calls this one "ntk"; its fastest pair is slower than in `ntk`.
    Source: Su, kexue.fm/archives/9706.
    """
    s = scale(factor, train_length, horizon)
    pairs = enumerate(ladder(dim, base), start=1)
    return Frequencies(tuple(theta * s ** (-2 * m / dim) for m, theta in pairs))


@spectrum(cite="su9706")
def ntk_mixed(
    dim: int,
    horizon: int,
    *,
    factor: Factor = None,
    train_length: TokensOrNone = None,
    beta: Positive = 0.625,
    base: Base = 10000.0,
) -> Frequencies:
    """Su's "NTK-RoPE-mixed": slow pairs take less of the stretching than fast ones.

    theta'_i = theta_i · exp(-a m^beta), m = i + 1, a = ln s / (dim/2)^beta; radians per token.
    beta=1 is `ntk_fixed`; the rerope repository uses .75 (with s=12), vLLM's option is `mixed_b`.
    Source: Su, kexue.fm/archives/9706.
    """
    a = math.log(scale(factor, train_length, horizon)) / (dim / 2) ** beta
    pairs = enumerate(ladder(dim, base), start=1)
    return Frequencies(tuple(theta * math.exp(-a * m**beta) for m, theta in pairs))


@spectrum(cite="ntk")
def ntk_alpha(
    dim: int, horizon: int, *, alpha: AtLeastOne = 1000.0, base: Base = 10000.0
) -> Frequencies:
    """Hunyuan's static `alpha`: `ntk` with a constant that is no ratio of lengths.

    theta'_i = b'^(-2i/dim), b' = base · alpha^(dim/(dim-2)); radians per token.
    Where others go wrong: configurations call it rope type "dynamic", yet no length enters.
    Source: vLLM's rotary class for `alpha`; the formula is bloc97's.
    """
    return _ntk_ladder(dim, base, alpha)


@spectrum(cite="dynamic_ntk", depends=lambda options: True)
def dynamic_ntk(
    dim: int,
    horizon: int,
    *,
    factor: AtLeastOne = 1.0,
    train_length: Tokens,
    base: Base = 10000.0,
) -> Frequencies:
    """Hugging Face's "dynamic": NTK-aware scaling that grows with the text.

    theta' = `ntk` with s = f n/L - (f - 1), n = max(horizon, train_length), L = train_length,
    f = factor; radians per token. With f = 1 it is ``ntk(factor="dynamic")``.
    Where others go wrong: for f > 1 the scale f n/L - (f-1) exceeds the ratio n/L, so f is no ratio
    of lengths; vLLM's "dynamic" is static at the allocated length; Hugging Face takes L from
    max_position_embeddings and rotates keys before it caches them, so decoding mixes bases.
    Source: emozilla, r/LocalLLaMA, 2023; transformers, rope_type "dynamic".
    """
    n = max(horizon, train_length)
    return _ntk_ladder(dim, base, factor * n / train_length - (factor - 1))


@spectrum(cite="qwen", depends=lambda options: True)
def qwen_dynamic(
    dim: int, horizon: int, *, train_length: Tokens, base: Base = 10000.0
) -> Frequencies:
    """Qwen-1's dynamic NTK: the scale grows in steps, at each doubling of the length.

    theta' = `ntk` with s = max(2^ceil(log2(n/L) + 1) - 1, 1), n the horizon, L train_length:
    1 up to L, then 3 up to 2L, 7 up to 4L, 15 up to 8L; radians per token.
    Where others go wrong: it came with log-n on the queries, which is no part of the spectrum;
    Qwen 1.5 and later dropped both.
    Source: Qwen technical report, arXiv 2309.16609, and its modeling_qwen.py.
    """
    # ceil(log2(n/L)) in whole numbers, because a float logarithm can miss an exact power of two.
    doublings = (-(-horizon // train_length) - 1).bit_length()
    return _ntk_ladder(dim, base, 2.0 ** (doublings + 1) - 1)
