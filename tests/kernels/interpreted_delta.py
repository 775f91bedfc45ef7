"""δ of one model and of several side by side, as Python on a CPU. Run by test_interpreter.py.

What torch.compile is told of an operator (shapes, strides, dtypes) has to be what the operator
gives: for δ (h, F), and for (s, h, F), also of one model (s = 1), as `Encoding.beside` makes it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from kernels.interpreted_prep import LIMITS, angles, few_programs, generator, poisoned
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.runtime import interpreter

from whatwhere.kernels import decode_launch, features, fused_op
from whatwhere.kernels.pairs import Pairs
from whatwhere.maps import Polar

__all__ = ["few_programs", "poisoned"]  # fixtures that apply here too

BATCH, HEADS, KV_HEADS, LENGTH, WIDTH, SCALE = 3, 2, 1, 6, 16, 0.2
SETS = {"(h, F)": None, "(1, h, F)": 1, "(3, h, F)": 3}


@pytest.fixture
def unlaunched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs are made before kernels run: what they are like does not depend on it."""
    monkeypatch.setattr(interpreter.GridExecutor, "__call__", lambda *_, **__: None)


def offset_of(sets: int | None) -> Tensor:
    shape = (HEADS, WIDTH) if sets is None else (sets, HEADS, WIDTH)
    return -2 * math.pi * torch.rand(shape, generator=generator(7))


def vectors(dtype: torch.dtype = torch.float32, by_heads: bool = False) -> list[Tensor]:
    """(b, h, n, d) in (b, n, h, d) storage, as a projection gives it, or head after head."""
    made = []
    for seed, heads in enumerate((HEADS, KV_HEADS, KV_HEADS)):
        x = torch.randn(BATCH, LENGTH, heads, WIDTH, generator=generator(seed)).to(dtype)
        x = x.transpose(1, 2)
        made.append((x.contiguous() if by_heads else x).requires_grad_())
    return made


