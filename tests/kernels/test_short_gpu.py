"""The kernels for short sequences on a GPU, against float64 and beside the tiled ones."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from kernels.compiled_op import compiled
from torch import Tensor

import whatwhere as ww
from whatwhere.attention import Where, attend, probe
from whatwhere.maps import Map, Polar, Rotate
from whatwhere.phases import Angles, to_turns

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"


def angles(count: int) -> Angles:
    turns = torch.tensor(to_turns([10000.0 ** (-c / count) for c in range(count)]), device=DEVICE)
    return Angles(turns, 1.1)


def vectors(n: int, heads: int, kv_heads: int, width: int, dtype: torch.dtype) -> list[Tensor]:
    """q, k, v (b, h, n, d) in (b, n, h, d) storage."""
    made = torch.Generator(DEVICE).manual_seed(n + width)
    shapes = [(3, n, each, width) for each in (heads, kv_heads, kv_heads)]
    drawn = [torch.randn(shape, device=DEVICE, generator=made).to(dtype) for shape in shapes]
    return [x.transpose(1, 2).requires_grad_() for x in drawn]


def maps(encoding: str, heads: int, width: int) -> tuple[Map, Map, list[Tensor]]:
    if encoding.startswith("rope"):
        count = width // 2 - (4 if encoding == "rope, partial" else 0)
        layout = "interleaved" if encoding == "rope, interleaved" else "half"
        rotation = Rotate(angles(count), layout)  # type: ignore[arg-type]
        return rotation, rotation, []
    made = torch.Generator(DEVICE).manual_seed(3)
    offset = -2 * math.pi * torch.rand(heads, width, device=DEVICE, generator=made)
    query = Polar(angles(width), "softplus", offset.requires_grad_())
    return query, replace(query, offset=None), [offset]


def looks(kind: str, n: int, heads: int) -> Any:
    from whatwhere.kernels.pairs import FAR, Pairs

    index = torch.arange(n, device=DEVICE, dtype=torch.int32)
    half = (index >= n // 2).int()
    packed = torch.stack([index - half * (n // 2), half])[None]
    first = torch.tensor([[0], [n // 3], [n - 1]], device=DEVICE)
    position = (index - first).clamp(min=0).int()
    padded = torch.stack([position, torch.where(index < first, -1, 0).int()], 1)
    slopes = torch.logspace(-1, -8, heads, base=2.0, device=DEVICE)
    return {
        "causal": Pairs(),
        "everything": Pairs(causal=False),
        "padded": Pairs(True, FAR, torch.stack([position, position * 0], 1), padded),
        "packed, window, alibi": Pairs(True, 7, packed, packed, slopes),
    }[kind]


def definition(query: Map, key: Map, leaves: list[Tensor], at: Tensor, scale: float, pairs: Any):  # type: ignore[no-untyped-def]
    import kernels.interpreted_tiled as dense

    dense.SCALE = scale
    q, k, v = leaves
    if pairs.slopes is not None:
        pairs = replace(pairs, slopes=pairs.slopes.double())
    return dense.dense(query(q, at), key(k, at), v, pairs)[0]


def error(got: Tensor, true: Tensor) -> float:
    assert got.isfinite().all()
    true = true.detach()
    # One token alone has gradients of 0.
    return float((got.detach().double() - true).norm() / true.norm().clamp(min=1.0))


def poison() -> None:
    torch.cuda.empty_cache()
    for mib in (1, 16, 64):
        torch.full((mib << 18,), float("nan"), device=DEVICE)


def compare(encoding: str, kind: str, n: int, heads: int, kv_heads: int, width: int,
            dtype: torch.dtype) -> None:  # fmt: skip
    """At most 1.2 times the error of preparation and the tiled kernels, all against float64."""
    from whatwhere.kernels.fused_op import fused

    leaves, scale = vectors(n, heads, kv_heads, width, dtype), 1 / math.sqrt(width)
    query, key, learned = maps(encoding, heads, width)
    at = torch.randint(0, 1_000_000, (3, n), device=DEVICE)
    pairs = looks(kind, n, heads)
    exact = [x.detach().double().requires_grad_() for x in leaves]
    true = definition(query, key, exact, at, scale, pairs)
    grad = torch.randn(true.shape, device=DEVICE).to(dtype)
    wanted = [true, *torch.autograd.grad(true, [*exact, *learned], grad.double())]
    found = []
    for kernel in ("short", "short", "tiled"):
        poison()
        out = fused(query, key, *leaves, at, None, scale, pairs, kernel)
        poison()
        found.append([out, *torch.autograd.grad(out, [*leaves, *learned], grad)])
    ours, again, theirs = found
    assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True)), "the same bits"
    names = ["out", "dq", "dk", "dv", "dδ"]
    for name, mine, other, exactly in zip(names, ours, theirs, wanted, strict=False):
        assert error(mine, exactly) <= 1.2 * error(other, exactly) + 1e-5, name


@pytest.mark.parametrize("n", [1, 7, 16, 32, 47, 48, 64])
@pytest.mark.parametrize("encoding", ["pope", "rope"])
def test_every_length(encoding: str, n: int) -> None:
    compare(encoding, "padded", n, 4, 4, 64, torch.bfloat16)


@pytest.mark.parametrize("kind", ["causal", "everything", "packed, window, alibi"])
@pytest.mark.parametrize("encoding", ["pope", "rope", "rope, interleaved", "rope, partial"])
@pytest.mark.parametrize(("width", "heads", "kv_heads"), [(64, 4, 1), (128, 2, 2), (48, 4, 2)])
def test_maps_pairs_and_groups(
    encoding: str, kind: str, width: int, heads: int, kv_heads: int
) -> None:
    compare(encoding, kind, 48, heads, kv_heads, width, torch.bfloat16)


@pytest.mark.parametrize(("dtype", "n"), [(torch.float16, 47), (torch.float32, 31)])
@pytest.mark.parametrize("encoding", ["pope", "rope"])
def test_other_dtypes(encoding: str, dtype: torch.dtype, n: int) -> None:
    compare(encoding, "padded", n, 4, 2, 64, dtype)


@pytest.mark.parametrize("n", [65, 128])
@pytest.mark.parametrize("encoding", ["pope", "rope"])
def test_longer_tiles(encoding: str, n: int) -> None:
    compare(encoding, "causal", n, 4, 4, 64, torch.bfloat16)


@pytest.mark.parametrize("text", ["rope", "pope(delta_init=uniform)", "alibi"])
def test_attend_chooses_it_for_short_sequences(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe takes it up to 64 tokens, and it is as exact as torch."""
    n = 48
    encoding = ww.make(text, heads=4, kv_heads=2, head_dim=64, width=256, train_length=64)
    encoding = encoding.to(DEVICE)
    valid = torch.arange(n, device=DEVICE)[None] >= torch.tensor([[0], [9], [47]], device=DEVICE)
    position = ww.positions.left_padded(valid)
    where = Where(n, n, position, position, k_valid=valid)
    leaves = vectors(n, 4, 2, 64, torch.bfloat16)
    taken: list[str | None] = []
    chosen = probe.chosen
    monkeypatch.setattr(probe, "chosen", lambda w: (taken.append(chosen(w)), taken[-1])[1])
    found = []
    grad = torch.randn(3, 4, n, 64, device=DEVICE).bfloat16()
    for backend, kind in (
        ("fused", torch.bfloat16), ("sdpa", torch.bfloat16), ("reference", torch.float64),
    ):  # fmt: skip
        q, k, v = (x.detach().to(kind).requires_grad_() for x in leaves)
        poison()
        out = attend(q, k, v, encoding.rule(n), where=where, backend=backend)
        learned = [p for p in encoding.parameters() if p.requires_grad]
        found.append([out, *torch.autograd.grad(out, [q, k, v, *learned], grad.to(out.dtype))])
    assert set(taken) == {"short"}
    for ours, torchs, true in zip(*found, strict=True):
        assert error(ours, true.double()) <= 2 * error(torchs, true.double()) + 1e-4


def test_one_compiled_graph_under_autocast() -> None:
    worst, graphs = compiled("short", (33, 47, 64))
    assert worst < 1e-2
    assert graphs <= 2


def test_in_a_cuda_graph() -> None:
    """A step captured once and replayed gives the same bits."""
    from whatwhere.kernels.fused_op import fused
    from whatwhere.kernels.pairs import Pairs

    leaves = vectors(48, 4, 4, 64, torch.bfloat16)
    query, key, learned = maps("pope", 4, 64)
    at = torch.arange(48, device=DEVICE)[None]

    def step() -> list[Tensor]:
        out = fused(query, key, *leaves, at, None, 0.125, Pairs(), "short")
        return [out, *torch.autograd.grad(out.float().sin().sum(), [*leaves, *learned])]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        wanted = [x.clone() for x in step()]
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = step()
    for x in got:
        x.detach().fill_(float("nan"))
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
