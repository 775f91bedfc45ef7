"""Shaw et al.: a learned vector per clipped distance, added to keys and to values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from whatwhere.encodings.base import Encoding, Shape, check_length, choice
from whatwhere.rule import ScoreRule

__all__ = ["Shaw"]


@dataclass(frozen=True, eq=False)
class _RelativeTables:
    """The pair part of the rule: q_i · a^K_ij on scores, Σ_j α_ij a^V_ij on outputs."""

    keys: Float[Tensor, "t m d"] | None
    values: Float[Tensor, "t m dv"] | None
    clip: int
    causal_only: bool = False
    reason: str = "Shaw adds a vector per pair to keys and values, which is no map of one vector"

    def _index(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        distance = k_pos[:, None, :] - q_pos[:, :, None]
        return distance.clamp(-self.clip, self.clip) + self.clip

    def scores(
        self,
        q: Float[Tensor, "b h nq d"],
        scores: Float[Tensor, "b h nq nk"],
        q_pos: Int[Tensor, "#b nq"],
        k_pos: Int[Tensor, "#b nk"],
        visible: Bool[Tensor, "#b nq nk"],
        scale: float,
    ) -> Float[Tensor, "b h nq nk"]:
        """q_i · w^K[clip(j - i)] · scale: products with the 2k+1 vectors, then a gather."""
        if self.keys is None:
            return torch.zeros_like(scores)
        keys = self.keys.to(q.dtype).expand(q.shape[1], -1, -1)
        products = torch.einsum("bhqd,hmd->bhqm", q, keys) * scale
        index = self._index(q_pos, k_pos)[:, None].expand(*scores.shape)
        return products.gather(-1, index)

    def outputs(
        self,
        weights: Float[Tensor, "b h nq nk"],
        q_pos: Int[Tensor, "#b nq"],
        k_pos: Int[Tensor, "#b nk"],
    ) -> Float[Tensor, "b h nq dv"] | None:
        """Σ_j α_ij w^V[clip(j - i)]: weights summed per distance, then one product.

        On a GPU these sums are atomic: the last bits differ from call to call, unless
        torch.use_deterministic_algorithms(True) is set.
        """
        if self.values is None:
            return None
        index = self._index(q_pos, k_pos)[:, None].expand(*weights.shape)
        summed = weights.new_zeros(*weights.shape[:-1], 2 * self.clip + 1)
        summed = summed.scatter_add(-1, index, weights)
        values = self.values.to(weights.dtype).expand(weights.shape[1], -1, -1)
        return torch.einsum("bhqm,hmd->bhqd", summed, values)


@final
class Shaw(Encoding):
    """e_ij = q_i · (k_j + w^K[clip(j - i, -k, k)]) / √d;  z_i = Σ_j α_ij (v_j + w^V[clip(j - i)]).

    2k + 1 vectors a table, of head_dim channels (values: head_dim too). Note j - i: key minus
    query; popular descriptions turn it around, drop the clip or the √d (encodings.md §21).

    Options: clip k (16 in the base model); tables "per_head" (the paper) or "shared" (its code,
    tensor2tensor); sides "both", "keys" or "values".
    Source: arXiv 1803.02155, Eqs. 3-5.
    """

    name = "shaw"
    cite = "shaw"
    per_layer = True

    def __init__(
        self, shape: Shape, clip: int = 16, tables: str = "per_head", sides: str = "both"
    ) -> None:
        super().__init__(shape)
        self.clip = check_length("clip", clip)
        per_head = choice("tables of shaw", tables, ("per_head", "shared")) == "per_head"
        choice("sides of shaw", sides, ("both", "keys", "values"))
        size = (shape.heads if per_head else 1, 2 * clip + 1, shape.head_dim)
        self.keys = nn.Parameter(torch.empty(size)) if sides != "values" else None
        self.values = nn.Parameter(torch.empty(size)) if sides != "keys" else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw both tables from a normal distribution with standard deviation 0.02."""
        for table in (self.keys, self.values):
            if table is not None:
                nn.init.normal_(table, std=0.02)

    def rule(self, horizon: int | None = None, *, training: bool = False) -> ScoreRule:
        """The empty rule with the two tables as its pair part."""
        tables = _RelativeTables(self.keys, self.values, self.clip)
        return ScoreRule(
            pairwise=tables,
            heads=self.shape.heads,
            head_dim=self.shape.head_dim,
            value_dim=None if self.values is None else self.shape.head_dim,
        )
