"""FIRE: a small learned function of normalized distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from whatwhere.encodings.base import Encoding, Shape, check_length
from whatwhere.errors import real_number
from whatwhere.rule import ScoreRule

__all__ = ["Fire"]


@dataclass(frozen=True, eq=False)
class _Interpolated:
    """b(h, i, j) = f(ψ(|i - j|) / ψ(max(L, i)))_h, ψ(x) = log(c x + 1), f an MLP."""

    hidden: nn.Linear
    out: nn.Linear
    slope: Float[Tensor, ""]
    threshold: Float[Tensor, ""]
    pointwise: bool = False

    def __call__(
        self, heads: Int[Tensor, "..."], i: Int[Tensor, "..."], j: Int[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """The bias of each pair; the MLP runs once a pair and gives all heads."""
        # Positions never in half precision: bf16 has no odd number above 256.
        dtype = torch.promote_types(self.slope.dtype, torch.float32)
        slope, threshold = self.slope.abs().to(dtype), self.threshold.abs().to(dtype)
        distance = torch.log1p(slope * (i - j).abs().to(dtype))
        ceiling = torch.log1p(slope * torch.maximum(threshold, i.to(dtype)))
        ratio = distance / ceiling.clamp(min=torch.finfo(dtype).tiny)
        ratio = ratio.to(self.hidden.weight.dtype)
        per_head = self.out(torch.relu(self.hidden(ratio[..., None])))
        index = heads.expand(torch.broadcast_shapes(heads.shape, ratio.shape))[..., None]
        return per_head.expand(*index.shape[:-1], -1).gather(-1, index).squeeze(-1)


@final
class Fire(Encoding):
    """score = <q, k> / √d + f(ψ(i-j) / ψ(max(L, i)))_h,  ψ(x) = log(|c| x + 1).

    f: 1 -> width (ReLU) -> heads. c and L learned, initially 0.1 and 512. The ratio stays in
    [0, 1] at any length, which is the idea; past L it depends on the query's own position, so the
    encoding is not shift-invariant. Options: width 32, init_slope, init_threshold.
    Source: arXiv 2310.04418, Eqs. 18-20.
    """

    name = "fire"
    cite = "fire"

    def __init__(
        self,
        shape: Shape,
        width: int = 32,
        init_slope: float = 0.1,
        init_threshold: float = 512.0,
    ) -> None:
        super().__init__(shape)
        check_length("width", width)
        real_number("init_slope", init_slope, above=0)
        real_number("init_threshold", init_threshold, above=0)
        self.hidden, self.out = nn.Linear(1, width), nn.Linear(width, shape.heads)
        self.init_slope, self.init_threshold = float(init_slope), float(init_threshold)
        self.slope = nn.Parameter(torch.empty(()))
        self.threshold = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the MLP; set c and L to their initial values."""
        self.hidden.reset_parameters()
        self.out.reset_parameters()
        nn.init.constant_(self.slope, self.init_slope)
        nn.init.constant_(self.threshold, self.init_threshold)

    @property
    def relative(self) -> bool:
        """False: the normalizer is the query's position once it exceeds L."""
        return False

    def rule(self, horizon: int | None = None, *, training: bool = False) -> ScoreRule:
        """The empty rule with the MLP's bias."""
        bias = _Interpolated(self.hidden, self.out, self.slope, self.threshold)
        return ScoreRule(biases=(bias,), heads=self.shape.heads)
