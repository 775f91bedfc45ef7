"""Blocks of a FlexAttention mask, against torch's own create_block_mask."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from whatwhere.attention import Where, flex, flex_blocks
from whatwhere.attention.sdpa import _cudnn_enabled
from whatwhere.regions import EVERYWHERE, Region, chunk_gap, far, near

CPU = torch.device("cpu")
BY_QUERY = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")
PARTS = (*BY_QUERY, *(name.replace("kv", "q") for name in BY_QUERY))


def _where(kind: str, length: int, batch: int) -> Where:
    positions = torch.arange(length).expand(batch, -1)
    given: dict[str, Any] = {}
    if kind in ("window", "two-sided"):
        given = {"window": 50, "causal": kind == "window"}
    elif kind == "documents":
        ends = torch.tensor([length // 3, length // 2, length // 5])[:batch, None]
        documents = (positions >= ends).long()
        given = {"q_documents": documents, "k_documents": documents}
    elif kind == "left padding":
        padding = torch.tensor([3, 0, 131])[:batch, None].clamp(max=length - 1)
        given = {"q_pos": positions - padding, "k_pos": positions - padding}
        given["k_valid"] = positions >= padding
    return Where(length, length, **given)


def _equal(ours: Any, theirs: Any) -> None:
    for name in PARTS:
        one, other = getattr(ours, name), getattr(theirs, name)
        assert one.dtype == other.dtype == torch.int32, name
        assert one.is_contiguous(), name
        torch.testing.assert_close(one, other, rtol=0, atol=0, msg=name)
    assert torch.equal(ours.to_dense(), theirs.to_dense())
    assert ours.seq_lengths == theirs.seq_lengths
    assert ours.BLOCK_SIZE == theirs.BLOCK_SIZE


def _both(where: Where, region: Region) -> tuple[Any, Any]:
    visible = flex._mask_mod(where, region)
    sizes = (where.batch, where.queries, where.keys)
    ours = flex_blocks.block_mask(visible, *sizes, CPU)
    return ours, create_block_mask(visible, sizes[0], None, *sizes[1:], device="cpu")


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("length", [84, 128, 300])
@pytest.mark.parametrize("kind", ["causal", "window", "two-sided", "documents", "left padding"])
def test_masks(kind: str, length: int, batch: int) -> None:
    _equal(*_both(_where(kind, length, batch), EVERYWHERE))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("length", [84, 128, 300])
@pytest.mark.parametrize(
    "region", [near(40), far(40), chunk_gap(64, 0, 0), chunk_gap(64, 1, 1), chunk_gap(64, 2, None)]
)
def test_regions(region: Region, length: int, batch: int) -> None:
    _equal(*_both(_where("left padding" if batch > 1 else "causal", length, batch), region))


def test_fewer_queries_than_keys() -> None:
    where = Where(130, 700, q_pos=torch.arange(570, 700), k_pos=torch.arange(700))
    _equal(*_both(where, EVERYWHERE))
    _equal(*_both(where, far(300)))


def test_every_kind_of_block_occurs() -> None:
    ours, _ = _both(_where("causal", 300, 1), EVERYWHERE)
    assert ours.full_kv_num_blocks.flatten().tolist() == [0, 1, 0]  # padding ends the last row
    assert ours.kv_num_blocks.flatten().tolist() == [1, 1, 3]


def test_chunks_bound_the_pairs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    where = _where("documents", 700, 3)
    visible = flex._mask_mod(where, EVERYWHERE)
    most = 0

    def watched(*indices: Tensor) -> Tensor:
        nonlocal most
        seen = visible(*indices)
        most = max(most, seen.numel())
        return seen

    monkeypatch.setattr(flex_blocks, "PAIRS", 4 * 768 * 128)
    ours = flex_blocks.block_mask(watched, 3, 700, 700, CPU)
    assert most == 4 * 768 * 128
    _equal(ours, create_block_mask(visible, 3, None, 700, 700, device="cpu"))


def test_one_graph_without_a_sort() -> None:
    documents = torch.arange(300).div(torch.tensor([[70], [128], [300]]), rounding_mode="floor")
    called: list[str] = []

    # Not one of ours: dynamo cannot trace the checks that tests run under.
    def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & (documents[b, q] == documents[b, k])

    def note(module: torch.fx.GraphModule, _: Any) -> Any:
        called.extend(str(node.target) for node in module.graph.nodes)
        return module.forward

    def parts() -> list[Tensor]:
        made = flex_blocks.block_mask(visible, 3, 300, 300, CPU)
        return [getattr(made, name) for name in PARTS]

    found = torch.compile(parts, backend=note, fullgraph=True)()
    assert any("scatter" in name for name in called)
    assert not any("sort" in name for name in called)
    for one, other in zip(found, parts(), strict=True):
        assert torch.equal(one, other)


def test_cudnn_is_asked_without_a_graph_break() -> None:
    def ask(x: Tensor) -> Tensor:
        return x + 1 if _cudnn_enabled() else x

    torch.compile(ask, backend="eager", fullgraph=True)(torch.ones(2))
