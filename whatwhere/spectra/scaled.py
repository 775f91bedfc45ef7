"""Position Interpolation, static and with the length: all frequencies divided by one number."""

from __future__ import annotations

from whatwhere.spectra.frequencies import Frequencies, ladder
from whatwhere.spectra.options import Base, Factor, Tokens, TokensOrNone, scale
from whatwhere.spectra.table import spectrum


@spectrum(cite="pi")
def linear(
    dim: int,
    horizon: int,
    *,
    factor: Factor = None,
    train_length: TokensOrNone = None,
    base: Base = 10000.0,
) -> Frequencies:
    """Position Interpolation: positions are squeezed back into the trained range.

    theta'_i = theta_i / s, with s = factor = target length / train_length; radians per token.
    Where others go wrong: "worse than plain extrapolation without fine-tuning" holds for some small
    models and is far from true for LLaMA-7B at 8k (16.10 against above 1e3, table 3).
    Source: Chen et al., arXiv 2306.15595, eq. 4; Hugging Face's rope_type "linear".
    """
    s = scale(factor, train_length, horizon)
    return Frequencies(tuple(theta / s for theta in ladder(dim, base)))


@spectrum(cite="yarn", depends=lambda options: True)
def length_scaled(
    dim: int, horizon: int, *, train_length: Tokens, base: Base = 10000.0
) -> Frequencies:
    """ "Dynamic PI": interpolation by exactly as much as the present text needs.

    theta'_i = theta_i · s(n), s(n) = 1 for n <= L and L/n beyond, n the horizon, L train_length;
    radians per token.
    Where others go wrong: it is sold as what Qwen does ("theta' = theta · L0/L"); Qwen-1 had
    `qwen_dynamic`, Qwen3 documents static YaRN. With a cache of rotated keys, old keys keep an old
    scale, so decoding differs from one pass.
    Source: YaRN, arXiv 2309.00071, section 3.3, applied to PI. The same as
    ``linear(factor="dynamic")``.
    """
    s = max(1.0, horizon / train_length)
    return Frequencies(tuple(theta / s for theta in ladder(dim, base)))
