"""Several decoders of one architecture as one module: a small model alone leaves a GPU idle.

Weights of S decoders lie in one tensor of shape (S, …), every linear layer is one batched product,
and attention runs once for all seeds or, where an encoding learns what can not be joined (T5's
biases; PoPE's δ can), once a seed. Each decoder keeps its parameters, now views of the stacked
ones: what trains here is read there, and a seed's gradient is its own to the last bit of its loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from whatwhere.attention import Where, attend
from whatwhere.encodings import Encoding
from whatwhere.nn import Decoder
from whatwhere.nn import blocks as parts
from whatwhere.rule import ScoreRule
from whatwhere.study.compiling import compiled
from whatwhere.study.shared import Linear, Norm, Shared, Table, aligned, product

__all__ = ["Stacked"]

Rules = list[list[ScoreRule]]
"""By layer, then by seed; one for all seeds where one encoding holds what they learned."""


def _normed(each: Sequence[nn.Module]) -> nn.Module:
    norms = [one for one in each if isinstance(one, nn.RMSNorm)]
    return Norm(norms) if norms else nn.Identity()


class Attention(nn.Module):
    """`whatwhere.nn`'s attention of every seed."""

    def __init__(self, each: Sequence[parts.Attention]) -> None:
        super().__init__()
        self.heads, self.groups, self.dropout = each[0].heads, each[0].groups, each[0].dropout
        self.q, self.k = Linear([one.q for one in each]), Linear([one.k for one in each])
        self.v, self.out = Linear([one.v for one in each]), Linear([one.out for one in each])
        self.q_norm = _normed([one.q_norm for one in each])
        self.k_norm = _normed([one.k_norm for one in each])

    def forward(
        self, x: Float[Tensor, "s b n w"], rules: list[ScoreRule], where: Where, last: int
    ) -> Float[Tensor, "s b m w"]:
        seeds, batch, n, _ = x.shape
        flat = x.flatten(1, 2)
        q = self.q_norm(self.q(flat).view(seeds, batch, n, self.heads, -1)).transpose(2, 3)
        k = self.k_norm(self.k(flat).view(seeds, batch, n, self.groups, -1)).transpose(2, 3)
        v = self.v(flat).view(seeds, batch, n, self.groups, -1).transpose(2, 3)
        dropout = self.dropout if self.training else 0.0
        if len(rules) == 1:
            q, k, v = (each.flatten(0, 1) for each in (q, k, v))
            found = attend(q, k, v, rules[0], where=where, dropout=dropout)
            found = found.unflatten(0, (seeds, batch))
        else:
            found = torch.stack([
                attend(q[s], k[s], v[s], rule, where=where, dropout=dropout).transpose(1, 2)
                for s, rule in enumerate(rules)
            ]).transpose(2, 3)  # fmt: skip
        found = found[..., -last:, :].transpose(2, 3).flatten(3)
        return self.out(found.flatten(1, 2)).unflatten(1, (batch, -1))


