"""A backend equals the reference, in values and in every gradient."""

from __future__ import annotations

import json

import pytest
import torch
from conformance.cases import (
    ALL,
    BATCH,
    DEEP,
    EXACT,
    MODIFIED,
    SPECTRA,
    STANDALONE,
    D,
    draw,
    make,
    value_width,
    vectors,
)
from fresh import run_forked
from torch import Tensor

from whatwhere.attention import BACKENDS, Call, Unsupported, Where, attend
from whatwhere.encodings import Encoding
from whatwhere.rule import ScoreRule

BY_NAME = {backend.name: backend for backend in BACKENDS}
#: dynamo traces these anew for every rule, and can not trace the checks that conftest.py brings:
#: they run in a process of their own, a few calls each.
TRACED = ("flex",)
PAIRS = [(name, text) for name in BY_NAME for text in ALL if name not in ("reference", *TRACED)]
TRACED_TEXTS = {
    "a few": ("t5+logn", "vo_rope", "pope+yarn(factor=4)+dual_chunk+logn"),
    "all": (*STANDALONE, *MODIFIED[::2], *DEEP),
}


def wheres(causal_only: bool, device: torch.device) -> dict[str, Where]:
    """Calls that differ in positions and visibility; lengths 1, 13 and 63."""

    def at(*values: int) -> Tensor:
        return torch.tensor(values, device=device)

    late = torch.arange(50, 63, device=device)
    shuffled = torch.randperm(13, generator=torch.Generator().manual_seed(3)).to(device)
    padded = torch.ones(BATCH, 13, dtype=torch.bool, device=device)
    padded[1, :4] = False
    documents = at(*[0] * 5, *[1] * 8)
    found = {
        "square": Where(63, 63, device=device),
        "one token": Where(1, 1, device=device),
        "last of many": Where(13, 63, late, torch.arange(63, device=device)),
        "window": Where(63, 63, window=5, device=device),
        "padded rows": Where(
            13,
            13,
            (padded.cumsum(1) - 1).clamp(min=0),
            torch.arange(13, device=device),
            k_valid=padded,
        ),
        "packed": Where(
            13,
            13,
            at(*range(5), *range(8)),
            at(*range(5), *range(8)),
            q_documents=documents,
            k_documents=documents,
        ),
        "any order": Where(13, 13, shuffled * 3, shuffled.flip(0) * 3),
    }
    if not causal_only:
        found["both sides"] = Where(13, 13, causal=False, device=device)
        found["both sides, window"] = Where(
            13, 13, causal=False, window=4, k_valid=padded, device=device
        )
    return found


def run(
    name: str, encoding: Encoding, where: Where, dtype: torch.dtype, grad: bool, scale: float
) -> dict[str, Tensor]:
    """Output and, if wanted, the gradients of q, k, v and every parameter that attention uses."""
    with torch.set_grad_enabled(grad):
        rule = encoding.rule(64)
        q, k, v = vectors(rule, where.queries, where.keys, where.q_pos.device, dtype, grad=grad)
        out = attend(q, k, v, rule, where=alone(where), scale=scale, backend=name)
        found = {"out": out.detach()}
        if grad:
            inputs = {"q": q, "k": k, "v": v} | dict(encoding.named_parameters())
            weight = draw(tuple(out.shape), out.device, dtype, seed=9)
            grads = torch.autograd.grad(
                (out * weight).sum(), list(inputs.values()), allow_unused=True
            )
            found |= {f"d{key}": g for key, g in zip(inputs, grads, strict=True) if g is not None}
    return found


def alone(where: Where) -> Where:
    """The same call without what an earlier backend derived from it: each stands alone."""
    fresh = {
        key: getattr(where, key)
        for key in ("causal", "window", "q_documents", "k_documents", "k_valid")
    }
    positions = () if where.contiguous else (where.q_pos, where.k_pos)
    return Where(where.queries, where.keys, *positions, **fresh, device=where.q_pos.device)


def willing(name: str, rule: ScoreRule, where: Where) -> tuple[torch.dtype, bool] | str:
    """The best (dtype, gradients) that the backend offers here, or its reason to refuse all."""
    reason = ""
    for dtype in (torch.float64, torch.float32):
        for grad in (True, False):
            q, k, v = vectors(rule, where.queries, where.keys, where.q_pos.device, dtype, grad=grad)
            call = Call(q, k, v, where, D**-0.5, named=True)
            with torch.set_grad_enabled(grad):
                reason = BY_NAME[name].why_not(rule, call)
            if reason is None:
                return dtype, grad
    return reason


@pytest.mark.parametrize(("name", "text"), PAIRS)
def test_equals_the_reference(name: str, text: str, device: torch.device) -> None:
    compare(name, text, device)


