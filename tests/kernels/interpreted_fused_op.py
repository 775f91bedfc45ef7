"""Preparation and attention as one operator, as Python on a CPU. Run by test_interpreter.py."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from fresh import run_forked
from kernels.interpreted_prep import MAPS, angles, few_programs, generator, poisoned
from torch import Tensor

from whatwhere.kernels import features, fused_op, prep_calls
from whatwhere.kernels.pairs import FAR, Pairs
from whatwhere.maps import Decay, Map, Polar, Reindex, Rotate

__all__ = ["few_programs", "poisoned"]  # fixtures that apply here too

BATCH, HEADS, KV_HEADS, LENGTH, WIDTH, VALUES = 2, 6, 3, 21, 24, 16
SCALE = 0.2


def draw(heads: int, width: int = WIDTH) -> Tensor:
    """(b, h, n, d) in (b, n, h, d) storage, as a projection gives it."""
    x = torch.randn(BATCH, LENGTH, heads, width, generator=generator(heads + width))
    return x.transpose(1, 2).requires_grad_()


def vectors() -> list[Tensor]:
    return [draw(HEADS), draw(KV_HEADS), draw(KV_HEADS, VALUES)]


def of_keys(query: Map) -> Map:
    if isinstance(query, Polar):
        return replace(query, offset=None)
    assert isinstance(query, Rotate)
    decay = query.decay
    return query if decay is None else replace(query, decay=replace(decay, side=-decay.side))


def definition(
    query: Map, key: Map, q: Tensor, k: Tensor, v: Tensor, i: Tensor, j: Tensor, seen: Tensor
) -> Tensor:
    k = key(k, j)
    k, v = (x.repeat_interleave(HEADS // KV_HEADS, 1) for x in (k, v))
    scores = (query(q, i) @ k.mT * SCALE).masked_fill(~seen, -math.inf)
    return scores.softmax(-1) @ v


def compare(
    query: Map, key: Map, keys_at: Tensor | None = None, pairs: Pairs | None = None,
    temperature: Tensor | None = None,
) -> None:  # fmt: skip
    """Output and all gradients against float64."""
    learned: list[Tensor] = []
    if isinstance(query, Polar) and query.offset is not None:
        learned = [query.offset.clone().requires_grad_()]
        query = replace(query, offset=learned[0])
    q, k, v = vectors()
    i = torch.randint(0, 1_000_000, (BATCH, LENGTH), generator=generator(1))
    at = torch.arange(LENGTH)
    pairs = pairs or Pairs()
    seen = (at[None] <= at[:, None]) & ((at[:, None] - at[None]).abs() < pairs.window)
    out = fused_op.fused(query, key, q, k, v, i, keys_at, SCALE, pairs, "tiled", temperature)
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    tau = 1.0 if temperature is None else temperature.double()[:, None, :, None]

    def warmed(x: Tensor, positions: Tensor) -> Tensor:
        return query(x, positions) * tau

    true = definition(warmed, key, *exact, i, i if keys_at is None else keys_at, seen)  # type: ignore[arg-type]
    assert out.stride(1) < out.stride(2), "stored (b, n, h, d)"
    grad = torch.randn(out.shape, generator=generator(3))
    got = torch.autograd.grad(out, [q, k, v, *learned], grad)
    wanted = torch.autograd.grad(true, [*exact, *learned], grad.double())
    for mine, theirs in zip((out, *got), (true, *wanted), strict=True):
        difference = (mine.detach().double() - theirs.detach()).norm() / theirs.detach().norm()
        assert difference < 2e-6
    assert all(x.stride() == y.stride() for x, y in zip(got, (q, k, v), strict=False))


@pytest.mark.parametrize("name", ["half", "polar", "polar, no offset", "half, decay"])
def test_it_is_preparation_then_attention(name: str) -> None:
    compare(MAPS[name], of_keys(MAPS[name]))


def test_keys_at_positions_of_their_own() -> None:
    at = torch.randint(0, 1_000_000, (1, LENGTH), generator=generator(2))
    compare(MAPS["polar, partial"], of_keys(MAPS["polar, partial"]), at)
    rotation = Rotate(angles(12), decay=Decay(0.4, 1, 500_000, 400_000.0))
    compare(rotation, of_keys(rotation), at)


def test_queries_and_keys_may_be_re_indexed_differently() -> None:
    query = Polar(angles(24), reindex=Reindex(group=2))
    compare(query, replace(query, reindex=Reindex(modulo=1000)))


def test_window_and_temperature_arrive() -> None:
    temperature = 0.5 + torch.rand(BATCH, LENGTH, generator=generator(4))
    key = of_keys(MAPS["polar"])
    compare(MAPS["polar"], key, pairs=Pairs(window=4), temperature=temperature)


@pytest.mark.parametrize("name", ["half", "polar"])
def test_only_raw_vectors_are_kept(name: str) -> None:
    """As many bytes as flash attention over rotated vectors: q, k, v, output, log-sum-exp."""
    q, k, v = vectors()
    kept: list[Tensor] = []
    pack = lambda x: (kept.append(x), x)[1]  # noqa: E731
    at = torch.arange(LENGTH)[None]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = fused_op.fused(
            MAPS[name], of_keys(MAPS[name]), q, k, v, at, None, SCALE, Pairs(), "tiled"
        )
    vectors_kept = [x for x in kept if x.dim() == 4]
    wanted = {x.data_ptr() for x in (q, k, v, out)}
    assert {x.data_ptr() for x in vectors_kept} == wanted
    rest = sum(x.numel() for x in kept if x.dim() < 4)
    small = LENGTH + 2 * WIDTH + HEADS * WIDTH  # positions, frequencies, δ
    assert rest <= BATCH * HEADS * LENGTH + small


def test_no_features_stay_alive_under_a_packed_projection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features are made twice: once forward, once backward, and never handed to autograd."""
    counts: list[int] = []
    forward = prep_calls.forward
    monkeypatch.setattr(
        prep_calls, "forward", lambda *a: (counts.append(len(counts)), forward(*a))[1]
    )
    packed = torch.randn(BATCH, LENGTH, 3, HEADS, WIDTH, requires_grad=True)
    q, k, v = (packed[:, :, each].transpose(1, 2) for each in range(3))
    at = torch.arange(LENGTH)[None]
    out = fused_op.fused(
        MAPS["polar"], of_keys(MAPS["polar"]), q, k, v, at, None, SCALE, Pairs(), "tiled"
    )
    assert len(counts) == 1
    (got,) = torch.autograd.grad(out.sum(), packed)
    assert len(counts) == 2
    assert got.isfinite().all()