def same_as_told(operator: Any, arguments: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """What the operator gives, after comparing it with what its fake kernel says that it gives."""
    arguments = tuple(x.detach() if isinstance(x, Tensor) else x for x in arguments)
    real = operator(*arguments)
    with FakeTensorMode() as mode:
        told = operator(*(mode.from_tensor(x) if isinstance(x, Tensor) else x for x in arguments))
    real, told = ((x,) if isinstance(x, Tensor) else x for x in (real, told))
    for place, (mine, theirs) in enumerate(zip(real, told, strict=True)):
        assert described(mine) == described(theirs), f"output {place}"
    return real


def described(x: Tensor) -> tuple[Any, ...]:
    """Shape, dtype and strides; an axis of one element has no stride to speak of."""
    strides = [step for step, size in zip(x.stride(), x.shape, strict=True) if size > 1]
    return tuple(x.shape), x.dtype, strides, x.device


@pytest.mark.usefixtures("unlaunched")
@pytest.mark.parametrize("by_heads", [False, True])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(
    ("kernel", "sets"),  # of several models "tiled" is refused: see below
    [("short", sets) for sets in SETS] + [("tiled", sets) for sets in list(SETS)[:2]],
)
def test_the_joined_operator_gives_what_it_says(
    kernel: str, sets: str, apart: bool, by_heads: bool
) -> None:
    q, k, v = vectors(by_heads=by_heads)
    at = torch.arange(LENGTH)[None]
    query = Polar(angles(WIDTH), offset=offset_of(SETS[sets]))
    seen, *angling = features.described(query, at, None)
    looks = Pairs()
    rest = (
        *(q, k, v, seen, at if apart else None, *angling, SCALE, looks.causal, looks.window),
        *(None, None, None, kernel),
    )
    out, lse = same_as_told(fused_op._fused, rest)
    for wants_offset in (True, False):
        *_, d_offset = same_as_told(
            fused_op._fused_backward, (torch.ones_like(out), out, lse, wants_offset, *rest)
        )
        assert d_offset.shape == (query.offset.shape if wants_offset else (0,))  # type: ignore[union-attr]


@pytest.mark.usefixtures("unlaunched")
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("sets", ["(h, F)", "(1, h, F)"])
def test_preparation_gives_what_it_says(sets: str, alone: bool) -> None:
    q, k, _ = vectors()
    query = Polar(angles(WIDTH), offset=offset_of(SETS[sets]))
    rest = features.described(query, torch.arange(LENGTH)[None], None)
    for by_heads in (False, True):
        made = same_as_told(features._prep, (q, None if alone else k, *rest, by_heads))
    grads = (made[0], None) if alone else made
    for by_tokens in (False, True):
        for wants_offset in (False, True):
            raw = (q, None if alone else k)
            same_as_told(features._prep_backward, (*grads, *raw, *rest, by_tokens, wants_offset))


@pytest.mark.usefixtures("unlaunched")
def test_decoding_gives_what_it_says() -> None:
    q, k, v = vectors()
    query = Polar(angles(WIDTH), offset=offset_of(None))
    at = torch.full((1, 1), LENGTH - 1)
    for offset in (query.offset, None):
        same_as_told(
            decode_launch._decode,
            (
                *(q[:, :, -1:], k, v, at, *[None] * 5, query.angles.turns, offset, None, None),
                *("softplus", False, 1.0, 1, SCALE, True, None, None, None),
            ),
        )


def test_several_models_are_no_table_of_the_preparation_kernel() -> None:
    query = Polar(angles(WIDTH), offset=offset_of(3))
    rest = features.described(query, torch.arange(LENGTH)[None], None)
    with pytest.raises(ValueError, match="3 models"):
        features._prep(vectors()[0], None, *rest)


def definition(query: Polar, q: Tensor, k: Tensor, v: Tensor, at: Tensor) -> Tensor:
    k, v = (
        x.repeat_interleave(HEADS // KV_HEADS, 1) for x in (replace(query, offset=None)(k, at), v)
    )
    scores = query(q, at) @ k.mT * SCALE
    hidden = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    return scores.masked_fill(hidden, -math.inf).softmax(-1) @ v


@pytest.mark.parametrize(
    ("kernel", "sets", "learned"),
    [(kernel, sets, True) for kernel in ("tiled", "short") for sets in list(SETS)[1:]]
    + [("tiled", "(1, h, F)", False)],
)
def test_attention_and_gradients_of_models_side_by_side(
    kernel: str, sets: str, learned: bool
) -> None:
    """Against float64; each row of the batch has a position of its own to begin at."""
    q, k, v = vectors()
    offset = offset_of(SETS[sets]).requires_grad_(learned)
    query = Polar(angles(WIDTH), offset=offset)
    at = torch.arange(LENGTH)[None] + 100 * torch.arange(BATCH)[:, None]
    key = replace(query, offset=None)
    out = fused_op.fused(query, key, q, k, v, at, None, SCALE, Pairs(), kernel)
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    true = definition(query, *exact, at)
    assert out.stride(1) < out.stride(2), "stored (b, n, h, d)"
    grad = torch.randn(out.shape, generator=generator(3))
    own = [offset] if learned else []
    got = torch.autograd.grad(out, [q, k, v, *own], grad)
    wanted = torch.autograd.grad(true, [*exact, *own], grad.double())
    for mine, theirs in zip((out, *got), (true, *wanted), strict=True):
        assert mine.shape == theirs.shape
        assert error(mine, theirs) < 2e-6


@pytest.mark.parametrize("by_heads", [False, True])
@pytest.mark.parametrize("sets", SETS)
def test_features_and_gradients_of_models_side_by_side(sets: str, by_heads: bool) -> None:
    q, k, _ = vectors()
    offset = offset_of(SETS[sets]).requires_grad_()
    query, at = Polar(angles(WIDTH), offset=offset), torch.arange(LENGTH)[None]
    made = features.prepare(query, q, at, k, None, by_heads)
    exact = [x.detach().double().requires_grad_() for x in (q, k)]
    true = query(exact[0], at), replace(query, offset=None)(exact[1], at)
    for x in made[:1]:
        assert (x.stride(1) < x.stride(2)) != by_heads, "stored as q is, or head after head"
    grads = [torch.randn(x.shape, generator=generator(3)) for x in made]
    got = torch.autograd.grad(made, [q, k, offset], grads)
    wanted = torch.autograd.grad(true, [*exact, offset], [x.double() for x in grads])
    for mine, theirs in zip((*made, *got), (*true, *wanted), strict=True):
        assert mine.shape == theirs.shape
        assert error(mine, theirs) < LIMITS[torch.float32]


def error(got: Tensor, wanted: Tensor) -> float:
    got, wanted = got.detach().double(), wanted.detach().double()
    return float((got - wanted).norm() / wanted.norm())
