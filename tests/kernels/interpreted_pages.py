"""`attend_pages` reads pages in place, as Python on a CPU. Run by test_interpreter.py, in a process
of its own; torch.compile's part in one without the checks that tests add to every signature."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from attention.test_pages import CPU, Paged, counted, paged
from conformance.cases import HEADS, make
from fresh import ROOT, run_forked

from whatwhere.attention import Unsupported

PAGE = 128  # what the kernel reads at a time at these widths
CASES = [
    ("rope", 1, None),
    ("pope(delta_init=uniform)+logn", 1, 150),
    ("pope(delta_init=uniform)", 3, None),
    ("alibi", 3, 100),
]


@pytest.fixture(autouse=True)
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """One entry a launch: whether it read a table. torch.empty is full of NaN meanwhile."""
    torch.use_deterministic_algorithms(True)
    yield counted(monkeypatch)
    torch.use_deterministic_algorithms(False)


def error(cache: Paged, text: str, content: bool, window: int | None) -> float:
    rule = make(text, CPU, torch.float32).rule(512)
    with torch.no_grad():
        read = rule.of_content() if content else rule
        found = cache.call(read, backend="fused", window=window)
        expected = cache.expected(make(text, CPU).rule(512), window=window)
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("content", [False, True])
@pytest.mark.parametrize(("text", "queries", "window"), CASES)
def test_pages_in_place(
    text: str, queries: int, window: int | None, content: bool, launches: list[bool]
) -> None:
    rule = make(text, CPU, torch.float32).rule(512)
    cache = paged(rule, (129, 300), queries, PAGE, dtype=torch.float32, content=content)
    assert error(cache, text, content, window) < 5e-6
    assert launches == [True]


@pytest.mark.parametrize("text", ["rope+logn", "alibi"])
def test_a_row_with_fewer_keys_than_queries(text: str, launches: list[bool]) -> None:
    """What stands before position 0, where log-n is not finite, sees no key and is 0."""
    rule = make(text, CPU, torch.float32).rule(512)
    cache = paged(rule, (2, 300), 3, PAGE, dtype=torch.float32)
    assert error(cache, text, False, None) < 5e-6
    cache.lengths[0] = 0
    with torch.no_grad():
        assert cache.call(rule, backend="fused")[0].eq(0).all()
    assert launches == [True, True]


def test_reasons(launches: list[bool]) -> None:
    rule = make("rope", CPU, torch.float32).rule(512)
    cache = paged(rule, (9, 30), 1, 96, dtype=torch.float32)
    with pytest.raises(Unsupported, match="holds 96 keys, and the decode kernel reads multiples"):
        cache.call(rule, backend="fused")
    with pytest.raises(Unsupported, match="at most 4 query positions, not 5"):
        paged(rule, (9, 30), 5, PAGE, dtype=torch.float32).call(rule, backend="fused")
    with pytest.raises(Unsupported, match="2 terms"):
        cache.call(make("rope+rerope", CPU, torch.float32).rule(512), backend="fused")
    with pytest.raises(Unsupported, match="no gradient"):
        cache.call(rule, q=cache.q.clone().requires_grad_(), backend="fused")
    with pytest.raises(Unsupported, match="float64"):
        paged(rule, (9, 30), 1, PAGE).call(rule, backend="fused")
    spread = torch.empty(*cache.k_pages.shape[:2], 16, 96).copy_(cache.k_pages.mT).mT
    with pytest.raises(Unsupported, match="channels of k_pages are not contiguous"):
        cache.call(rule, k_pages=spread, backend="fused")
    assert cache.call(rule).shape == (2, HEADS, 1, 10)
    assert launches == [], "on a CPU the interpreter is used by name only"


COMPILED = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
import torch
from attention.test_pages import CPU, paged
from conformance.cases import make
from whatwhere.attention import attend_pages

rule = make("pope(delta_init=uniform)+logn", CPU, torch.float32).rule(512)
caches = [paged(rule, lengths, 1, 128, dtype=torch.float32) for lengths in ((129, 300), (7, 500))]

def step(q, k, v, table, lengths):
    return attend_pages(q, k, v, rule, table=table, lengths=lengths, backend="fused")

with torch.no_grad():
    # Sizes are symbols from the first call on, heads and widths too.
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True, dynamic=True)
    for cache in caches:
        given = (cache.q, cache.k_pages, cache.v_pages, cache.table, cache.lengths)
        print(torch.equal(compiled(*given), step(*given)))
"""


def test_compiled_it_is_one_operator() -> None:
    assert run_forked(COMPILED).split() == ["True"] * 2
