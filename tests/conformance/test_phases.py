"""Phases are exact at a million tokens, whatever is cast, moved or copied.

The oracle is 60-digit arithmetic on the spectrum's own float64 frequencies. What is asked is
1e-4 rad; the bounds below are what fixed point gives: the frequency's own rounding to float64,
p · θ · 2^-52, and one rounding of the phase, π · 2^-24 in float32 (with two more for its unit).
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Sequence

import mpmath
import pytest
import torch
from conformance.cases import HEADS, SPECTRA, TURNING, D, make, spectrum_text
from torch import Tensor, nn

from whatwhere import spectra
from whatwhere.maps import Polar, Reindex, Rotate
from whatwhere.phases import Angles, Phases, to_turns

POSITIONS = (0, 1, 5, 2_047, 65_535, 123_457, 524_289, 999_983, 1_000_000)
HORIZON = 1_000_001
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
BOUND = {torch.float32: 1e-6, torch.float64: 1e-9}


@functools.cache
def exact(position: int, frequency: float) -> float:
    """position · frequency modulo a turn, in [-π, π]."""
    with mpmath.workdps(60):
        turn = 2 * mpmath.pi
        phase = mpmath.mpf(position) * mpmath.mpf(frequency)
        return float(phase - turn * mpmath.nint(phase / turn))


def oracle(spectrum: spectra.Spectrum, dim: int) -> Tensor:
    """Exact phases of all POSITIONS and frequencies."""
    found = spectrum(dim, HORIZON)

    def frequencies(p: int) -> tuple[float, ...]:
        early = found.start_inv_freq is not None and p < found.start
        return found.start_inv_freq if early else found.inv_freq

    return exactly([frequencies(p) for p in POSITIONS])


def exactly(frequencies: Sequence[Sequence[float]]) -> Tensor:
    """Exact phases, one row of frequencies for each of POSITIONS."""
    rows = zip(POSITIONS, frequencies, strict=True)
    return torch.tensor([[exact(p, f) for f in row] for p, row in rows], dtype=torch.float64)


def apart(found: Tensor, expected: Tensor) -> float:
    """The largest distance on the circle, in radians."""
    gap = found.double() - expected.double()
    return (gap - 2 * math.pi * (gap / (2 * math.pi)).round()).abs().max().item()


def at_positions(angles: Angles, dtype: torch.dtype) -> Tensor:
    where = torch.tensor(POSITIONS, device=angles.turns.device)
    return angles.phase(where, dtype).cpu()


@pytest.mark.parametrize("text", SPECTRA)
def test_phases_of_every_spectrum(text: str, device: torch.device) -> None:
    phases = make(text, device).phases
    expected = oracle(phases.spectrum, phases.dim)
    for dtype, bound in BOUND.items():
        assert apart(at_positions(phases.at(HORIZON), dtype), expected) < bound


def angle_of(features: Tensor, magnitude: Tensor | float) -> Tensor:
    """Phases read back from features [cos | sin], which must have the given length."""
    cosine, sine = features.double().cpu().chunk(2, -1)
    torch.testing.assert_close(
        torch.hypot(cosine, sine) / magnitude,
        torch.ones_like(cosine),
        rtol=0,
        atol=2 * torch.finfo(features.dtype).eps,
    )
    return torch.atan2(sine, cosine)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("base", TURNING)
@pytest.mark.parametrize("name", spectra.TABLE)
def test_features_in_every_dtype_of_q_and_k(
    base: str, name: str, dtype: torch.dtype, device: torch.device
) -> None:
    """Features are rounded to q's dtype once, at the end: the phases under them are float32's."""
    encoding = make(f"{base}+{spectrum_text(name, TURNING[base], 4.0)}", device)
    rule = encoding.float().rule(HORIZON)
    where = torch.tensor([POSITIONS], device=device)
    x = torch.zeros(1, HEADS, len(POSITIONS), D, device=device)
    x[..., : D // 2 if base == "rope" else D] = 1.0
    expected = oracle(encoding.phases.spectrum, encoding.phases.dim)
    for mapped in (rule.only.query, rule.only.key):
        wide, found = mapped(x, where), mapped(x.to(dtype), where)
        assert found.dtype == dtype
        if dtype != torch.float64:
            torch.testing.assert_close(found, wide.to(dtype), rtol=0, atol=0)
        size = math.log1p(math.e) if base == "pope" else 1.0  # softplus(1)
        seen = angle_of(found, size * rule.only.key.angles.amplitude)
        if isinstance(mapped, Polar) and mapped.offset is not None:
            seen = seen - mapped.offset.detach().double().cpu()[:, None]
        # Read back from numbers of the dtype: at most one rounding of cosine or sine.
        bound = 1e-6 if dtype in BOUND else torch.finfo(dtype).eps
        assert apart(seen, expected.expand_as(seen)) < bound


CHANGES = {
    "bfloat16": lambda m: m.bfloat16(),
    "half": lambda m: m.half(),
    "double": lambda m: m.double(),
    "bfloat16 and back": lambda m: m.bfloat16().float(),
    "copy": copy.deepcopy,
    "copy of half": lambda m: copy.deepcopy(m.half()),
    "meta": lambda m: m.to("meta").to_empty(device="cpu"),
    "type": lambda m: m.type(torch.float16),
    "share": lambda m: m.share_memory(),
    "inside a model": lambda m: nn.Sequential(m).bfloat16()[0],
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    "text",
    [
        "rope",
        "pope",
        "rope+yarn(factor=4)",
        "pope+dynamic_ntk",
        "rope(spectrum=linear(factor=4))",
        SPECTRA[-1],
    ],
)
def test_nothing_that_happens_to_a_module_moves_a_phase(text: str, change: str) -> None:
    encoding = CHANGES[change](make(text, torch.device("cpu"), torch.float32))
    phases = encoding.phases
    assert phases.at(HORIZON).turns.dtype == torch.int64
    expected = oracle(phases.spectrum, phases.dim)
    assert apart(at_positions(phases.at(HORIZON), torch.float32), expected) < 1e-6


def test_other_position_code_survives_a_cast_too() -> None:
    """ALiBi's slopes, sinusoidal codes and Sandwich's cosines are no parameters."""
    where = torch.tensor([POSITIONS])
    head = torch.arange(HEADS)[:, None, None]
    for text in ("alibi", "sandwich"):
        plain, cast = (make(text, torch.device("cpu"), t) for t in (torch.float32, torch.bfloat16))
        one, other = (
            e.rule().biases[0](head, where[..., None], where[:, None]) for e in (plain, cast)
        )
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    sinusoidal = make("sinusoidal", torch.device("cpu"), torch.bfloat16)
    code = sinusoidal.code(where)[0].double()
    seen = torch.atan2(code[:, 0::2], code[:, 1::2])
    assert apart(seen, oracle(sinusoidal.phases.spectrum, sinusoidal.phases.dim)) < 1e-6


@pytest.mark.parametrize("text", ["rope", "rope+yarn(factor=4)", "pope+linear(factor=4)"])
def test_a_state_dict_carries_no_spectrum(text: str) -> None:
    """A checkpoint of another spectrum, or one cast to bf16, must not move a phase."""
    encoding = make(text, torch.device("cpu"), torch.float32)
    other = make(text.split("+")[0] + "+ntk(factor=9)", torch.device("cpu")).bfloat16()
    state = other.state_dict()
    assert all("turns" not in key and "freq" not in key for key in state)
    encoding.load_state_dict(state, strict=False)
    expected = oracle(encoding.phases.spectrum, encoding.phases.dim)
    assert apart(at_positions(encoding.phases.at(HORIZON), torch.float32), expected) < 1e-6


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_delta_is_a_phase(dtype: torch.dtype, device: torch.device) -> None:
    """PoPE's δ enters in float32 whatever q is. As a parameter it is cast with the model: bf16
    keeps 8 bits of it, up to 2^-9 · 2π = 0.012 rad, but its cosine is taken of that in float32."""
    encoding = make("pope(delta_init=uniform)", device, torch.float32)
    x = torch.ones(1, HEADS, 1, D, device=device)
    for cast in (lambda e: e, lambda e: e.to(dtype)):
        delta = cast(encoding).bounded_delta().detach()
        features = encoding.rule().only.query(x.to(dtype), torch.tensor([[10**6]], device=device))
        angles = angle_of(features, math.log1p(math.e))[0, :, 0]
        key = oracle(encoding.spectrum, 2 * D)[-1]
        bound = 1e-6 if dtype in BOUND else torch.finfo(dtype).eps
        assert apart(angles, key - delta.double().cpu()) < bound


@pytest.mark.parametrize("factor", [2.0, 16.0, 3.7, 1 / 3, 1 / 16])
def test_slowed_angles(factor: float, device: torch.device) -> None:
    """Leaky ReRoPE's far term: frequencies divided by the factor, still exact at a million."""
    phases = Phases(spectra.geometric(), 2 * D).to(device)
    slow = phases.at().slowed(factor)
    inv_freq = [each / factor for each in phases.spectrum(2 * D).inv_freq]
    expected = exactly([inv_freq] * len(POSITIONS))
    # A frequency divided in float64 is off by 2^-53 of itself; a million tokens make 1e-10 of it.
    assert apart(at_positions(slow, torch.float64), expected) < 1e-8
    moved = Rotate(slow).moved(Reindex(modulo=7, group=2, offset=4, most=5))
    assert moved.reindex(torch.tensor([0, 3, 6, 7, 13])).tolist() == [4, 5, 5, 4, 5]


def test_turns_wrap() -> None:
    """2^64 units are one turn: π is the most negative number, a full turn is 0."""
    assert to_turns([0.0, math.pi, math.pi / 2]) == [0, -(1 << 63), 1 << 62]
    assert to_turns([2 * math.pi]) == [0]
