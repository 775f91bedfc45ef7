"""Named `sdpa` and `flex` on a GPU: features by the preparation kernel, as precise as by maps."""

from __future__ import annotations

import gpu_only
import pytest
import torch
from conformance.cases import D, make, vectors
from conformance.test_precision import plain
from fresh import run_python
from torch import Tensor

from whatwhere.attention import Where, attend
from whatwhere.encodings import Encoding

pytestmark = gpu_only.MARKS
LENGTH = 257


@pytest.fixture
def sides(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of every launch of the preparation kernel, how many sides (queries, keys) it made."""
    from whatwhere.kernels import prep_calls

    found: list[int] = []
    forward = prep_calls.forward

    def counted(q: Tensor, k: Tensor | None, *rest: object) -> object:
        found.append(1 if k is None else 2)
        return forward(q, k, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(prep_calls, "forward", counted)
    return found


def computed(name: str, encoding: Encoding, where: Where, dtype: torch.dtype) -> dict[str, Tensor]:
    """Output and gradients, δ's too, of a backend or of what one writes by hand ("plain"). The
    vectors are bfloat16's in any dtype."""
    rule, device = encoding.rule(64), where.q_pos.device
    q, k, v = (
        x.bfloat16().to(dtype).requires_grad_()
        for x in vectors(rule, where.queries, where.keys, device)
    )
    if name == "plain":
        out = plain(rule, q, k, v, where)
    else:
        out = attend(q, k, v, rule, where=where, backend=name)
    assert out.dtype == dtype
    weight = torch.linspace(-1, 1, out.numel(), device=device, dtype=torch.float64)
    inputs = {"q": q, "k": k, "v": v} | dict(encoding.named_parameters())
    total = (out.double() * weight.cos().reshape(out.shape)).sum()
    grads = torch.autograd.grad(total, list(inputs.values()), allow_unused=True)
    found = {f"d{key}": g for key, g in zip(inputs, grads, strict=True) if g is not None}
    return {"out": out.detach()} | found


@pytest.mark.parametrize(
    ("name", "text", "label", "launches"),
    [
        ("sdpa", "rope", "square", [2]),
        ("sdpa", "rope+logn", "window", [2]),
        ("sdpa", "rope(values=relative)", "late", [1, 1, 1, 1]),
        ("sdpa", "pope(delta_init=uniform)", "square", [2]),
        ("sdpa", "pope(delta_init=uniform)", "late", [1, 1]),
        ("flex", "rope", "square", [2]),
        ("flex", "rope(values=relative)", "window", [1, 2, 1]),
        ("flex", "pope(delta_init=uniform)", "square", [2]),
        ("flex", "rope+dual_chunk", "square", [2, 1, 1, 1, 1]),
        ("flex", "pope(delta_init=uniform)+rerope", "square", [2, 1, 1]),
    ],
)
def test_error_is_at_most_twice_pytorchs(
    name: str, text: str, label: str, launches: list[int], device: torch.device, sides: list[int]
) -> None:
    where = {
        "square": Where(LENGTH, LENGTH, device=device),
        "window": Where(LENGTH, LENGTH, window=50, device=device),
        "late": Where(
            65,
            LENGTH,
            torch.arange(LENGTH - 65, LENGTH, device=device),
            torch.arange(LENGTH, device=device),
        ),
    }[label]
    encoding = make(text, device, torch.float32)
    found = computed(name, encoding, where, torch.bfloat16)
    assert sides == launches
    usual = computed("plain", encoding, where, torch.bfloat16)
    exact = computed("reference", encoding.double(), where, torch.float64)
    assert sides == launches, "the definition, and what one writes by hand, ask no kernel"
    assert found.keys() == exact.keys()
    assert len(found) == (5 if "pope" in text else 4)
    for key, true in exact.items():
        error, limit = ((x[key].double() - true).norm() / true.norm() for x in (found, usual))
        # Where the usual error is by luck next to nothing: one rounding.
        assert error <= max(2 * limit, 2.0**-9), f"{key}: {error:.2e} against {limit:.2e}"


@pytest.mark.parametrize("text", ["rope", "pope(delta_init=uniform)"])
def test_autocast_and_a_learned_temperature(
    text: str, device: torch.device, sides: list[int]
) -> None:
    """Vectors stay float32 up to torch's attention; the temperature's gradient is the formula's."""
    found, factor = {}, torch.tensor(1.3, device=device, requires_grad=True)
    for name, dtype in (("sdpa", torch.float32), ("reference", torch.float64)):
        rule = make(text, device, dtype).rule(64).with_temperature(lambda i: factor * (1 + i / 64))
        q, k, v = (x.to(dtype) for x in vectors(rule, 63, 63, device))
        with torch.autocast("cuda", torch.bfloat16, enabled=name == "sdpa"):
            out = attend(q, k, v, rule, backend=name, scale=D**-0.5)
        (slope,) = torch.autograd.grad(out.double().square().sum(), factor)
        found[name] = out.detach().double(), slope.double()
    assert sides == [2]
    for mine, true in zip(found["sdpa"], found["reference"], strict=True):
        assert (mine - true).norm() < 2e-2 * true.norm()


COMPILED = """
import torch
import whatwhere as ww

encoding = ww.make("pope(delta_init=uniform)", heads=4, head_dim=64, width=256, train_length=256)
encoding = encoding.to("cuda")

def run(q, k, v):
    out = ww.attend(q, k, v, encoding.rule(q.shape[2]), backend="sdpa")
    return out.float().square().sum()

compiled = torch.compile(run, fullgraph=True)
worst = 0.0
for length in (128, 192):
    leaves = [
        torch.randn(2, 4, length, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    ]
    leaves += encoding.parameters()
    got, wanted = (torch.autograd.grad(f(*leaves[:3]), leaves) for f in (compiled, run))
    worst = max(worst, *(float((a - b).norm() / b.norm()) for a, b in zip(got, wanted)))
print(worst)
"""


def test_one_compiled_graph_without_breaks() -> None:
    assert float(run_python(COMPILED).split()[-1]) < 1e-2
