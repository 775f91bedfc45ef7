"""CoPE: positions counted by content — a key is as far as the number of gates that opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from whatwhere.encodings.base import Encoding, Shape, check_length
from whatwhere.rule import ScoreRule

__all__ = ["CoPE"]


@dataclass(frozen=True, eq=False)
class _Counted:
    """The pair part of the rule: q_i · e[p_ij], p_ij = Σ_{k=j..i} sigmoid(score_ik)."""

    table: Float[Tensor, "m d"]
    causal_only: bool = True
    reason: str = "CoPE counts gates over all keys between a pair, which no map of one vector knows"

    def scores(
        self,
        q: Float[Tensor, "b h nq d"],
        scores: Float[Tensor, "b h nq nk"],
        q_pos: Int[Tensor, "#b nq"],
        k_pos: Int[Tensor, "#b nk"],
        visible: Bool[Tensor, "#b nq nk"],
        scale: float,
    ) -> Float[Tensor, "b h nq nk"]:
        """The interpolated product of each pair; keys are counted in the order of positions."""
        gates = torch.sigmoid(scores) * visible[:, None]
        order = k_pos.argsort(dim=-1, stable=True)[:, None, None, :].expand(*scores.shape)
        ordered = gates.gather(-1, order)
        counted = ordered.flip(-1).cumsum(dim=-1).flip(-1)
        place = torch.zeros_like(counted).scatter(-1, order, counted)
        place = place.clamp(max=self.table.shape[0] - 1)
        products = torch.einsum("bhqd,md->bhqm", q, self.table.to(q.dtype))
        below = place.detach().floor().to(torch.int64)
        above = (below + 1).clamp(max=self.table.shape[0] - 1)
        part = place - below
        return products.gather(-1, below) * (1 - part) + products.gather(-1, above) * part

    def outputs(
        self,
        weights: Float[Tensor, "b h nq nk"],
        q_pos: Int[Tensor, "#b nq"],
        k_pos: Int[Tensor, "#b nk"],
    ) -> Float[Tensor, "b h nq dv"] | None:
        """None: values are untouched."""
        return None


@final
class CoPE(Encoding):
    """score_ij += q_i · e[p_ij],  p_ij = Σ_{k=j..i} sigmoid(q_i·k_k/√d), e interpolated.

    A table of max_positions vectors (head_dim channels, shared by heads), zero at first; counts
    beyond it are clamped. Gates read the scaled logits and the product with e is not scaled, as in
    the paper's code. Causal only: the count runs from the key to the query.
    Source: arXiv 2405.18719.
    """

    name = "cope"
    cite = "cope"
    per_layer = True
    causal_only = True

    def __init__(self, shape: Shape, max_positions: int = 64) -> None:
        super().__init__(shape)
        rows = check_length("max_positions", max_positions, least=2)
        self.table = nn.Parameter(torch.empty(rows, shape.head_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the table to zero: attention starts as NoPE."""
        nn.init.zeros_(self.table)

    def rule(self, horizon: int | None = None, *, training: bool = False) -> ScoreRule:
        """The empty rule with the counted positions as its pair part."""
        return ScoreRule(pairwise=_Counted(self.table), head_dim=self.shape.head_dim)
