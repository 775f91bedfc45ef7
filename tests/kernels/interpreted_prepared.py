"""sdpa and flex over features that the preparation kernel made, as Python on a CPU, against the
definition. Run by test_interpreter.py, in a process of its own.

On a CPU they take the maps' own features; here `prepared` is told that the interpreter will do.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from conformance.cases import TRAINED, D, vectors
from conformance.test_backends import make, run, single, wheres
from fresh import ROOT, run_forked
from torch import Tensor

from whatwhere.attention import Where, attend, prepared
from whatwhere.kernels import prep_calls, prep_launch

CPU = torch.device("cpu")


class Calls:
    """How often the kernel made features, and of how many sides at once."""

    def __init__(self) -> None:
        self.sides: list[int] = []

    def taken(self) -> list[int]:
        sides, self.sides = self.sides, []
        return sides


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    """`prepared` may use the interpreter, launches are counted, torch.empty is full of NaN."""
    calls, decide, forward = Calls(), prepared.why_not_here, prep_calls.forward

    def counted(q: Tensor, k: Tensor | None, *rest: object) -> object:
        calls.sides.append(1 if k is None else 2)
        return forward(q, k, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(prep_calls, "forward", counted)
    monkeypatch.setattr(prepared, "why_not_here", lambda device, dtype, _=False: decide(
        device, dtype, True))  # fmt: skip
    monkeypatch.setattr(prep_launch, "PROGRAMS", 1)  # the interpreter's time goes with programs
    torch.use_deterministic_algorithms(True)
    assert torch.empty(4).isnan().all()
    yield calls
    torch.use_deterministic_algorithms(False)


#: expression, call, and how many sides each launch of `sdpa` prepares.
SDPA = [
    ("rope", "square", [2]),
    ("rope+logn", "last of many", [1, 1]),
    ("rope(layout=interleaved,values=relative)", "packed", [1, 1, 1, 1]),
    ("xpos", "square", [2]),
    ("pope(delta_init=uniform)", "square", [2]),
    ("pope(delta_init=uniform)", "padded rows", [1, 1]),
    ("pope(partial=0.5)+logn(form=length)", "both sides, window", [2]),
    ("alibi", "square", []),
]


@pytest.mark.parametrize(("text", "label", "sides"), SDPA)
def test_sdpa_is_the_definition(text: str, label: str, sides: list[int], kernel: Calls) -> None:
    """Output and every gradient, δ's too, in float32 against float64."""
    encoding, where = make(text, CPU), wheres(False, CPU)[label]
    expected = run("reference", encoding, where, torch.float64, True, 0.3)
    assert kernel.taken() == [], "the definition asks no kernel"
    found = run("sdpa", encoding.to(torch.float32), where, torch.float32, True, 0.3)
    assert kernel.taken() == sides
    assert found.keys() == expected.keys()
    assert any("offset" in key or "delta" in key for key in found) == ("pope" in text)
    for key, tensor in found.items():
        error = (tensor.double() - expected[key]).abs().max()
        assert error <= single(expected[key])["atol"], key


#: expression, and the launches of `flex`: one or two a term.
FLEX = {
    "rope(values=relative)": [1, 2, 1],
    "pope(delta_init=uniform)+rerope+logn": [2, 1, 1],
}
# In a process of its own: the checks that tests add to every signature can not be traced.
FLEX_SCRIPT = """
import torch
from conformance.test_backends import make, run, wheres
from whatwhere.attention import prepared
from whatwhere.kernels import prep_calls, prep_launch

CPU, sides, prep_launch.PROGRAMS = torch.device("cpu"), [], 1
decide, forward = prepared.why_not_here, prep_calls.forward
prepared.why_not_here = lambda device, dtype, _=False: decide(device, dtype, True)
def counted(q, k, *rest):
    sides.append(1 + (k is not None))
    return forward(q, k, *rest)

prep_calls.forward = counted
for text in TEXTS:
    encoding, where = make(text, CPU), wheres(False, CPU)["window"]
    expected = run("reference", encoding, where, torch.float64, False, 0.3)["out"]
    assert sides == []
    found = run("flex", encoding.float(), where, torch.float32, False, 0.3)["out"].double()
    print(text, sides, float((found - expected).abs().max() / expected.abs().max()), sep="|")
    sides.clear()
"""


def test_flex_is_the_definition() -> None:
    path = f"import sys\nsys.path.insert(0, {str(ROOT / 'tests')!r})\n"
    lines = run_forked(path + FLEX_SCRIPT.replace("TEXTS", repr(list(FLEX)))).splitlines()
    for line, (text, sides) in zip(lines, FLEX.items(), strict=True):
        name, found, error = line.split("|")
        assert (name, found) == (text, str(sides))
        assert float(error) < 1e-5, text


@pytest.mark.parametrize("text", ["rope", "pope(delta_init=uniform)"])
@pytest.mark.parametrize("label", ["square", "last of many"])
def test_a_learned_temperature_keeps_its_gradient(text: str, label: str, kernel: Calls) -> None:
    factor, found = torch.tensor(1.3, requires_grad=True), {}
    for name, dtype in (("reference", torch.float64), ("sdpa", torch.float32)):
        encoding, where = make(text, CPU, dtype), wheres(False, CPU)[label]
        rule = encoding.rule(TRAINED).with_temperature(lambda i: factor * (1 + i / 64))
        q, k, v = vectors(rule, where.queries, where.keys, CPU, dtype)
        out = attend(q, k, v, rule, where=where, backend=name)
        weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).reshape(out.shape)
        (slope,) = torch.autograd.grad((out.double() * weight).sum(), factor)
        found[name] = out.detach().double(), slope.double()
    assert kernel.taken() == ([2] if label == "square" else [1, 1])
    for mine, true in zip(found["sdpa"], found["reference"], strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_rounded_once(dtype: torch.dtype, kernel: Calls) -> None:
    """The interpreter truncates to bfloat16: two units of the last place of the largest output."""
    rule = make("pope(delta_init=uniform)", CPU, torch.float32).rule(64)
    rounded = [x.to(dtype) for x in vectors(rule, 13, 13, CPU)]
    with torch.no_grad():
        found = attend(*rounded, rule, backend="sdpa")
        exact = attend(*(x.double() for x in rounded), rule, backend="reference")
    assert kernel.taken() == [2]
    assert found.dtype == dtype
    assert (found.double() - exact).abs().max() <= 2 * torch.finfo(dtype).eps * exact.abs().max()


def test_float64_and_what_the_map_refuses_stay_with_the_map(kernel: Calls) -> None:
    rule = make("rope", CPU).rule(64)
    q, k, v = vectors(rule, 13, 13, CPU)
    attend(q, k, v, rule, backend="sdpa")
    assert kernel.taken() == []
    term, at = rule.only, Where(13, 13)
    for x in (q, q.float()):
        with pytest.raises(ValueError, match="frequencies turn"):
            prepared.mapped(term.query, x[..., : D - 2], at.q_pos)
    assert kernel.taken() == []
