"""`attend` itself: which backend, what dropout, what reaches it."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from conformance.cases import BATCH, GROUPS, HEADS, D, draw, make, vectors
from torch import Tensor

from whatwhere.attention import BACKENDS, Call, Unsupported, Where, attend, backend_reasons
from whatwhere.rule import ScoreRule

NAMES = [backend.name for backend in BACKENDS]


def call(device: torch.device, text: str = "rope", **options: object) -> tuple[ScoreRule, Call]:
    rule = make(text, device).rule(64)
    q, k, v = vectors(rule, 13, 13, device)
    return rule, Call(q, k, v, Where(13, 13, device=device), D**-0.5, **options)


def test_backends_have_names_and_end_with_the_definition() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert NAMES[-1] == "reference"


@pytest.mark.parametrize("text", ["rope", "rope+rerope", "shaw", "fire", "cope"])
def test_auto_takes_the_first_without_a_reason(text: str, device: torch.device) -> None:
    rule, made = call(device, text)
    reasons = backend_reasons(rule, made)
    assert list(reasons) == NAMES
    assert reasons["reference"] is None
    first = next(name for name, reason in reasons.items() if reason is None)
    found = attend(made.q, made.k, made.v, rule)
    expected = attend(made.q, made.k, made.v, rule, backend=first)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", ["rope", "rope+rerope", "shaw", "fire", "pope+dual_chunk"])
def test_a_named_backend_runs_or_raises_its_reason(
    name: str, text: str, device: torch.device
) -> None:
    rule, made = call(device, text, named=True)
    reason = next(b for b in BACKENDS if b.name == name).why_not(rule, made)
    if reason is None:
        attend(made.q, made.k, made.v, rule, backend=name)
    else:
        with pytest.raises(Unsupported) as caught:
            attend(made.q, made.k, made.v, rule, backend=name)
        assert reason in str(caught.value)
        assert name in str(caught.value)


def test_flex_on_a_cpu_refuses_whatever_would_need_a_gradient() -> None:
    """q, k and v without gradients, but PoPE's δ with one: torch has no backward there."""
    (flex,) = (backend for backend in BACKENDS if backend.name == "flex")
    cpu = torch.device("cpu")
    for text in ("pope", "t5", "kerple", "pope+logn"):
        rule = make(text, cpu, torch.float32).rule(64)
        q, k, v = vectors(rule, 13, 13, cpu, torch.float32)
        made = Call(q, k, v, Where(13, 13), D**-0.5, named=True)
        assert "gradient" in (flex.why_not(rule, made) or ""), text
        with torch.no_grad():
            assert flex.why_not(rule, made) is None, text


def test_nope_is_torchs_own_attention(device: torch.device) -> None:
    q, k, v = vectors(ScoreRule(), 13, 13, device)
    keys, values = (x.repeat_interleave(HEADS // GROUPS, 1) for x in (k, v))
    expected = F.scaled_dot_product_attention(q, keys, values, is_causal=True)
    for name in ("reference", "sdpa", "auto"):
        torch.testing.assert_close(attend(q, k, v, backend=name), expected)
    both = F.scaled_dot_product_attention(q, keys, values)
    torch.testing.assert_close(attend(q, k, v, causal=False), both)


@pytest.mark.parametrize("scale", [0.0, -0.3])
@pytest.mark.parametrize("name", ["auto", "sdpa"])
def test_a_scale_that_is_not_positive(name: str, scale: float, device: torch.device) -> None:
    """A slip of a sign, perhaps, but torch's own kernel on a CPU makes NaN of it."""
    for text in ("rope", "alibi"):
        rule = make(text, device, torch.float32).rule(64)
        q, k, v = vectors(rule, 13, 13, device, torch.float32)
        found = attend(q, k, v, rule, scale=scale, backend=name)
        expected = attend(q, k, v, rule, scale=scale, backend="reference")
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["auto", "reference"])
@pytest.mark.parametrize("text", ["pope", "alibi", "shaw"])
def test_torchs_function_transforms(name: str, text: str, device: torch.device) -> None:
    """vmap (an ensemble) and grad; inside a transform no value can be read to look for NaN."""
    rule = make(text, device).rule(64)
    q, k, v = vectors(rule, 5, 5, device)

    def loss(q: Tensor, backend: str = name) -> Tensor:
        return attend(q, k, v, rule, backend=backend).sin().sum()

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's CPU kernel is batched by a loop: slow, it says
        found = torch.vmap(loss)(torch.stack((q, q + 1)))
        torch.testing.assert_close(found[1], loss(q + 1, "reference"))
    wanted = torch.autograd.grad(loss(q.requires_grad_(), "reference"), q)[0]
    torch.testing.assert_close(torch.func.grad(loss)(q.detach()), wanted)


@pytest.mark.parametrize("text", ["rope", "alibi", "pope+dual_chunk", "shaw"])
def test_shapes_without_numbers(text: str) -> None:
    """On torch's meta device, where models are laid out before they are loaded."""
    meta = torch.device("meta")
    rule = make(text, meta).rule(64)
    q, k, v = vectors(rule, 13, 13, meta)
    assert attend(q, k, v, rule).shape == (BATCH, HEADS, 13, v.shape[-1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_alibi_in_16_bits_where_every_key_is_far(dtype: torch.dtype, device: torch.device) -> None:
    """A softmax knows differences only; -0.5 times 200,000 tokens is beyond float16 altogether."""
    rule = make("alibi", device).rule(64)
    q, k, v = (x.to(dtype) for x in vectors(rule, 13, 13, device))
    places = {"q_pos": torch.arange(13) + 200_000, "k_pos": torch.arange(13)}
    there = {name: each.to(device) for name, each in places.items()}
    found = attend(q, k, v, rule, **there, backend="sdpa")
    wide = attend(q.double(), k.double(), v.double(), rule, **there, backend="reference")
    torch.testing.assert_close(found.double(), wide, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", ["nope", "rope", "alibi", "pope+dual_chunk", "shaw(sides=keys)"])
def test_dropout_drops_weights_and_keeps_their_expectation(
    name: str, text: str, device: torch.device
) -> None:
    """Values of one and weights w_j: the output is Σ m_j w_j / (1 - p), of mean 1 and variance
    p / (1 - p) · Σ w_j². Over N outputs the mean is within five standard errors of 1."""
    rule = make(text, device, torch.float32).rule(64)
    queries, p = 40, 0.3
    q = draw((BATCH, HEADS, queries, D), device, torch.float32, 1)
    k = draw((BATCH, GROUPS, queries, D), device, torch.float32, 2)
    v = torch.ones(BATCH, GROUPS, queries, D, device=device)
    made = Call(q, k, v, Where(queries, queries, device=device), D**-0.5, dropout=p, named=True)
    with torch.no_grad():
        reason = next(b for b in BACKENDS if b.name == name).why_not(rule, made)
        if reason is not None:
            assert name not in ("reference", "sdpa") or rule.pairwise or len(rule.cases) > 1
            return
        torch.manual_seed(2)
        found = attend(q, k, v, rule, dropout=p, backend=name)
        again = attend(q, k, v, rule, dropout=p, backend=name)
        assert not torch.equal(found, again)
        per_row = found[..., 0]
        assert per_row.std() > 0.1
        # Σ w² is at most 1, so this bound is a generous one.
        error = math.sqrt(p / (1 - p) / per_row.numel())
        assert abs(per_row.mean().item() - 1) < 5 * error
        none = attend(q, k, v, rule, dropout=0.0, backend=name)
        torch.testing.assert_close(none, torch.ones_like(none))
