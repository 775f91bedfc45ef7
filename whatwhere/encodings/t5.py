"""T5's bias: one learned number per head and bucket of distance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from whatwhere.encodings.base import Encoding, Shape, check_length
from whatwhere.errors import flag
from whatwhere.rule import ScoreRule

__all__ = ["T5Bias", "bucket"]


def bucket(
    r: Int[Tensor, "..."], bidirectional: bool = False, buckets: int = 32, max_distance: int = 128
) -> Int[Tensor, "..."]:
    """Bucket of a relative position r = j - i (key minus query).

    Half of the buckets hold one distance each, the rest grow logarithmically up to max_distance;
    everything beyond shares the last. One-directional: future keys share bucket 0. Bidirectional:
    future keys have their own half. Source: arXiv 1910.10683 and its code; equal to Hugging Face's.
    """
    count = buckets // 2 if bidirectional else buckets
    offset = torch.where(r > 0, count, 0) if bidirectional else torch.zeros_like(r)
    distance = r.abs() if bidirectional else (-r).clamp(min=0)
    exact = count // 2
    ratio = distance.clamp(min=1).to(torch.float32) / exact
    grown = torch.log(ratio) / math.log(max_distance / exact) * (count - exact)
    far = (exact + grown.clamp(min=0).to(torch.int64)).clamp(max=count - 1)
    return offset + torch.where(distance < exact, distance, far)


@dataclass(frozen=True, eq=False)
class _Table:
    """b(h, i, j) = table[bucket(j - i), h]."""

    table: Float[Tensor, "m h"]
    bidirectional: bool
    max_distance: int
    pointwise: bool = True

    def __call__(
        self, heads: Int[Tensor, "..."], i: Int[Tensor, "..."], j: Int[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """The learned bias of each pair."""
        index = bucket(j - i, self.bidirectional, self.table.shape[0], self.max_distance)
        return self.table[index, heads]


@final
class T5Bias(Encoding):
    """score = <q, k> / √d + table[bucket(j - i), h]; one table (buckets, heads) for all layers.

    T5 itself has no 1/√d (folded into its initialization): pass `scale=1.0` to `attend` to run its
    weights. Options: buckets 32, max_distance 128, bidirectional False (decoder).
    Source: arXiv 1910.10683.
    """

    name = "t5"
    cite = "t5"

    def __init__(
        self,
        shape: Shape,
        buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = False,
    ) -> None:
        super().__init__(shape)
        least = 4 if flag("bidirectional", bidirectional) else 2
        if check_length("buckets", buckets, least) % least:
            raise ValueError(f"buckets is {buckets}; give a multiple of {least}")
        exact = buckets // (4 if bidirectional else 2)
        if check_length("max_distance", max_distance) <= exact:
            raise ValueError(
                f"max_distance is {max_distance}; with {buckets} buckets the first {exact} "
                "distances have their own, so it must be larger"
            )
        self.max_distance, self.bidirectional = max_distance, bidirectional
        self.table = nn.Parameter(torch.empty(buckets, shape.heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the table from a normal distribution with standard deviation 0.02."""
        nn.init.normal_(self.table, std=0.02)

    def rule(self, horizon: int | None = None, *, training: bool = False) -> ScoreRule:
        """The empty rule with the bucket table."""
        bias = _Table(self.table, self.bidirectional, self.max_distance)
        return ScoreRule(biases=(bias,), heads=self.shape.heads)
