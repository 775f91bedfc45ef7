"""Spectra: how fast each feature pair turns. Context extension by frequencies is a spectrum.

A spectrum is a pure function (dim, horizon) -> `Frequencies` with named options. "The horizon" is
the length of the text in tokens; only length-dependent spectra need it. Everything here is plain
float64 arithmetic, no torch, no cache.

    >>> from whatwhere import spectra
    >>> spectrum = spectra.yarn(factor=8, train_length=2048)
    >>> spectrum
    yarn(factor=8, train_length=2048)
    >>> frequencies = spectrum(dim=128)
    >>> len(frequencies.inv_freq), round(frequencies.amplitude, 5)
    (64, 1.20794)

`factor` of every static method: a number of at least 1; None (the default) for horizon /
train_length, refused below 1; "dynamic" for max(1, horizon / train_length), the rule of the YaRN
paper's section 3.3, which fits every one of them.
"""

from __future__ import annotations

from typing import Any

from whatwhere.spectra.frequencies import Frequencies
from whatwhere.spectra.ntk import (
    dynamic_ntk,
    ntk,
    ntk_alpha,
    ntk_base,
    ntk_fixed,
    ntk_mixed,
    qwen_dynamic,
)
from whatwhere.spectra.parts import by_parts, llama3, yarn
from whatwhere.spectra.plain import abf, geometric
from whatwhere.spectra.proportional import proportional
from whatwhere.spectra.scaled import length_scaled, linear
from whatwhere.spectra.searched import longrope
from whatwhere.spectra.table import TABLE, Family, Spectrum, make, spectrum

__all__ = [
    "TABLE",
    "Family",
    "Frequencies",
    "Spectrum",
    "abf",
    "by_parts",
    "dynamic",
    "dynamic_ntk",
    "geometric",
    "length_scaled",
    "linear",
    "llama3",
    "longrope",
    "make",
    "ntk",
    "ntk_alpha",
    "ntk_base",
    "ntk_fixed",
    "ntk_mixed",
    "proportional",
    "qwen_dynamic",
    "spectrum",
    "yarn",
]


def dynamic(name: str, *, train_length: int, **options: Any) -> Spectrum:
    """Any method with a factor, scaled by what the text needs: ``dynamic("yarn", train_length=L)``.

    s = max(1, horizon / train_length): the short form of ``factor="dynamic"``.
    Where others go wrong: keys must be cached *before* rotation, or old keys keep an old scale.
    Source: YaRN, arXiv 2309.00071, section 3.3.
    """
    return make(name, factor="dynamic", train_length=train_length, **options)
