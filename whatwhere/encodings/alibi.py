"""ALiBi: a penalty that grows linearly with distance, steeper in some heads than in others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whatwhere.encodings.base import Encoding, Shape
from whatwhere.errors import real_number
from whatwhere.rule import ScoreRule

__all__ = ["Alibi", "slopes"]


def slopes(heads: int) -> tuple[float, ...]:
    """Slopes of the official code: 2^(-8h/H), h = 1..H, for H a power of two.

    Otherwise the slopes of p = 2^floor(log2 H) heads, followed by every second one of the slopes of
    2p heads until there are H: not sorted, and not 2^(-8h/H), which is off by up to 0.69 at H = 12.
    Source: arXiv 2108.12409 and its repository; Bloom and MPT agree for 1..112 heads.
    """
    power = 2 ** math.floor(math.log2(heads))
    first = tuple(2.0 ** (-8.0 * h / power) for h in range(1, power + 1))
    return first if power == heads else first + slopes(2 * power)[0::2][: heads - power]


@dataclass(frozen=True, eq=False)
class _Linear:
    """b(h, i, j) = -m_h |i - j|."""

    slopes: Float[Tensor, " h"]
    pointwise: bool = True

    def __call__(
        self, heads: Int[Tensor, "..."], i: Int[Tensor, "..."], j: Int[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """The penalty of each pair."""
        return -self.slopes[heads] * (i - j).abs()


@final
class Alibi(Encoding):
    """score = <q, k> / √d - m_h |i - j|, the slopes m_h fixed by `slopes(heads)`.

    The penalty is not multiplied by 1/√d (the paper's footnote 10). For j > i (bidirectional
    models) the distance is symmetric.

    Options:
        heads: the share of the heads that get a penalty, the first ones, with the slopes that a
            model of so many heads has; the others have slope 0, as in NoPE, and can look far.
            1: all, the paper's ALiBi; 0.5: the PoPE paper's baseline (arXiv 2509.10534, table 9),
            which does not say which half: of a model of 8 heads slopes(4) == slopes(8)[1::2].
    Source: arXiv 2108.12409.
    """

    name = "alibi"
    cite = "alibi"

    def __init__(self, shape: Shape, heads: float = 1.0) -> None:
        super().__init__(shape)
        real_number("heads of alibi", heads, above=0, most=1, why="it is a share of the heads")
        count = int(shape.heads * heads)
        if count < 1:
            raise ValueError(
                f"heads of alibi is {heads}; give a share that leaves at least one of "
                f"{shape.heads} heads"
            )
        self._slopes = slopes(count) + (0.0,) * (shape.heads - count)
        self.register_buffer("slopes", torch.tensor(self._slopes), persistent=False)

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        # Slopes of 12 heads are no powers of two: a cast to bf16 would move them by 0.4 %.
        super()._apply(fn, recurse)
        if self.slopes.device.type != "meta":
            self.slopes = torch.tensor(self._slopes, device=self.slopes.device)
        return self

    def rule(self, horizon: int | None = None, *, training: bool = False) -> ScoreRule:
        """The empty rule with the linear penalty."""
        return ScoreRule(biases=(_Linear(self.slopes),), heads=self.shape.heads)
