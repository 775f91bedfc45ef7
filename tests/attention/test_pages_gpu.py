"""`attend_pages` on a GPU: pages read in place, in a captured graph and in a compiled one."""

from __future__ import annotations

import gpu_only
import pytest
import torch
from attention.test_pages import Paged, counted, paged
from fresh import ROOT, run_python
from torch import Tensor

import whatwhere as ww
from whatwhere.rule import ScoreRule

pytestmark = gpu_only.MARKS
LIMIT = 8e-3  # of bfloat16's and float16's weights and outputs, as for a cache in one piece


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """One entry for each launch of the decode kernels: whether it read a table."""
    return counted(monkeypatch)


def built(text: str, head_dim: int, device: torch.device) -> ScoreRule:
    """A rule of magnitudes that are given (what a cache stores), for 8 heads over 2."""
    encoding = ww.make(
        text, heads=8, kv_heads=2, head_dim=head_dim, width=8 * head_dim, train_length=512
    )
    return encoding.to(device).rule(1024).of_content()


def cached(
    rule: ScoreRule, lengths: tuple[int, ...], queries: int, page: int, head_dim: int,
    device: torch.device, dtype: torch.dtype = torch.bfloat16,
) -> Paged:  # fmt: skip
    return paged(
        rule, lengths, queries, page, dtype=dtype, device=device, head_dim=head_dim,
        value_dim=head_dim, heads=8, groups=2,
    )  # fmt: skip


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("text", "head_dim", "page", "queries", "window"),
    [
        ("rope", 128, 64, 1, None),
        ("rope(layout=interleaved)+logn", 64, 128, 3, 300),
        ("pope(delta_init=uniform)", 128, 128, 1, None),
        ("pope(delta_init=uniform)+logn", 64, 64, 1, 200),
        ("pope(delta_init=uniform)", 96, 128, 3, None),
        ("alibi", 128, 256, 1, None),
    ],
)
@torch.no_grad()
def test_pages_in_place(
    text: str, head_dim: int, page: int, queries: int, window: int | None, dtype: torch.dtype,
    device: torch.device, launches: list[bool],
) -> None:  # fmt: skip
    rule = built(text, head_dim, device)
    cache = cached(rule, (129, 1000, 3), queries, page, head_dim, device, dtype)
    expected = cache.expected(rule, window=window)
    cache.call(rule, window=window)  # compiles
    launches.clear()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = cache.call(rule, window=window)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert launches == [True]
    assert error(found, expected) < LIMIT


@torch.no_grad()
def test_what_the_kernel_does_not_take_is_gathered(
    device: torch.device, launches: list[bool]
) -> None:
    rule = built("pope(delta_init=uniform)", 128, device)
    for page, queries in ((16, 1), (128, 33)):
        cache = cached(rule, (129, 300), queries, page, 128, device)
        assert error(cache.call(rule), cache.expected(rule)) < LIMIT
        with pytest.raises(ww.Unsupported, match="page holds 16" if page == 16 else "at most 4"):
            cache.call(rule, backend="fused")
    assert True not in launches
    split = built("rope+dual_chunk", 128, device)
    cache = cached(split, (129, 300), 1, 128, 128, device)
    assert error(cache.call(split), cache.expected(split)) < LIMIT


@torch.no_grad()
def test_a_captured_graph_serves_other_lengths_and_tables(device: torch.device) -> None:
    rule = built("pope(delta_init=uniform)+logn", 128, device)
    steps = [cached(rule, lengths, 1, 64, 128, device) for lengths in
             ((129, 700), (1, 690), (700, 65))]  # fmt: skip
    static = steps[0]
    wanted = [step.expected(rule) for step in steps]
    held = (static.q, static.k_pages, static.v_pages, static.table, static.lengths)
    # Copies: the first step's own tensors are the graph's inputs, and written over.
    inputs = [
        [part.clone() for part in (x.q, x.k_pages, x.v_pages, x.table, x.lengths)] for x in steps
    ]
    static.call(rule)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = static.call(rule)
    for given, expected in reversed(list(zip(inputs, wanted, strict=True))):
        for mine, new in zip(held, given, strict=True):
            mine.copy_(new)
        captured.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        assert error(captured, expected) < LIMIT


COMPILED = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
import torch
from attention.test_pages_gpu import built, cached, error
from whatwhere.attention import attend_pages

device = torch.device("cuda")
rule = built("pope(delta_init=uniform)+logn", 64, device)

def step(q, k, v, table, lengths):
    return attend_pages(q, k, v, rule, table=table, lengths=lengths)

compiled = torch.compile(step, fullgraph=True)
with torch.no_grad():
    for lengths in ((129, 300), (7, 1000)):
        x = cached(rule, lengths, 1, 128, 64, device)
        found = compiled(x.q, x.k_pages, x.v_pages, x.table, x.lengths)
        print(error(found, x.expected(rule)))
"""


def test_compiled_it_is_one_operator() -> None:
    assert all(float(line) < LIMIT for line in run_python(COMPILED).split())