class MLP(nn.Module):
    """`whatwhere.nn`'s MLP of every seed."""

    def __init__(self, each: Sequence[parts.MLP]) -> None:
        super().__init__()
        gates = [one.gate for one in each if one.gate is not None]
        self.gate = Linear(gates) if gates else None
        self.up, self.out = Linear([one.up for one in each]), Linear([one.out for one in each])

    def forward(self, x: Float[Tensor, "s b n w"]) -> Float[Tensor, "s b n w"]:
        flat = x.flatten(1, 2)
        hidden = F.gelu(self.up(flat)) if self.gate is None else None
        if self.gate is not None:
            hidden = F.silu(self.gate(flat)) * self.up(flat)
        return self.out(hidden).unflatten(1, x.shape[1:3])


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), of every seed."""

    def __init__(self, each: Sequence[parts.Block]) -> None:
        super().__init__()
        self.attention_norm = Norm([one.attention_norm for one in each])
        self.attention = Attention([one.attention for one in each])
        self.mlp_norm = Norm([one.mlp_norm for one in each])
        self.mlp = MLP([one.mlp for one in each])
        self.dropout = nn.Dropout(each[0].dropout.p)

    def forward(
        self, x: Float[Tensor, "s b n w"], rules: list[ScoreRule], where: Where, last: int
    ) -> Float[Tensor, "s b m w"]:
        attended = self.attention(self.attention_norm(x), rules, where, last)
        x = x[:, :, -last:] + self.dropout(attended)
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


def _run(block: nn.Module, x: Tensor, rules: list[ScoreRule], where: Where, last: int) -> Tensor:
    return block(x, rules, where, last)


class Stacked(nn.Module):
    """S decoders as one: stacked(tokens) -> logits, (S, b, n) int64 -> (S, b, n, vocab_size).

    The decoders must be of one `DecoderConfig` and on the device already; their parameters become
    views of this module's, and `share_gradients` after a backward pass gives them their gradients:
    each can be optimized, evaluated, saved and loaded as if it were alone.
    Raises ValueError for decoders of different configurations, or none.
    """

    def __init__(self, decoders: Sequence[Decoder]) -> None:
        super().__init__()
        if not decoders or any(one.config != decoders[0].config for one in decoders):
            raise ValueError("give one or more decoders of the same DecoderConfig")
        self.config = decoders[0].config
        self._decoders = tuple(decoders)
        self.embedding = Table([one.embedding for one in decoders])
        layers = zip(*(one.blocks for one in decoders), strict=True)
        self.blocks = nn.ModuleList([Block(cast(Sequence[parts.Block], layer)) for layer in layers])
        self.norm = Norm([one.norm for one in decoders])
        tied = self.config.tie_embeddings
        self.head = None if tied else Linear([one.head for one in decoders])
        self.joint, self.learned = self._joint()
        self.encodings = nn.ModuleList([] if self.joint else [one.encodings for one in decoders])
        # What the encoding is does not change; asking each time would break a compiled graph.
        self._adds = type(decoders[0].active[0]).embed is not Encoding.embed
        self._run = _run

    @property
    def decoders(self) -> tuple[Decoder, ...]:
        """The decoders, one a seed, whose parameters are views of this module's."""
        return self._decoders

    def compile_blocks(self) -> None:
        """Let torch compile the blocks for training: one graph for all (the last has its own).

        The whole model in one graph takes minutes to compile and, replayed as one CUDA graph, gains
        what is fused across the blocks' borders only.
        """
        self._run = compiled(_run, dynamic=False)

    def forward(
        self, tokens: Int[Tensor, "s b n"], last: int | None = None, padded: bool = False
    ) -> Float[Tensor, "s b m vocab"]:
        """Logits of the next token at every place, or at the last `last` ones only.

        With `last`, what nobody reads is not computed: the last block's output and the head of the
        places before. The others' logits are the same. With `padded` there may be columns of no
        token after those of the vocabulary, for who wants a gradient without a copy (`aligned`).
        """
        n = tokens.shape[-1]
        where = Where(n, n, device=tokens.device)
        rules = self._rules(n)
        x = self._embed(tokens, where.q_pos)
        count, run = len(self.blocks), self._run if self.training else _run
        for layer, block in enumerate(self.blocks):
            keep = n if last is None or layer + 1 < count else min(last, n)
            x = run(block, x, rules[layer], where, keep)
        x = self.norm(x).flatten(1, 2)
        weight, count = (self.head or self.embedding).weight, self.config.vocab_size
        logits = product(x, weight, aligned(count, x)).unflatten(1, (tokens.shape[1], -1))
        return logits if padded else logits[..., :count]

    def link(self) -> None:
        """Make the decoders' parameters views again, after something put others' memory here."""
        for module in self._shared():
            module.link()

    def share_gradients(self) -> None:
        """Give every decoder's parameters their slices of the gradients."""
        for module in self._shared():
            module.share_gradient()

    def forget_gradients(self) -> None:
        """Set every gradient to None, the decoders' too."""
        for parameter in self.parameters():
            parameter.grad = None
        self.share_gradients()

    def _shared(self) -> list[Shared]:
        return [module for module in self.modules() if isinstance(module, Shared)]

    def _joint(self) -> tuple[nn.ModuleList, nn.ModuleList]:
        """By layer the encodings of all seeds as one, and their parameters; none if one can not."""
        joint, learned = [], []
        for first, *others in zip(*(one.active for one in self._decoders), strict=True):
            found = first.beside(others)
            if found is None:
                return nn.ModuleList(), nn.ModuleList()
            joint.append(found)
            own = [dict(one.named_parameters()) for one in (first, *others)]
            for name, weight in found.named_parameters():
                learned.append(Shared([each[name] for each in own], weight))
        return nn.ModuleList(joint), nn.ModuleList(learned)

    def _rules(self, horizon: int) -> Rules:
        joint = [cast(Encoding, each) for each in self.joint]
        asked = [joint] if joint else [one.active for one in self._decoders]
        seeds = [[e.rule(horizon, training=self.training) for e in each] for each in asked]
        return [[each[layer % len(each)] for each in seeds] for layer in range(len(self.blocks))]

    def _embed(self, tokens: Tensor, place: Tensor) -> Tensor:
        x = self.embedding(tokens)
        if not self._adds:
            return x
        firsts = [one.active[0] for one in self._decoders]
        return torch.stack([first.embed(x[s], place) for s, first in enumerate(firsts)])
