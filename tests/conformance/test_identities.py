"""What a method must be when it does nothing, and the distance it shows when it does something."""

from __future__ import annotations

import math

import pytest
import torch
from conformance.cases import (
    CONTEXT,
    EXACT,
    HEADS,
    SHAPE,
    TRAINED,
    TURNING,
    D,
    draw,
    layer,
    make,
    spectrum_text,
    tokens,
)
from torch import Tensor

from whatwhere import spectra
from whatwhere.attention import Call, Where
from whatwhere.attention.reference import scores
from whatwhere.encodings import build, modifiers

LONG = 63
NEUTRAL = {  # a modifier that changes nothing, and up to which length
    "rerope": ("(window=63)", LONG),
    "leaky_rerope": ("(factor=1)", LONG),
    "inverse_leaky_rerope": ("(stride=1)", LONG),
    "self_extend": ("(group=1)", LONG),
    "dual_chunk": ("", TRAINED),
    "logn": ("", TRAINED),
    "yarn_temperature": ("(factor=1)", LONG),
    "llama4_temperature": ("(floor_scale=64)", LONG),
}
MORE_NEUTRAL = [
    ("rerope(window=13)", 13),
    ("self_extend(window=13)", 13),
    ("dual_chunk(constants=chunkllama)", 3 * TRAINED // 4 + 1),
    ("logn(form=length)", TRAINED),
    ("yarn_temperature", LONG),
    ("inverse_leaky_rerope(stride=3)", 3),  # up to its window even in training
]


def test_every_modifier_has_a_neutral_form() -> None:
    assert set(NEUTRAL) == set(modifiers())


@pytest.mark.parametrize("base", [*TURNING, "xpos"])
@pytest.mark.parametrize(
    ("modifier", "length"), [*((k + v[0], v[1]) for k, v in NEUTRAL.items()), *MORE_NEUTRAL]
)
@torch.no_grad()
def test_a_neutral_modifier_is_none(
    base: str, modifier: str, length: int, device: torch.device
) -> None:
    x, at = tokens(length, device), torch.arange(length, device=device)
    plain = layer(make(base, device), x, at, length)
    for training in (False, True):
        found = layer(make(f"{base}+{modifier}", device), x, at, length, training=training)
        torch.testing.assert_close(found, plain, **EXACT)


@pytest.mark.parametrize("base", TURNING)
@pytest.mark.parametrize("name", spectra.TABLE)
@torch.no_grad()
def test_a_spectrum_with_factor_one_is_plain(base: str, name: str, device: torch.device) -> None:
    """And with factor 4 it is not: the identity above is able to fail."""
    x, at = tokens(LONG, device), torch.arange(LONG, device=device)
    plain = layer(make(base, device), x, at, TRAINED)
    neutral = make(f"{base}+{spectrum_text(name, TURNING[base], 1)}", device)
    torch.testing.assert_close(layer(neutral, x, at, TRAINED), plain, **EXACT)
    if name != "geometric":
        factor_4 = make(f"{base}+{spectrum_text(name, TURNING[base], 4.0)}", device)
        assert (layer(factor_4, x, at, LONG) - plain).abs().max() > 1e-3


@pytest.mark.parametrize("stride", [2, 4])
@torch.no_grad()
def test_inverse_leaky_infers_plainly_and_trains_stretched(
    stride: int, device: torch.device
) -> None:
    inner, text = make("rope", device), f"rope+inverse_leaky_rerope(window=8,stride={stride})"
    x, at = tokens(LONG, device), torch.arange(LONG, device=device)
    encoding = make(text, device)
    torch.testing.assert_close(
        layer(encoding, x, at, LONG), layer(inner, x, at, LONG), rtol=0, atol=0
    )
    trained = layer(encoding, x, at, LONG, training=True)
    torch.testing.assert_close(trained[:, :, :8], layer(inner, x, at, LONG)[:, :, :8], **EXACT)
    assert (trained - layer(inner, x, at, LONG)).abs().max() > 1e-2


def dual_chunk(i: int, j: int, c: int) -> float:
    """M[i][j] of arXiv 2402.17463, Eqs. 4-7, with s = 3c/4."""
    s = 3 * c // 4
    gap = i // s - j // s
    query = i % s if gap <= 0 else min(s + i % s, c - 1) if gap == 1 else c - 1
    return query - j % s


# (modifier, in training, distance that the pair shows), from the sources' formulas.
DISTANCES = [
    ("rerope(window=5)", False, lambda i, j: min(i - j, 5)),
    ("leaky_rerope(window=6,factor=3)", False, lambda i, j: leak(i - j, 6, 3.0)),
    ("inverse_leaky_rerope(window=6,stride=3)", True, lambda i, j: leak(i - j, 6, 1 / 3)),
    ("self_extend(group=3,window=6)", False, lambda i, j: group(i, j, 6, 3)),
    ("self_extend(group=4,window=10)", False, lambda i, j: group(i, j, 10, 4)),
    ("dual_chunk(train_length=10,chunk=6)", False, None),
    ("dual_chunk", False, lambda i, j: dual_chunk(i, j, TRAINED)),
]


def leak(distance: int, window: int, factor: float) -> float:
    return distance if distance < window else window + (distance - window) / factor


def group(i: int, j: int, window: int, size: int) -> float:
    return i - j if i - j < window else i // size + window - window // size - j // size


def figure_2(i: int, j: int) -> float:
    """c = 10, s = 6: the rows printed in the paper's Figure 2."""
    printed = {6: [6, 5, 4, 3, 2, 1, 0], 10: [9, 8, 7, 6, 5, 4, 4, 3, 2, 1, 0]}
    return printed[i][j]


def by_distance(base: str, q: Tensor, k: Tensor, distance: float, delta: Tensor) -> Tensor:
    """Scores (heads,) of one query and one key `distance` tokens apart, from the papers' sums."""
    if base == "pope":  # Σ μ(q_c) μ(k_c) cos((j - i) θ_c + δ_c), θ_c = base^(-c/d)
        size = torch.nn.functional.softplus(q) * torch.nn.functional.softplus(k)
        theta = 10000.0 ** (-torch.arange(D, device=q.device, dtype=q.dtype) / D)
        return (size * torch.cos(-distance * theta + delta)).sum(-1) / math.sqrt(D)
    pairs = torch.arange(D // 2, device=q.device, dtype=q.dtype)
    theta = 10000.0 ** (-2 * pairs / D)
    complex_q, complex_k = (torch.complex(*x.chunk(2, -1)) for x in (q, k))
    product = complex_q * complex_k.conj() * torch.polar(torch.ones_like(theta), distance * theta)
    decay = 1.0
    if base == "xpos":  # ζ_c^((i-j)/512)
        decay = ((2 * pairs / D + 0.4) / 1.4) ** (distance / 512)
    return (product.real * decay).sum(-1) / math.sqrt(D)


@pytest.mark.parametrize("base", ["rope", "pope", "xpos"])
@pytest.mark.parametrize(("modifier", "training", "shown"), DISTANCES)
@torch.no_grad()
def test_the_distance_a_pair_shows(
    base: str, modifier: str, training: bool, shown, device: torch.device
) -> None:
    """Score by score, against a sum over frequencies at the distance that the source states."""
    encoding = make(f"{base}+{modifier}", device)
    rule = encoding.rule(LONG, training=training)
    q = draw((1, HEADS, 40, D), device, seed=1)
    k = draw((1, HEADS, 40, D), device, seed=2)
    found = scores(rule, Call(q, k, k, Where(40, 40, device=device), D**-0.5))
    delta = getattr(encoding.inner, "delta", torch.zeros(HEADS, D, device=device))
    pairs = [(i, j) for i in (0, 4, 5, 6, 10, 17, 31, 39) for j in range(0, i + 1, 3)]
    if shown is None:
        shown, pairs = figure_2, [(i, j) for i in (6, 10) for j in range(i + 1)]
    for i, j in pairs:
        expected = by_distance(base, q[0, :, i], k[0, :, j], shown(i, j), delta)
        torch.testing.assert_close(found[0, :, i, j], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("base", TURNING)
def test_leaky_with_a_huge_factor_is_rerope(base: str, device: torch.device) -> None:
    x, at = tokens(LONG, device), torch.arange(LONG, device=device)
    held = layer(make(f"{base}+rerope(window=5)", device), x, at, LONG)
    slow = layer(make(f"{base}+leaky_rerope(window=5,factor=1000000000)", device), x, at, LONG)
    torch.testing.assert_close(slow, held, rtol=0, atol=1e-6)


@torch.no_grad()
def test_modifiers_commute_where_they_touch_different_things(device: torch.device) -> None:
    """A spectrum is applied first wherever it is written; a temperature is a factor."""
    x, at = tokens(LONG, device), torch.arange(LONG, device=device)
    one = "pope+yarn(factor=4)+dual_chunk+logn"
    for other in ("pope+logn+dual_chunk+yarn(factor=4)", "pope+dual_chunk+yarn(factor=4)+logn"):
        torch.testing.assert_close(
            layer(make(one, device), x, at, LONG), layer(make(other, device), x, at, LONG), **EXACT
        )


def test_a_modifier_shares_the_parameters_it_wraps() -> None:
    encoding = build("pope+yarn(factor=4)+dual_chunk+logn", SHAPE, CONTEXT)
    assert len(list(encoding.parameters())) == 1
    (name,) = encoding.state_dict()
    assert name.endswith("delta")
