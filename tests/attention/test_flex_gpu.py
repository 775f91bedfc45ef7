"""FlexAttention on a GPU: the kernel that can, for many queries and for few, and large masks."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from importlib import import_module
from typing import Any

import gpu_only
import pytest
import torch
from conformance.cases import make, vectors

from whatwhere.attention import Where, attend, flex, flex_blocks
from whatwhere.regions import EVERYWHERE, Region, chunk_gap, far, near

pytestmark = gpu_only.MARKS
KEYS = 84
PARTS = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices", "q_num_blocks",
         "q_indices", "full_q_num_blocks", "full_q_indices")  # fmt: skip


@pytest.fixture
def decoding(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that Inductor lowers to its kernel for decoding: how many queries."""
    found: list[int] = []
    lowering: Any = import_module("torch._inductor.kernel.flex.flex_attention")
    made = lowering.create_flex_decoding_kernel

    def noted(query: Any, *rest: Any, **options: Any) -> Any:
        found.append(int(query.get_size()[2]))
        return made(query, *rest, **options)

    monkeypatch.setattr(lowering, "create_flex_decoding_kernel", noted)
    settings: Any = import_module("torch._inductor.config")
    monkeypatch.setattr(settings, "force_disable_caches", True)  # a cached graph is not lowered
    torch._dynamo.reset()
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("queries", [84, 63, 1])
@torch.no_grad()
def test_two_terms_of_grouped_heads(
    queries: int, dtype: torch.dtype, device: torch.device, decoding: list[int]
) -> None:
    """6 heads over 3: 168, 126 and 2 rows a KV head. The first found no kernel, the second one
    that compiled for minutes."""
    encoding = make("rope+rerope(window=8)", device, torch.float32)
    q, k, v = (x.to(dtype) for x in vectors(encoding.rule(64), queries, KEYS, device))
    at = {"q_pos": torch.arange(KEYS - queries, KEYS, device=device)}
    at |= {"k_pos": torch.arange(KEYS, device=device)}
    found = attend(q, k, v, encoding.rule(64), backend="flex", **at)
    exact = encoding.double().rule(64)
    expected = attend(q.double(), k.double(), v.double(), exact, backend="reference", **at)
    error = (found.double() - expected).norm() / expected.norm()
    assert error < (2e-5 if dtype == torch.float32 else 1e-2)
    assert decoding == ([1, 1] if queries == 1 else [])


def made(where: Where, region: Region) -> list[torch.Tensor]:
    blocks = flex_blocks.block_mask(flex._mask_mod(where, region), where, region)
    return [getattr(blocks, name) for name in PARTS]


@pytest.mark.parametrize(
    "region", [EVERYWHERE, near(3000), far(3000), chunk_gap(1024, 1, 2)], ids=str
)
def test_large_masks_are_those_of_all_pairs(
    region: Region, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = 9001
    documents = (torch.arange(n, device=device) > 5000).long()
    padded = torch.arange(n, device=device) >= torch.tensor([[3], [700]], device=device)
    for given in ({}, {"q_documents": documents, "k_documents": documents}, {"k_valid": padded}):
        where = Where(n, n, device=device, **given)
        fast = made(where, region)
        with monkeypatch.context() as patched:
            patched.setattr(flex_blocks, "_worth_a_wait", lambda device, few: False)
            for one, other in zip(fast, made(where, region), strict=True):
                assert torch.equal(one, other)


def test_a_mask_in_a_captured_graph(device: torch.device) -> None:
    where = Where(9001, 9001, device=device)
    expected = made(where, far(3000))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = made(where, far(3000))
    graph.replay()
    for one, other in zip(captured, expected, strict=True):
        assert torch.equal(one, other)
