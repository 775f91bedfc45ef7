"""`attend_pages` is `attend` on each row's own keys, however they are spread over pages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from bad_input.refusal import refuses
from conformance.cases import EXACT, GROUPS, HEADS, D, draw, make, value_width
from torch import Tensor

import whatwhere as ww
from whatwhere.attention import Unsupported, attend, attend_pages
from whatwhere.rule import ScoreRule

CPU = torch.device("cpu")


@dataclass
class Paged:
    """Queries, rows of keys of their own lengths, and the same keys in pages of a larger store.

    Whatever does not count is poison: pages of nobody, ends of last pages, numbers in the table.
    """

    q: Tensor
    rows: list[tuple[Tensor, Tensor]]
    k_pages: Tensor
    v_pages: Tensor
    table: Tensor
    lengths: Tensor

    def call(self, rule: ScoreRule | None, **options: Any) -> Tensor:
        """What is tested; options may replace any argument."""
        given = {name: getattr(self, name) for name in ("q", "k_pages", "v_pages")}
        given |= {"table": self.table, "lengths": self.lengths} | options
        vectors = [given.pop(name) for name in ("q", "k_pages", "v_pages")]
        return attend_pages(*vectors, rule, **given)

    def expected(self, rule: ScoreRule, q_pos: Tensor | None = None, **options: Any) -> Tensor:
        """Row by row on its contiguous keys, by the definition."""
        found = []
        for number, (k, v) in enumerate(self.rows):
            n, queries = k.shape[2], self.q.shape[2]
            at = torch.arange(n - queries, n) if q_pos is None else q_pos[number].cpu()
            at = at.to(k.device)[None]
            q = self.q[number : number + 1].to(k.dtype)
            keys = torch.arange(n, device=k.device)
            found.append(
                attend(q, k, v, rule, q_pos=at, k_pos=keys, backend="reference", **options)
            )
        return torch.cat(found)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """One entry for each launch of the decode kernels from now on: whether it read a table."""
    from whatwhere.kernels import decode_launch

    found: list[bool] = []
    launched = decode_launch._launched

    def counting(*given: object) -> object:
        found.append(given[8] is not None)
        return launched(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(decode_launch, "_launched", counting)
    return found


def paged(
    rule: ScoreRule, lengths: tuple[int, ...], queries: int, page: int, *, dtype: Any = None,
    device: torch.device = CPU, head_dim: int = D, value_dim: int | None = None,
    content: bool = False, heads: int = HEADS, groups: int = GROUPS,
) -> Paged:  # fmt: skip
    """A cache whose pages lie in any order among others that are full of NaN."""
    dtype = torch.float64 if dtype is None else dtype
    value_dim = value_width(rule) if value_dim is None else value_dim
    b, most = len(lengths), -(-max(lengths) // page) + 1
    order = torch.randperm(2 * b * most, generator=torch.Generator().manual_seed(5)).tolist()
    stores = [
        torch.full((2 * b * most, groups, page, width), float("nan"), dtype=dtype, device=device)
        for width in (head_dim, value_dim)
    ]
    table, rows = torch.full((b, most), -1, dtype=torch.int32), []
    for row, length in enumerate(lengths):
        k = draw((1, groups, length, head_dim), device, seed=10 + row).to(dtype)
        v = draw((1, groups, length, value_dim), device, seed=20 + row).to(dtype)
        rows.append((k.double(), v.double()))
        k = rule.content(k) if content else k
        for place, begin in enumerate(range(0, length, page)):
            table[row, place] = number = order.pop()
            for store, x in zip(stores, (k, v), strict=True):
                part = x[0, :, begin : begin + page]
                store[number, :, : part.shape[1]] = part
    q = draw((b, heads, queries, head_dim), device, seed=1).to(dtype)
    return Paged(q, rows, *stores, table.to(device), torch.tensor(lengths, device=device))


@pytest.mark.parametrize("queries", [1, 3, 9])
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize(
    "text",
    ["rope", "pope(delta_init=uniform)+logn", "alibi", "rope(values=relative)+dual_chunk", "shaw"],
)
def test_rows_of_different_lengths(text: str, window: int | None, queries: int) -> None:
    rule = make(text, CPU).rule(64)
    cache = paged(rule, (9, 37, 64), queries, page=8)
    expected = cache.expected(rule, window=window)
    torch.testing.assert_close(cache.call(rule, window=window), expected, **EXACT)
    longs = {"table": cache.table.long(), "lengths": cache.lengths.int()}
    torch.testing.assert_close(cache.call(rule, window=window, **longs), expected, **EXACT)


@pytest.mark.parametrize("name", ["reference", "sdpa", "auto"])
def test_any_backend_over_gathered_pages(name: str) -> None:
    rule = make("pope(delta_init=uniform)", CPU).rule(64)
    cache = paged(rule, (5, 17), 2, page=4)
    torch.testing.assert_close(cache.call(rule, backend=name), cache.expected(rule), **EXACT)


def test_content_of_keys_and_positions_of_queries() -> None:
    rule = make("pope(delta_init=uniform)", CPU).rule(64)
    cache = paged(rule, (19, 30), 6, page=4, content=True)
    q_pos = torch.stack((torch.arange(3, 9), torch.arange(20, 26)))
    found = cache.call(rule.of_content(), q_pos=q_pos, scale=0.3)
    torch.testing.assert_close(found, cache.expected(rule, q_pos, scale=0.3), **EXACT)


def test_a_row_with_fewer_keys_than_queries() -> None:
    rule = make("rope", CPU).rule(64)
    cache = paged(rule, (2, 11), 4, page=8)
    found = cache.call(rule)
    torch.testing.assert_close(found, cache.expected(rule), **EXACT)
    assert found[0, :, :2].eq(0).all(), "they stand before position 0"
    cache.lengths[0] = 0
    assert cache.call(rule)[0].eq(0).all()


def test_tokens_before_heads_and_a_shared_prefix() -> None:
    rule = make("rope", CPU).rule(64)
    cache = paged(rule, (13, 13), 1, page=4)
    stored = {name: getattr(cache, name).transpose(1, 2).contiguous() for name in
              ("k_pages", "v_pages")}  # fmt: skip
    swapped = {name: x.transpose(1, 2) for name, x in stored.items()}
    expected = cache.call(rule)
    assert torch.equal(cache.call(rule, **swapped), expected)
    cache.table[1] = cache.table[0]
    cache.q = cache.q[:1].expand(2, -1, -1, -1)
    found = cache.call(rule)
    assert torch.equal(found[0], found[1])


def test_the_gradient_flows_to_pages() -> None:
    rule = make("rope", CPU).rule(64)
    cache = paged(rule, (5, 7), 1, page=4)
    pages = cache.k_pages.nan_to_num().requires_grad_()
    (grad,) = torch.autograd.grad(cache.call(rule, k_pages=pages).sum(), pages)
    used = {int(cache.table[row, place]) for row in (0, 1) for place in (0, 1)}
    assert {number for number in range(len(grad)) if grad[number].any()} == used


ROPE = make("rope", CPU).rule(64)
GOOD = paged(ROPE, (9, 30), 1, page=8)
SHORT = GOOD.table.clone()
SHORT[0, 0] = len(GOOD.k_pages)
BAD: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "typo": (lambda: GOOD.call(ROPE, widnow=5), ("widnow", "did you mean 'window'")),
    "backend": (lambda: GOOD.call(ROPE, backend="fusde"), ("fusde", "did you mean 'fused'")),
    "no table": (lambda: GOOD.call(ROPE, table=[[0]]), ("table is list", "(2, pages) int32")),
    "float table": (lambda: GOOD.call(ROPE, table=GOOD.table.double()), ("table is", "int64")),
    "rows": (lambda: GOOD.call(ROPE, table=GOOD.table[:1]), ("table has shape (1, 5)", "(2, ")),
    "lengths": (lambda: GOOD.call(ROPE, lengths=GOOD.lengths[:1]), ("lengths has shape (1,)",)),
    "two axes": (lambda: GOOD.call(ROPE, lengths=GOOD.table), ("lengths has shape", "give (2,)")),
    "too long": (lambda: GOOD.call(ROPE, lengths=GOOD.lengths + 99), ("lengths is 129", "0 to 40")),
    "negative": (lambda: GOOD.call(ROPE, lengths=GOOD.lengths - 10), ("lengths is -1",)),
    "a page": (lambda: GOOD.call(ROPE, table=SHORT), ("table names page 20", "pages 0 to 19")),
    "three axes": (lambda: GOOD.call(ROPE, k_pages=GOOD.k_pages[0]), ("k_pages", "(pages, KV")),
    "dtype": (lambda: GOOD.call(ROPE, v_pages=GOOD.v_pages.float()), ("v_pages", "one dtype")),
    "device": (lambda: GOOD.call(ROPE, lengths=GOOD.lengths.to("meta")), ("lengths is on meta",)),
    "pages": (lambda: GOOD.call(ROPE, v_pages=GOOD.v_pages[1:]), ("20 pages and v_pages 19",)),
    "tokens": (lambda: GOOD.call(ROPE, v_pages=GOOD.v_pages[:, :, 1:]), ("heads and tokens",)),
    "heads": (lambda: GOOD.call(ROPE, q=GOOD.q[:, :5]), ("5 query heads over 3",)),
    "channels": (lambda: GOOD.call(ROPE, q=GOOD.q[..., :8]), ("8 channels and k_pages 16",)),
    "positions": (lambda: GOOD.call(ROPE, q_pos=torch.arange(2)), ("q_pos has shape (2,)", "(1,)")),
    "window": (lambda: GOOD.call(ROPE, window=0), ("window is 0",)),
    "scale": (lambda: GOOD.call(ROPE, scale="1"), ("scale is '1'",)),
    "rule": (lambda: GOOD.call("rope"), ("rule is str",)),  # type: ignore[arg-type]
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_what_would_be_right(name: str) -> None:
    call, words = BAD[name]
    refuses(call, *words)


def test_fused_by_name_says_why_not() -> None:
    with pytest.raises(Unsupported, match="CUDA device"):
        GOOD.call(ROPE, backend="fused")


def test_it_is_a_public_name() -> None:
    assert ww.attend_pages is attend_pages
