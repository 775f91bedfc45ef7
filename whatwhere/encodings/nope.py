"""NoPE: no positional encoding at all; causal masking alone tells a decoder about order."""

from __future__ import annotations

from typing import final

from whatwhere.encodings.base import Encoding, Shape

__all__ = ["NoPE"]


@final
class NoPE(Encoding):
    """score = <q, k> / √d: the empty rule. Source: arXiv 2305.19466."""

    name = "nope"
    cite = "nope"

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
