"""Spectra that a model is trained with: the geometric ladder, and one with a larger base."""

from __future__ import annotations

from whatwhere.spectra.frequencies import Frequencies, ladder
from whatwhere.spectra.options import AtLeastOne, Base
from whatwhere.spectra.table import spectrum


@spectrum(cite="rope")
def geometric(dim: int, horizon: int, *, base: Base = 10000.0) -> Frequencies:
    """The frequencies of RoPE as published: a geometric ladder from 1 down to almost 1/base.

    theta_i = base^(-2i/dim), i = 0 .. dim/2 - 1, in radians per token. Code Llama trains with
    base=1e6, Llama 3 with 5e5.
    Where others go wrong: with partial rotation, dim is the number of *rotated* features (in
    p-RoPE that of the whole head); and the table belongs in float32 or better, outside every buffer
    that a model-wide cast can reach.
    Source: Su et al., RoFormer, arXiv 2104.09864, eq. 15.
    """
    return Frequencies(ladder(dim, base))


@spectrum(cite="abf")
def abf(
    dim: int, horizon: int, *, multiplier: AtLeastOne = 50.0, base: Base = 10000.0
) -> Frequencies:
    """RoPE ABF, "adjusted base frequency": the base times a constant, then trained further.

    theta_i = (multiplier · base)^(-2i/dim), radians per token; the default takes 1e4 to 5e5.
    Where others go wrong: it counts as a method of its own, but at dim 128 a multiplier of 50 is
    `ntk` with factor 47.04, and as a function it is `ntk_base`; what differs is the training.
    Source: Xiong et al., arXiv 2309.16039, section 2.2.
    """
    return Frequencies(ladder(dim, multiplier * base))