def compare(name: str, text: str, device: torch.device) -> None:
    """Fail unless the backend computes every call of `wheres` as the reference does."""
    encoding = make(text, device)
    calls = wheres(encoding.causal_only, device)
    if name in TRACED:
        calls = {key: calls[key] for key in ("square", "packed")}
    elif text in SPECTRA:  # they differ in numbers alone
        calls = {key: calls[key] for key in ("square", "last of many")}
    for label, where in calls.items():
        rule = encoding.rule(64)
        offer = willing(name, rule, where)
        if isinstance(offer, str):
            assert_refused(name, rule, where, offer)
            continue
        dtype, grad = offer
        expected = run("reference", encoding, where, torch.float64, grad, 0.3)
        found = run(name, encoding.to(dtype), where, dtype, grad, 0.3)
        encoding.to(torch.float64)
        assert found.keys() == expected.keys()
        for key, tensor in found.items():
            tolerance = EXACT if dtype == torch.float64 else single(expected[key])
            error = (tensor.double() - expected[key]).abs()
            bound = tolerance["atol"] + tolerance["rtol"] * expected[key].abs()
            assert (error <= bound).all(), f"{label}: {key} is off by {error.max():.2e}"


SCRIPT = """
import json, os, sys, torch
sys.path.insert(0, "tests")
from conformance.test_backends import TRACED, TRACED_TEXTS, compare
from conformance.test_precision import assert_precise
device = torch.device(os.environ.get("WHATWHERE_DEVICE", "cpu"))
torch.set_num_threads(1)
failures = {}
for name in TRACED:
    for text in TRACED_TEXTS[CHOSEN]:
        torch._dynamo.reset()  # what other rules compiled counts against its limit
        print(text, flush=True)  # where a run that takes too long has come to
        try:
            compare(name, text, device)
            if device.type == "cuda":
                for dtype in (torch.float32, torch.bfloat16):
                    assert_precise(name, text, device, dtype)
        except Exception as error:
            failures[f"{name} {text}"] = f"{type(error).__name__}: {error}"
print(json.dumps(failures))
"""


@pytest.mark.parametrize("texts", ["a few", pytest.param("all", marks=pytest.mark.slow)])
def test_traced_backends_equal_the_reference(texts: str) -> None:
    """All in one process, without the run-time checks."""
    script = SCRIPT.replace("CHOSEN", repr(texts))
    assert json.loads(run_forked(script).splitlines()[-1]) == {}


def single(expected: Tensor) -> dict[str, float]:
    """Float32: 32 features and 63 keys are summed, each sum off by at most its length in units of
    2^-24, through softmax and back: 4 · (32 + 63) · 2^-24 = 2.3e-5 of the largest entry."""
    return {"rtol": 0.0, "atol": 2.3e-5 * max(1.0, float(expected.abs().max()))}


def assert_refused(name: str, rule: ScoreRule, where: Where, reason: str) -> None:
    """A backend that will not is never silent: named, it raises its reason; "auto" passes it by."""
    q, k, v = vectors(rule, where.queries, where.keys, where.q_pos.device)
    assert " " in reason
    with pytest.raises(Unsupported, match=name):
        attend(q, k, v, rule, where=where, backend=name)
    assert attend(q, k, v, rule, where=where).shape == (*q.shape[:3], value_width(rule))


def test_every_kind_of_rule_has_a_fast_backend_or_a_reason(device: torch.device) -> None:
    """What only the reference computes is known: a new line here is a decision, not an accident."""
    only_dense = set()
    where = Where(13, 13, device=device)
    for text in ALL:
        encoding = make(text, device)
        rule = encoding.rule(64)
        if all(
            isinstance(willing(name, rule, where), str) for name in BY_NAME if name != "reference"
        ):
            only_dense.add(text.split("+")[0].split("(")[0])
    assert only_dense == {"shaw", "cope"}


def test_a_shared_where_keeps_calls_apart(device: torch.device) -> None:
    """Masks are kept with the call's Where: another dtype or another rule must not meet them."""
    where = Where(13, 13, device=device)
    for text in ("alibi", "t5", "rope", "kerple"):
        encoding = make(text, device)
        rule = encoding.rule(64)
        expected = run("reference", encoding, where, torch.float64, False, 0.3)["out"]
        for dtype in (torch.float32, torch.float64, torch.float32):
            for each in (rule, encoding.rule(64)):
                q, k, v = vectors(rule, 13, 13, device, dtype)
                with torch.no_grad():
                    attend(q, k, v, each, where=where, scale=0.3, backend="sdpa")
                out = attend(q, k, v, each, where=where, scale=0.3, backend="sdpa")
                torch.testing.assert_close(out.double(), expected, **single(expected))
                learned = [p.requires_grad for p in encoding.parameters()]
                assert out.requires_grad == any(learned)
