"""Preparation and our own attention as one operator on a GPU, against float64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from kernels.compiled_op import compiled
from torch import Tensor

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


def vectors(heads: int, kv_heads: int, n: int, width: int, dtype: torch.dtype) -> list[Tensor]:
    """q, k, v (b, h, n, d) in (b, n, h, d) storage."""
    made = torch.Generator(DEVICE).manual_seed(n + width)
    shapes = [(2, n, each, width) for each in (heads, kv_heads, kv_heads)]
    drawn = [torch.randn(shape, device=DEVICE, generator=made).to(dtype) for shape in shapes]
    return [x.transpose(1, 2).requires_grad_() for x in drawn]


def maps(encoding: str, heads: int, width: int) -> tuple[Map, Map, list[Tensor]]:
    if encoding == "rope":
        rotation = Rotate(angles(width // 2))
        return rotation, rotation, []
    made = torch.Generator(DEVICE).manual_seed(3)
    offset = -2 * math.pi * torch.rand(heads, width, device=DEVICE, generator=made)
    query = Polar(angles(width), "softplus", offset.requires_grad_())
    return query, replace(query, offset=None), [offset]


def definition(query: Map, key: Map, q: Tensor, k: Tensor, v: Tensor, at: Tensor) -> Tensor:
    n, group = q.shape[2], q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, 1) for x in (key(k, at), v))
    hidden = torch.ones(n, n, dtype=torch.bool, device=q.device).triu(1)
    scores = query(q, at) @ k.mT / math.sqrt(q.shape[-1])
    return scores.masked_fill(hidden, -math.inf).softmax(-1) @ v


def error(got: Tensor, true: Tensor) -> float:
    true = true.detach()
    return float((got.detach().double() - true).norm() / true.norm())


def why_not(kernel: str, features: int, values: int, dtype: torch.dtype) -> str | None:
    from whatwhere.kernels import attention

    return attention.why_not(kernel, features, values, dtype, torch.device(DEVICE, 0))


@pytest.mark.parametrize("kernel", ["hopper", "tiled"])
@pytest.mark.parametrize("encoding", ["rope", "pope"])
@pytest.mark.parametrize(("width", "heads", "kv_heads"), [(64, 4, 4), (128, 4, 1)])
@pytest.mark.parametrize("n", [257, 1024])
def test_it_is_as_exact_as_the_operators_it_joins(
    kernel: str, encoding: str, width: int, heads: int, kv_heads: int, n: int
) -> None:
    """At most 1.1 times the error of preparation, then attention, both against float64."""
    from whatwhere.kernels import features
    from whatwhere.kernels.attention import attention
    from whatwhere.kernels.fused_op import fused
    from whatwhere.kernels.pairs import Pairs

    dtype, scale = torch.bfloat16, 1 / math.sqrt(width)
    reason = why_not(kernel, width * (2 if encoding == "pope" else 1), width, dtype)
    if reason is not None:
        pytest.skip(reason)
    q, k, v = vectors(heads, kv_heads, n, width, dtype)
    query, key, learned = maps(encoding, heads, width)
    at = torch.randint(0, 1_000_000, (2, n), device=DEVICE)
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    true = definition(query, key, *exact, at)
    grad = torch.randn(true.shape, device=DEVICE).to(dtype)
    wanted = torch.autograd.grad(true, [*exact, *learned], grad.double())
    joined = fused(query, key, q, k, v, at, None, scale, Pairs(), kernel)
    apart = attention(*features.prepare(query, q, at, k), v, scale, Pairs(), kernel)
    found = [[out, *torch.autograd.grad(out, [q, k, v, *learned], grad)] for out in (joined, apart)]
    for ours, theirs, exactly in zip(*found, [true, *wanted], strict=True):
        assert error(ours, exactly) <= 1.1 * error(theirs, exactly) + 1e-5
    again = torch.autograd.grad(
        fused(query, key, q, k, v, at, None, scale, Pairs(), kernel), [q, k, v, *learned], grad
    )
    assert all(torch.equal(x, y) for x, y in zip(again, found[0][1:], strict=True))
    # An axis of one head has no stride to speak of.
    ours, theirs = [], []
    for x, y in zip(again, (q, k, v), strict=False):
        axes = [axis for axis in range(4) if y.shape[axis] > 1]
        ours.append([x.stride(axis) for axis in axes])
        theirs.append([y.stride(axis) for axis in axes])
    assert ours == theirs


@pytest.mark.parametrize("encoding", ["rope", "pope"])
def test_a_layer_keeps_as_much_as_rope_does_elsewhere(encoding: str) -> None:
    """Memory alive between forward and backward: output and log-sum-exp, beside the inputs."""
    from whatwhere.kernels.fused_op import fused
    from whatwhere.kernels.pairs import Pairs

    q, k, v = vectors(8, 8, 2048, 64, torch.bfloat16)
    query, key, _ = maps(encoding, 8, 64)
    at = torch.arange(2048, device=DEVICE)[None]
    fused(query, key, q, k, v, at, None, 0.125, Pairs(), "tiled")
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    out = fused(query, key, q, k, v, at, None, 0.125, Pairs(), "tiled")
    kept = torch.cuda.memory_allocated() - before
    lse = 4 * 2 * 8 * 2048
    assert kept <= 2 * out.numel() + lse + (1 << 16)


@pytest.mark.parametrize("kernel", ["hopper", "tiled"])
def test_the_operators_keep_torch_s_contract(kernel: str) -> None:
    from whatwhere.kernels import attention, features, fused_op

    reason = why_not(kernel, 128, 64, torch.bfloat16)
    if reason is not None:
        pytest.skip(reason)
    query, _, _ = maps("pope", 4, 64)
    leaves = vectors(4, 2, 130, 64, torch.bfloat16)
    at, *angling = features.described(query, torch.arange(130, device=DEVICE)[None], None)
    rest = (at, None, *angling, 0.125, True, 2**31 - 1, None, None, None, kernel)
    torch.library.opcheck(fused_op._fused, (*leaves, *rest))
    torch.library.opcheck(attention._attention, (*leaves, *rest[-7:]))
    plain = [x.detach() if isinstance(x, Tensor) else x for x in (*leaves, *rest)]
    out, lse = fused_op._fused(*plain)
    torch.library.opcheck(fused_op._fused_backward, (torch.ones_like(out), out, lse, True, *plain))


def test_one_compiled_graph_under_autocast() -> None:
    worst, graphs = compiled("tiled", (128, 192, 257))
    assert worst < 1e-2
    assert graphs <= 2, "the second length makes sizes dynamic; no further one compiles again"
