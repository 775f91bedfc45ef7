"""p-RoPE: the slow end of the ladder switched off."""

from __future__ import annotations

from whatwhere.spectra.frequencies import Frequencies, ladder
from whatwhere.spectra.options import AtLeastOne, Base, Positive
from whatwhere.spectra.table import Options, spectrum


def _at_most_one(options: Options) -> str | None:
    if options["share"] > 1.0:
        return f"share is {options['share']:g}, and no more than 1 of the frequencies can be kept"
    return None


@spectrum(cite="p_rope", check=_at_most_one)
def proportional(
    dim: int,
    horizon: int,
    *,
    share: Positive = 0.25,
    divisor: AtLeastOne = 1.0,
    base: Base = 10000.0,
) -> Frequencies:
    """p-RoPE: keep the fastest floor(share · dim) // 2 frequencies, set the others to zero.

    theta_i = base^(-2i/dim) / divisor for i < floor(share · dim) // 2, else 0, in radians per
    token. The pairs that do not turn match by content alone, at any distance.
    Where others go wrong: it is not partial RoPE. dim is the *whole* head, in the exponent and in
    the pairing i with i + dim/2; partial RoPE has a ladder of its own over the rotated slice.
    Source: Barbero et al., arXiv 2410.06205; Hugging Face's "proportional" (Gemma 4), whose
    `factor` is `divisor` here.
    """
    kept = int(share * dim // 2)
    full = ladder(dim, base)
    return Frequencies(tuple(f / divisor if i < kept else 0.0 for i, f in enumerate(full)))
