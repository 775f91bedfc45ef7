"""Blocks of a FlexAttention mask, against torch's own create_block_mask."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from whatwhere.attention import Where, flex, flex_blocks, flex_bounds
from whatwhere.attention.sdpa import _cudnn_enabled
from whatwhere.regions import EVERYWHERE, Region, chunk_gap, far, near

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


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pairs each call of our mask_mod looked at."""
    found: list[int] = []
    counted = flex_blocks._visible_pairs

    def visible_pairs(mask_mod: Any, *given: Any) -> Tensor:
        def mod(*indices: Tensor) -> Tensor:
            seen = mask_mod(*indices)
            found.append(seen.numel())
            return seen

        return counted(mod, *given)

    monkeypatch.setattr(flex_blocks, "_visible_pairs", visible_pairs)
    return found


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
    ours = flex_blocks.block_mask(visible, where, region)
    sizes = (where.queries, where.keys)
    return ours, create_block_mask(visible, where.batch, None, *sizes, device="cpu")


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


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_what_bounds_call_certain_is(seed: int, causal: bool) -> None:
    """Any positions, documents and padding, against the pairs; tiny blocks, so that many agree."""
    torch.manual_seed(seed)
    batch, queries, keys, block = 3, 11, 17, 3
    sizes = {"q": (batch, queries), "k": (batch, keys)}
    given = {f"{x}_pos": torch.randint(40, n).sort(dim=-1).values for x, n in sizes.items()}
    if seed % 3 == 0:
        given |= {f"{x}_documents": torch.randint(3, n).sort().values for x, n in sizes.items()}
    if seed % 4 == 1:
        given["k_valid"] = (torch.rand(batch, keys).argsort() > 4).sort().values
    where = Where(queries, keys, causal=causal, window=9 if seed % 2 else None, **given)
    for region in (EVERYWHERE, near(7), far(7), chunk_gap(5, 1, 2), chunk_gap(5, None, 0)):
        visible, hidden = flex_bounds.certain(where, region, block)
        i, j = where.q_pos[:, :, None], where.k_pos[:, None]
        seen = where.visible() & region.contains(i, j)
        seen = torch.nn.functional.pad(seen, (0, -keys % block, 0, -queries % block))
        seen = seen.unflatten(2, (-1, block)).unflatten(1, (-1, block)).transpose(2, 3)
        assert seen.flatten(3).all(-1)[visible.expand(seen.shape[:3])].all()
        assert not seen.flatten(3).any(-1)[hidden.expand(seen.shape[:3])].any()
        assert hidden.any() or region == EVERYWHERE


def test_fewer_queries_than_keys() -> None:
    where = Where(130, 700, q_pos=torch.arange(570, 700), k_pos=torch.arange(700))
    _equal(*_both(where, EVERYWHERE))
    _equal(*_both(where, far(300)))


def test_every_kind_of_block_occurs() -> None:
    ours, _ = _both(_where("causal", 300, 1), EVERYWHERE)
    assert ours.full_kv_num_blocks.flatten().tolist() == [0, 1, 0]  # padding ends the last row
    assert ours.kv_num_blocks.flatten().tolist() == [1, 1, 3]


def test_chunks_bound_the_pairs_at_once(watched: list[int], monkeypatch: Any) -> None:
    where = Where(700, 700, k_valid=torch.arange(700) % 7 > 0)  # no block is certain to be full
    monkeypatch.setattr(flex_blocks, "PAIRS", 4 * 128 * 128)
    ours, theirs = _both(where, EVERYWHERE)
    assert max(watched) == 4 * 128 * 128
    assert sum(watched) == 6 * 7 / 2 * 128 * 128, "of 36 blocks, those with a key before a query"
    _equal(ours, theirs)


@pytest.mark.parametrize("batch", [1, 2])
def test_pairs_are_looked_at_only_where_bounds_leave_them_open(
    batch: int, watched: list[int]
) -> None:
    """Of 1,024 tokens, 64 blocks: the diagonal, and what a region's or a document's edge cuts."""
    edges = {
        EVERYWHERE: 8,
        far(256): 6,  # block r, r - 2
        near(200): 8 + 7 + 6,
        chunk_gap(256, 1, 1): 0,
        chunk_gap(256, 0, 0): 8,
    }
    for region, count in edges.items():
        watched.clear()
        where = _where("left padding" if batch > 1 else "causal", 1024, batch)
        ours = flex_blocks.block_mask(flex._mask_mod(where, region), where, region)
        if batch == 1:
            assert sum(watched) == count * 128 * 128, region
        else:
            assert 0 < sum(watched) <= 2 * 28 * 128 * 128, region
        del ours
    watched.clear()
    documents = torch.arange(1024) // 256
    where = Where(1024, 1024, q_documents=documents, k_documents=documents)
    flex_blocks.block_mask(flex._mask_mod(where, EVERYWHERE), where, EVERYWHERE)
    assert sum(watched) == 8 * 128 * 128


def test_when_a_gpu_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, gpu = flex_blocks._worth_a_wait, torch.device("cuda")
    assert asked(torch.device("cpu"), True)
    for capturing in (True, False):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda x=capturing: x)
        assert not asked(gpu, True)
        assert asked(gpu, False) != capturing


def test_the_same_blocks_without_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a CUDA graph: no bounds, no `nonzero`."""

    def refused(*given: object) -> None:
        raise AssertionError("asked for the open blocks")

    where = _where("documents", 300, 3)
    expected = create_block_mask(flex._mask_mod(where, far(40)), 3, None, 300, 300, device="cpu")
    monkeypatch.setattr(flex_blocks, "_worth_a_wait", lambda device, few: False)
    monkeypatch.setattr(flex_blocks, "certain", refused)
    _equal(flex_blocks.block_mask(flex._mask_mod(where, far(40)), where, far(40)), expected)


def test_one_graph_without_a_sort() -> None:
    documents = torch.arange(300).div(torch.tensor([[70], [128], [300]]), rounding_mode="floor")
    where = Where(300, 300, q_documents=documents, k_documents=documents)
    called: list[str] = []

    # Not one of ours: dynamo cannot trace the checks that tests run under.
    def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & (documents[b, q] == documents[b, k])

    def note(module: torch.fx.GraphModule, _: Any) -> Any:
        called.extend(str(node.target) for node in module.graph.nodes)
        return module.forward

    def parts() -> list[Tensor]:
        made = flex_blocks.block_mask(visible, where, EVERYWHERE)
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
