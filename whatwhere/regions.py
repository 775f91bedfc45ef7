"""Which pairs a term of a rule speaks for.

One type covers every method that treats pairs by where they stand: the difference of chunk numbers,

    least <= i // chunk - j // chunk <= most,

with query position i and key position j. With chunk = 1 it is the distance itself. ReRoPE, Leaky
ReRoPE and Self-Extend split at a distance, Dual Chunk Attention at a number of chunks.
The regions of a rule partition all visible pairs: each pair lies in exactly one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Int
from torch import Tensor

from whatwhere.errors import whole_number

__all__ = ["EVERYWHERE", "Region", "chunk_gap", "far", "near"]


@dataclass(frozen=True)
class Region:
    """Pairs with least <= i // chunk - j // chunk <= most; None leaves that side open.

    Raises ValueError if chunk is below 1 or least above most.
    """

    least: int | None = None
    most: int | None = None
    chunk: int = 1

    def __post_init__(self) -> None:
        whole_number("chunk", self.chunk)
        for name in ("least", "most"):
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name), least=None)
        if self.least is not None and self.most is not None and self.least > self.most:
            raise ValueError(f"least is {self.least}, above most {self.most}: the region is empty")

    def contains(self, i: Int[Tensor, "..."], j: Int[Tensor, "..."]) -> Bool[Tensor, "..."]:
        """True where the pair (i, j) lies inside; i and j broadcast against each other."""
        gap = self._chunk_of(i) - self._chunk_of(j)
        inside = gap == gap
        if self.least is not None:
            inside = inside & (gap >= self.least)
        if self.most is not None:
            inside = inside & (gap <= self.most)
        return inside

    def tile(
        self, i_first: int, i_last: int, j_first: int, j_last: int
    ) -> Literal["all", "none", "some"]:
        """How a whole tile of pairs lies: what a kernel asks to skip work or masks.

        The bounds are inclusive. The answer "some" may also be given for a tile that is in truth
        all inside or all outside; "all" and "none" are always true.
        """
        smallest = i_first // self.chunk - j_last // self.chunk
        largest = i_last // self.chunk - j_first // self.chunk
        least = smallest if self.least is None else self.least
        most = largest if self.most is None else self.most
        if smallest > most or largest < least:
            return "none"
        return "all" if smallest >= least and largest <= most else "some"

    def _chunk_of(self, position: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        if self.chunk == 1:
            return position
        return position.div(self.chunk, rounding_mode="floor")


EVERYWHERE = Region()


def near(window: int) -> Region:
    """Pairs with i - j < window, keys in the future included (a distance there is negative)."""
    return Region(most=window - 1)


def far(window: int) -> Region:
    """Pairs with i - j >= window: all that `near(window)` leaves."""
    return Region(least=window)


def chunk_gap(chunk: int, least: int | None, most: int | None) -> Region:
    """Pairs whose chunks of `chunk` positions lie `least` to `most` chunks apart."""
    return Region(least=least, most=most, chunk=chunk)
