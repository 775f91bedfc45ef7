"""The fused backend obeys the conformance laws, through Triton's interpreter on a CPU.

A selection that takes a minute or two; on a GPU tests/conformance runs all of it at full size
(WHATWHERE_DEVICE=cuda).
"""

from __future__ import annotations

import pytest
import torch
from conformance.cases import D, vectors
from conformance.test_backends import make, run, single, wheres
from fresh import run_forked
from torch import Tensor
from torch.autograd import forward_ad

import whatwhere as ww
from whatwhere.attention import Call, Where, backend_reasons
from whatwhere.attention.fused_pairs import pairs_of
from whatwhere.kernels import attention as A
from whatwhere.kernels.pairs import FAR, Pairs

CPU = torch.device("cpu")
CALLS = {
    "alibi": tuple(wheres(False, CPU)),
    "alibi(heads=0.5)": ("square",),
    "rope+logn": ("square", "last of many"),
    "pope(delta_init=uniform)": ("padded rows", "both sides, window"),
    "nope": ("packed",),
}


@pytest.mark.parametrize(("text", "label"), [(t, w) for t, names in CALLS.items() for w in names])
def test_fused_equals_the_reference(text: str, label: str) -> None:
    """Output and every gradient, δ's too, in float32 against float64."""
    encoding, where = make(text, CPU), wheres(False, CPU)[label]
    rule = encoding.rule(64)
    q, k, v = vectors(rule, where.queries, where.keys, CPU, torch.float32)
    assert backend_reasons(rule, Call(q, k, v, where, D**-0.5, named=True))["fused"] is None
    expected = run("reference", encoding, where, torch.float64, True, 0.3)
    found = run("fused", encoding.to(torch.float32), where, torch.float32, True, 0.3)
    assert found.keys() == expected.keys()
    assert len(found) == (5 if "pope" in text else 4)
    for key, tensor in found.items():
        error = (tensor.double() - expected[key]).abs().max()
        assert error <= single(expected[key])["atol"], key


@pytest.mark.parametrize("queries", [1, 9])
@pytest.mark.parametrize("text", ["rope+logn(form=unclipped)", "pope(delta_init=uniform)"])
def test_positions_may_be_slices_of_longer_rows(text: str, queries: int) -> None:
    """Rows of their own, cut out of a longer text's as a prefill in pieces cuts them."""
    rows = torch.stack((torch.arange(40), 3 * torch.arange(40)))
    where = Where(queries, 11, rows[:, 20 - queries : 20], rows[:, 9:20])
    rule = make(text, CPU).to(torch.float32).rule(64)
    q, k, v = vectors(rule, queries, 11, CPU, torch.float32)
    with torch.no_grad():
        found = ww.attend(q, k, v, rule, where=where, backend="fused")
        expected = ww.attend(q, k, v, rule, where=where, backend="reference")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "options", "sentence"),
    [
        ("alibi", {"dropout": 0.1}, "dropout is 0.1"),
        ("alibi", {"scale": -1.0}, "a positive scale, not -1.0"),
        ("t5", {}, "no bias but a linear one"),
        ("nope", {}, "nothing to prepare"),
        ("rope+rerope", {}, "2 terms"),
    ],
)
def test_reasons_are_sentences(text: str, options: dict[str, float], sentence: str) -> None:
    rule, where = make(text, CPU).rule(64), Where(13, 13)
    vectors_of = vectors(rule, 13, 13, CPU, torch.float32)
    call = Call(*vectors_of, where, **({"scale": 0.3} | options), named=True)  # type: ignore[arg-type]
    assert sentence in str(backend_reasons(rule, call)["fused"])


@pytest.mark.parametrize("queries", [1, 13])
def test_no_tangent_is_dropped(queries: int) -> None:
    """torch gives an operator without a rule for forward mode a tangent of 0, silently."""
    rule = make("pope(delta_init=uniform)", CPU, torch.float32).rule(64)
    q, k, v = vectors(rule, queries, 13, CPU, torch.float32)
    at = torch.arange(13 - queries, 13)

    def out(backend: str, q: Tensor) -> Tensor:
        return ww.attend(q, k, v, rule, q_pos=at, k_first=0, backend=backend)

    with torch.no_grad():
        out("fused", q)
        for transform in (
            lambda: torch.func.jvp(lambda q: out("fused", q), (q,), (q,)),
            lambda: torch.func.grad(lambda q: out("fused", q).sum())(q),
            lambda: torch.vmap(lambda q: out("fused", q))(q[None]),
        ):
            with pytest.raises(ww.Unsupported, match=r"torch\.func's transforms"):
                transform()
        with forward_ad.dual_level(), pytest.raises(ww.Unsupported, match="forward-mode"):
            out("fused", forward_ad.make_dual(q, q))


