"""The parts of a layer: grouped-query attention under a rule that is passed in, and an MLP.

Nothing is rotated here: queries and keys go raw to `attend`, and the cache holds the keys' content,
which `rule.of_content()` reads.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from whatwhere.attention import Where, attend
from whatwhere.cache import KVCache
from whatwhere.nn.config import DecoderConfig
from whatwhere.rule import ScoreRule

__all__ = ["MLP", "Attention", "Block"]


class Attention(nn.Module):
    """Grouped-query attention under a rule that the caller passes."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        d, groups = config.channels, config.shape.groups
        self.heads, self.groups, self.dropout = config.heads, groups, config.dropout
        self.q = nn.Linear(config.width, config.heads * d, bias=False)
        self.k = nn.Linear(config.width, groups * d, bias=False)
        self.v = nn.Linear(config.width, groups * d, bias=False)
        self.out = nn.Linear(config.heads * d, config.width, bias=False)
        self.q_norm = nn.RMSNorm(d, eps=1e-6) if config.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(d, eps=1e-6) if config.qk_norm else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "b n width"],
        rule: ScoreRule,
        where: Where,
        cache: KVCache | None,
        layer: int,
    ) -> Float[Tensor, "b n width"]:
        q = self.q_norm(self.q(x).unflatten(-1, (self.heads, -1))).transpose(1, 2)
        k = self.k_norm(self.k(x).unflatten(-1, (self.groups, -1))).transpose(1, 2)
        v = self.v(x).unflatten(-1, (self.groups, -1)).transpose(1, 2)
        if cache is not None:
            k, v = cache.update(layer, k, v, rule.content)
            rule = rule.of_content()
        dropout = self.dropout if self.training else 0.0
        return self.out(
            attend(q, k, v, rule, where=where, dropout=dropout).transpose(1, 2).flatten(2)
        )


class MLP(nn.Module):
    """SwiGLU: out(silu(gate(x)) · up(x)), or GELU: out(gelu(up(x)))."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        gated = config.activation == "swiglu"
        self.gate = nn.Linear(config.width, config.units, bias=False) if gated else None
        self.up = nn.Linear(config.width, config.units, bias=False)
        self.out = nn.Linear(config.units, config.width, bias=False)

    def forward(self, x: Float[Tensor, "b n width"]) -> Float[Tensor, "b n width"]:
        if self.gate is None:
            return self.out(F.gelu(self.up(x)))
        return self.out(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, eps=1e-6)
        self.attention = Attention(config)
        self.mlp_norm = nn.RMSNorm(config.width, eps=1e-6)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "b n width"],
        rule: ScoreRule,
        where: Where,
        cache: KVCache | None,
        layer: int,
    ) -> Float[Tensor, "b n width"]:
        attended = self.attention(self.attention_norm(x), rule, where, cache, layer)
        x = x + self.dropout(attended)
        return x + self.dropout(self.mlp(self.mlp_norm(x)))
