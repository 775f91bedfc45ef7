"""KERPLE: learned kernels of distance as biases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from whatwhere.encodings.base import Encoding, Shape, choice
from whatwhere.rule import ScoreRule

__all__ = ["Kerple"]

_FLOOR = 1e-2


@dataclass(frozen=True, eq=False)
class _Kernel:
    """b = -r1 log(1 + r2 |i - j|)  or  -r1 |i - j|^r2, r1 and r2 positive and per head."""

    first: Float[Tensor, " h"]
    second: Float[Tensor, " h"]
    kernel: str
    pointwise: bool = True

    def __call__(
        self, heads: Int[Tensor, "..."], i: Int[Tensor, "..."], j: Int[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """The bias of each pair."""
        # Distances never in half precision: bf16 has no odd number above 256.
        distance = (i - j).abs().to(torch.promote_types(self.first.dtype, torch.float32))
        r1, r2 = self.first[heads], self.second[heads]
        if self.kernel == "log":
            return -r1 * torch.log1p(r2 * distance)
        # 0^r2 has an infinite slope at r2 < 1; distance 0 is 0 for every r2.
        return -r1 * torch.where(distance > 0, distance.clamp(min=1.0) ** r2, 0.0)


@final
class Kerple(Encoding):
    """score = <q, k> / √d - r1 log(1 + r2 |i-j|) ("log") or - r1 |i-j|^r2 ("power").

    r1, r2 > 0, learned per head (power: r2 <= 2), kept at or above 0.01 with the gradient passed
    through, so no head can freeze on the bound. Initial values uniform: r1 in [0, 2], r2 in [0, 1]
    (log) or [0, 2] (power).
    Source: arXiv 2205.09921, Eqs. 8-9.
    """

    name = "kerple"
    cite = "kerple"

    def __init__(self, shape: Shape, kernel: str = "log") -> None:
        super().__init__(shape)
        self.kernel = choice("kernel of kerple", kernel, ("log", "power"))
        self.first = nn.Parameter(torch.empty(shape.heads))
        self.second = nn.Parameter(torch.empty(shape.heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw r1 and r2."""
        with torch.no_grad():
            self.first.uniform_(_FLOOR, 2.0)
            self.second.uniform_(_FLOOR, 1.0 if self.kernel == "log" else 2.0)

    def rule(self, horizon: int | None = None, *, training: bool = False) -> ScoreRule:
        """The empty rule with the kernel."""
        most = None if self.kernel == "log" else 2.0
        second = _bounded(self.second, most)
        bias = _Kernel(_bounded(self.first, None), second, self.kernel)
        return ScoreRule(biases=(bias,), heads=self.shape.heads)


def _bounded(parameter: Tensor, most: float | None) -> Tensor:
    return parameter + (parameter.clamp(min=_FLOOR, max=most) - parameter).detach()