def test_places_are_differences_made_once() -> None:
    """Positions beyond 32 bits are shifted; what spans more is refused, not wrapped."""
    rule = make("alibi", CPU).rule(64)
    far = 2**40 + torch.arange(7)
    documents = torch.tensor([5, 5, 5, -3, -3, -3, -3])
    valid = torch.tensor([True] * 6 + [False])
    where = Where(7, 7, far, far, q_documents=documents, k_documents=documents, k_valid=valid)
    pairs = pairs_of(rule, where)
    assert pairs.q_place.tolist() == [[[0, 1, 2, 3, 4, 5, 6], [8, 8, 8, 0, 0, 0, 0]]]
    assert pairs.k_place.tolist() == [[[0, 1, 2, 3, 4, 5, 0], [8, 8, 8, 0, 0, 0, -1]]]
    assert pairs_of(rule, where).q_place is pairs.q_place
    wide = torch.tensor([0, 2**31])
    with pytest.raises(ValueError, match="positions span from 0 to 2147483648 in a row"):
        pairs_of(rule, Where(2, 2, wide, wide))
    rows = torch.stack((torch.arange(7), far))
    valid = torch.tensor([True] * 6 + [False])
    places = pairs_of(rule, Where(7, 7, rows, torch.where(valid, rows, -(2**60)), k_valid=valid))
    assert places.q_place[:, 0].tolist() == [list(range(7))] * 2, "each row by itself"
    assert places.k_place[:, 0, :6].tolist() == [list(range(6))] * 2, "padding counts for nothing"
    assert pairs_of(rule, Where(7, 7, window=2**40)).window == FAR
    assert not pairs_of(rule, Where(7, 7, window=3)).placed


def operands() -> tuple[Tensor, ...]:
    return tuple(torch.randn(1, heads, 9, 16) for heads in (2, 1, 1))


@pytest.mark.parametrize("placed", [False, True])
def test_opcheck(placed: bool) -> None:
    q, k, v = (x.requires_grad_() for x in operands())
    index = torch.arange(9, dtype=torch.int32)
    place = torch.stack([index, index * 0])[None] if placed else None
    slopes = torch.tensor([0.5, 0.1]) if placed else None
    rest = (0.3, True, FAR if placed else 4, place, place, slopes, "tiled")
    torch.library.opcheck(A._attention, (q, k, v, *rest))
    with torch.no_grad():
        out, lse = A._attention(q, k, v, *rest)
        raw = (x.detach() for x in (q, k, v))
        torch.library.opcheck(A._backward, (torch.randn_like(out), *raw, out, lse, *rest))


def test_unknown_kernels_and_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown kernel 'tilde'; known: hopper, tiled, short"):
        A.forward(*operands(), 0.3, Pairs(), "tilde")
    assert "up to widths 512/256" in str(A.why_not("tiled", 1024, 64, torch.float32, CPU))
    assert "float64" in str(A.why_not("tiled", 64, 64, torch.float64, CPU))
    assert "no Gluon" in str(A.why_not("hopper", 64, 64, torch.float16, CPU))


COMPILED = """
import torch, whatwhere as ww
from whatwhere.attention import attend
from torch._dynamo.testing import CompileCounterWithBackend
encoding = ww.make("EXPRESSION", heads=2, head_dim=16, width=32, train_length=64)
counter = CompileCounterWithBackend("aot_eager")
def layer(q, k, v, p):
    return attend(q, k, v, encoding.rule(64), q_pos=p, k_pos=p, window=5, backend="fused")
compiled = torch.compile(layer, backend=counter, fullgraph=True)
for n in (9, 10, 17):
    q, k, v = (torch.randn(1, h, n, 16, requires_grad=True) for h in (2, 1, 1))
    p = torch.arange(n)
    out = compiled(q, k, v, p)
    grads = torch.autograd.grad(out.sum(), (q, k, v))
    q64, k64, v64 = (x.detach().double().requires_grad_() for x in (q, k, v))
    true = attend(q64, k64, v64, encoding.rule(64), q_pos=p, k_pos=p, window=5, backend="reference")
    truths = torch.autograd.grad(true.sum(), (q64, k64, v64))
    gaps = [float((a - b).abs().max()) for a, b in zip((out, *grads), (true, *truths))]
    assert max(gaps) < 1e-5, (n, gaps)
names = [str(node.target) for graph in counter.graphs for node in graph.graph.nodes]
print(counter.frame_count, sum("whatwhere.OPERATOR" in name for name in names))
"""


@pytest.mark.parametrize(("expression", "operator"), [("alibi", "attention"), ("pope", "fused")])
def test_compiled_whole_and_for_every_length(expression: str, operator: str) -> None:
    """One graph for the first length and one for all others, each with one operator of ours."""
    script = COMPILED.replace("EXPRESSION", expression).replace("OPERATOR", operator)
    assert run_forked(script).split() == ["2", "2"]


def test_packed_documents_by_running_sums() -> None:
    q, k, v = operands()
    rule = ww.make("rope", heads=2, head_dim=16, width=32).rule(64)
    positions, documents = ww.positions.from_cu_seqlens(torch.tensor([0, 4, 9]), 9)
    where = Where(9, 9, positions, positions, q_documents=documents, k_documents=documents)
    whole = ww.attend(q, k, v, rule, where=where, backend="fused")
    for part in (slice(0, 4), slice(4, 9)):
        alone = ww.attend(q[:, :, part], k[:, :, part], v[:, :, part], rule, backend="reference")
        assert (whole[:, :, part] - alone).abs().max() < 1e-5
