"""A paged cache as `attend_pages` takes it: pages of keys and values, a table, and lengths.

Un-rotated keys know no position, so a page can be shared by rows and moved, prefix by prefix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whatwhere.attention.checks import check_heads, check_vector
from whatwhere.errors import kind_of

__all__ = ["Pages", "checked_pages", "positions_of"]

_INTEGERS = (torch.int32, torch.int64)


@dataclass(frozen=True, eq=False)
class Pages:
    """Key j of row r is k[table[r, j // page], :, j % page], for j < lengths[r]; values alike."""

    k: Float[Tensor, "p g page d"]
    v: Float[Tensor, "p g page dv"]
    table: Int[Tensor, "b m"]
    lengths: Int[Tensor, " b"]

    @property
    def page(self) -> int:
        """Keys of one page."""
        return self.k.shape[2]

    def gathered(
        self,
    ) -> tuple[Float[Tensor, "b g n d"], Float[Tensor, "b g n dv"], Bool[Tensor, "b n"]]:
        """Keys and values one row after the other, n = m · page, and which of them count.

        What does not count is 0: pages are never cleared, and 0 · NaN would reach the output.
        """
        most = self.table.shape[1]
        at = torch.arange(most * self.page, device=self.table.device)
        valid = at < self.lengths[:, None]
        # Entries beyond a row's length may hold anything: -1, or numbers of pages long gone.
        numbers = torch.where(valid[:, :: self.page], self.table, 0).long()
        k, v = (
            x[numbers].transpose(1, 2).flatten(2, 3).masked_fill(~valid[:, None, :, None], 0.0)
            for x in (self.k, self.v)
        )
        return k, v, valid


def checked_pages(q: Tensor, k: Any, v: Any, table: Any, lengths: Any) -> Pages:
    """The arguments of `attend_pages` as one value; raises TypeError or ValueError."""
    check_vector("q", q, q)
    for name, x in (("k_pages", k), ("v_pages", v)):
        check_vector(name, x, q, "(pages, KV heads, keys of a page, channels)")
    check_heads(q, k, v, ("k_pages", "v_pages"))
    if k.shape[0] != v.shape[0]:
        raise ValueError(f"k_pages has {k.shape[0]} pages and v_pages {v.shape[0]}; give as many")
    batch = q.shape[0]
    for name, x, axes, shape in (("table", table, 2, "pages"), ("lengths", lengths, 1, "")):
        wanted = f"({batch}, {shape})".replace(" )", ")")
        if not isinstance(x, Tensor) or x.dtype not in _INTEGERS:
            raise TypeError(f"{name} is {kind_of(x)}; give {wanted} int32 or int64")
        if x.dim() != axes or x.shape[0] != batch or 0 in x.shape:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; give {wanted}, a row for each q")
        if x.device != q.device:
            raise ValueError(f"{name} is on {x.device} and q on {q.device}: move one of them")
    pages = Pages(k, v, table, lengths)
    if q.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_numbers(pages)
    return pages


def _check_numbers(pages: Pages) -> None:
    """What only values tell, on a CPU, where to read them is no wait."""
    most, page = pages.table.shape[1], pages.page
    low, high = int(pages.lengths.min()), int(pages.lengths.max())
    if low < 0 or high > most * page:
        raise ValueError(
            f"lengths is {low if low < 0 else high} somewhere; {most} pages of {page} keys a row "
            f"hold 0 to {most * page}"
        )
    used = torch.arange(most) * page < pages.lengths[:, None]
    wrong = pages.table[used & ((pages.table < 0) | (pages.table >= len(pages.k)))]
    if wrong.numel():
        raise ValueError(
            f"table names page {int(wrong[0])} for keys that count; k_pages has pages 0 to "
            f"{len(pages.k) - 1}"
        )


def positions_of(q: Tensor, lengths: Tensor, q_pos: Any) -> Int[Tensor, "r nq"]:
    """(1 or b, nq) int64: positions of queries, each row's last ones if none are given."""
    batch, queries = q.shape[0], q.shape[2]
    if q_pos is None:
        steps = torch.arange(queries, device=q.device) - queries
        return lengths.to(torch.int64)[:, None] + steps
    if not isinstance(q_pos, Tensor) or q_pos.dtype not in _INTEGERS:
        raise TypeError(f"q_pos is {kind_of(q_pos)}; give an int64 tensor")
    found = q_pos[None] if q_pos.dim() == 1 else q_pos
    if found.dim() != 2 or found.shape[0] not in (1, batch) or found.shape[1] != queries:
        shape = tuple(q_pos.shape)
        raise ValueError(f"q_pos has shape {shape}; give ({queries},) or ({batch}, {queries})")
    if found.device != q.device:
        raise ValueError(f"q_pos is on {found.device} and q on {q.device}: move one of them")
    # Of its own alignment: a slice's would be compiled for once more.
    return found.to(torch.int64).clone()