def test_the_operators_keep_torch_s_contract() -> None:
    # Few heads: each check runs the interpreter several times.
    query = Polar(angles(8), offset=torch.zeros(2, 8).requires_grad_())
    leaves = [torch.randn(1, heads, 5, 8, requires_grad=True) for heads in (2, 1, 1)]
    at, *angling = features.described(query, torch.arange(5)[None], None)
    rest = (at, None, *angling, SCALE, True, FAR, None, None, None, "tiled")
    torch.library.opcheck(fused_op._fused, (*leaves, *rest))
    plain = [x.detach() if isinstance(x, Tensor) else x for x in (*leaves, *rest)]
    out, lse = fused_op._fused(*plain)
    torch.library.opcheck(fused_op._fused_backward, (torch.ones_like(out), out, lse, True, *plain))


def test_autocast_comes_before_the_kernels() -> None:
    q, k, v = vectors()
    at = torch.arange(LENGTH)[None]
    arguments = (q, k, v, at, None, SCALE, Pairs(), "tiled")
    with torch.autocast("cpu", torch.bfloat16):
        out = fused_op.fused(MAPS["polar"], of_keys(MAPS["polar"]), *arguments)
    assert out.dtype == torch.bfloat16
    grads = torch.autograd.grad(out.float().sum(), (q, k, v))
    assert all(x.dtype == torch.float32 and x.isfinite().all() for x in grads)


def test_it_says_why_not() -> None:
    at = torch.arange(LENGTH)[None]
    arguments = (*vectors(), at, None, SCALE, Pairs(), "tiled")
    with pytest.raises(ValueError, match="mapped differently"):
        fused_op.fused(MAPS["polar"], MAPS["half"], *arguments)
    warm = torch.ones(1, LENGTH, requires_grad=True)
    with pytest.raises(ValueError, match="gradient of the temperature"):
        fused_op.fused(MAPS["half"], MAPS["half"], *arguments, warm)


COMPILED = """
import torch
from whatwhere.kernels.fused_op import fused
from whatwhere.kernels.pairs import Pairs
from whatwhere.maps import Polar
from whatwhere.phases import Angles

angles = Angles(torch.arange(8) << 58)

def run(q, k, v, offset):
    at = torch.arange(q.shape[2])[None]
    query = Polar(angles, "softplus", offset)
    return fused(query, Polar(angles), q, k, v, at, None, 0.3, Pairs(), "tiled").sin().sum()

leaves = [torch.randn(1, h, 5, 8, requires_grad=True) for h in (2, 1, 1)]
leaves.append(torch.zeros(2, 8, requires_grad=True))
compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
got, wanted = (torch.autograd.grad(f(*leaves), leaves) for f in (compiled, run))
print(all(torch.equal(x, y) for x, y in zip(got, wanted, strict=True)))
"""


def test_a_compiled_graph_holds_the_operator_whole() -> None:
    assert run_forked(COMPILED).strip() == "True"
