"""Content: the part of a key's map that knows no position, which is what a cache may hold.

A key's features are a function of (x, position). Where that is a function of (μ(x), position) with
a μ that is no wider than x, μ(x) can be stored instead of x: still un-rotated, still re-indexable,
and what every later step would compute again from every key is computed once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["Content", "Magnitude", "magnitude"]

Magnitude = Literal["softplus", "relu", "identity"]


def magnitude(x: Float[Tensor, "..."], kind: Magnitude) -> Float[Tensor, "..."]:
    """PoPE's magnitudes, element by element, in x's dtype; under CUDA's autocast softplus
    is in float32."""
    if kind == "softplus":
        return F.softplus(x)
    return x.relu() if kind == "relu" else x


@dataclass(frozen=True)
class Content:
    """x -> μ(x) in the first `channels` channels, x in the others; `Content()` is x itself.

    Two contents are equal if they are the same function: a cache filled under one rule can be read
    under any other whose content is equal, whatever its positions, spectra and regions are.
    """

    kind: Magnitude = "identity"
    channels: int = 0

    def __post_init__(self) -> None:
        if self.kind == "identity":  # of however many channels: one function, one value
            object.__setattr__(self, "channels", 0)

    def __call__(self, x: Float[Tensor, "b h n d"]) -> Float[Tensor, "b h n d"]:
        """The content of x, in its dtype; torch computes in float32 at least and rounds once."""
        if self.kind == "identity":
            return x
        # CUDA's autocast takes softplus to float32; a cache is in the dtype of what it is given.
        size = magnitude(x[..., : self.channels], self.kind).to(x.dtype)
        if self.channels == x.shape[-1]:
            return size
        return torch.cat((size, x[..., self.channels :]), dim=-1)

    def __str__(self) -> str:
        if self.kind == "identity":
            return "raw keys"
        return f"{self.kind} magnitudes of {self.channels} channels"
