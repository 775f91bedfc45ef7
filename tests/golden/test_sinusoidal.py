"""Sinusoidal codes: the paper's formula, and the two that transformers ships, called live.

arXiv 1706.03762 section 3.5: PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i+1) = cos(same).
Marian: the same numbers as halves. M2M-100: tensor2tensor's exponent i / (d/2 - 1), as halves.
"""

from __future__ import annotations

import math

import pytest
import torch
from golden.naive import EXACT, SINGLE, close

import whatwhere as ww

WIDTH, TOKENS = 10, 40


def code(text: str, positions: list[int], width: int = WIDTH) -> torch.Tensor:
    enc = ww.make(text, heads=1, head_dim=width)
    return enc.embed(torch.zeros(1, len(positions), width).double(), torch.tensor([positions]))[0]


def test_paper_by_loops() -> None:
    positions = [0, 1, 7, 5000]
    expected = [
        [
            (math.cos if c % 2 else math.sin)(pos / 10000 ** (2 * (c // 2) / WIDTH))
            for c in range(WIDTH)
        ]
        for pos in positions
    ]
    close(code("sinusoidal", positions), torch.tensor(expected, dtype=torch.float64), EXACT)


def test_frozen_numbers() -> None:
    """d = 4: θ = 1 and 1/100."""
    expected = [[0.9092974268256817, -0.4161468365471424, 0.0199986666933331, 0.9998000066665778]]
    close(code("sinusoidal", [2], 4), torch.tensor(expected, dtype=torch.float64), EXACT)


def test_marian_live() -> None:
    marian = pytest.importorskip("transformers.models.marian.modeling_marian")
    weight = marian.MarianSinusoidalPositionalEmbedding(TOKENS, WIDTH).create_weight()
    close(code("sinusoidal(layout=halves)", list(range(TOKENS))), weight.double(), SINGLE)


def test_tensor2tensor_as_in_m2m100_live() -> None:
    m2m = pytest.importorskip("transformers.models.m2m_100.modeling_m2m_100")
    weight = m2m.M2M100SinusoidalPositionalEmbedding.get_embedding(TOKENS, WIDTH)
    got = code("sinusoidal(layout=halves,exponent=tensor2tensor)", list(range(TOKENS)))
    # Its frequencies and phases are float32: a few roundings of a phase up to 40 rad.
    close(got, weight.double(), TOKENS * SINGLE)


def test_tensor2tensor_ends_at_the_base() -> None:
    """The slowest of d/2 timescales is exactly 10000, so PE(10000) turns it by one radian."""
    slowest = code("sinusoidal(layout=halves,exponent=tensor2tensor)", [10000])[0, WIDTH // 2 - 1]
    assert math.isclose(slowest, math.sin(1.0), abs_tol=1e-11)


def test_a_shift_is_a_linear_map_with_constant_coefficients() -> None:
    """PE(p + 3) = R PE(p), the same R for all p (the paper's reason for sinusoids)."""
    first, second = code("sinusoidal", [5, 6]), code("sinusoidal", [8, 9])
    rows = []
    for c in range(0, WIDTH, 2):
        turn = 3 / 10000 ** (c / WIDTH)
        sine, cosine = first[:, c], first[:, c + 1]
        rows.append(sine * math.cos(turn) + cosine * math.sin(turn))
        rows.append(cosine * math.cos(turn) - sine * math.sin(turn))
    close(second, torch.stack(rows, dim=1), EXACT)
