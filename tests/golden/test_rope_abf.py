"""RoPE with adjusted base frequency: arXiv 2309.16039, θ_c = (50 · 10000)^(-2c/d).

[num] encodings.md §9: at d = 128 it is bloc97's NTK-aware scaling with factor 47.04.
"""

from __future__ import annotations

import math

from golden.naive import EXACT, close, scores, wave
from golden.test_rope import AT, D, H, K, Q, by_loops, ladder

import whatwhere as ww
from whatwhere import spectra


def test_scores_by_loops() -> None:
    rule = ww.make("rope_abf", heads=H, head_dim=D).rule()
    close(scores(rule, Q, K, AT), by_loops("half", ladder(base=500_000.0)), EXACT)


def test_same_as_ntk_with_factor_47() -> None:
    """b s^(d/(d-2)) = 50 b: s = 50^((d-2)/d) = 47.0366… at d = 128."""
    factor = 50 ** (126 / 128)
    assert math.isclose(factor, 47.04, abs_tol=0.005)
    q, k = wave(1, 7, 128, 0.1), wave(1, 7, 128, 1.1)
    abf = ww.make("rope_abf", heads=1, head_dim=128).rule()
    ntk = ww.make(f"rope+ntk(factor={factor!r})", heads=1, head_dim=128).rule()
    close(scores(abf, q, k, AT), scores(ntk, q, k, AT), 1e-10)
    rounded = spectra.ntk(factor=47.04)(128).inv_freq
    for a, b in zip(spectra.abf()(128).inv_freq, rounded, strict=True):
        assert math.isclose(a, b, rel_tol=0.005 / 47.03)
