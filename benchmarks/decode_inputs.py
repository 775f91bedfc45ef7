"""What the decode benchmark decodes: shapes, caches, their turned copies and the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from whatwhere.attention import Call, Where
from whatwhere.attention.reference import Reference
from whatwhere.maps import Polar, Rotate
from whatwhere.phases import Angles, to_turns
from whatwhere.regions import EVERYWHERE
from whatwhere.rule import ScoreRule, Term

DEVICE, DTYPE = "cuda", torch.bfloat16
BYTES = 1 << 29  # of one cache's keys and values, at least: nine times the L2
ROTATING = 3  # caches gone through in turn


@dataclass(frozen=True)
class Case:
    """One shape; as many sequences as make half a gigabyte of keys and values."""

    heads: int
    kv_heads: int
    head_dim: int
    length: int

    @property
    def batch(self) -> int:
        per_token = self.kv_heads * self.head_dim * 2 * 2
        return max(1, BYTES // (per_token * self.length))

    @property
    def bytes(self) -> int:
        return self.batch * self.length * self.kv_heads * self.head_dim * 2 * 2


CASES = [
    *(Case(32, 8, 128, n) for n in (32768, 131072, 4096, 524288)),
    *(Case(32, 32, 64, n) for n in (32768, 4096, 131072, 524288)),
]


def angles(count: int) -> Angles:
    turns = to_turns([500000.0 ** (-c / count) for c in range(count)])
    return Angles(torch.tensor(turns, device=DEVICE))


def rules(case: Case) -> dict[str, ScoreRule]:
    """RoPE and PoPE with a δ of its own in each query head."""
    d = case.head_dim
    rope, still = Rotate(angles(d // 2)), Polar(angles(d))
    generator = torch.Generator(DEVICE).manual_seed(7)
    offset = -2 * math.pi * torch.rand(case.heads, d, device=DEVICE, generator=generator)
    pope = Polar(still.angles, "softplus", offset)
    return {
        "rope": ScoreRule((Term(rope, rope, EVERYWHERE),)),
        "pope": ScoreRule((Term(pope, still, EVERYWHERE),)),
    }


class Inputs:
    """The caches, raw, and what turning them gives; features are stored before any timing."""

    def __init__(self, case: Case) -> None:
        self.case, self.rules = case, rules(case)
        b, n, d = case.batch, case.length, case.head_dim
        self.at = torch.full((1, 1), n - 1, device=DEVICE)
        self.positions = torch.arange(n, device=DEVICE)[None]
        generator = torch.Generator(DEVICE).manual_seed(case.length)

        def draw(heads: int, tokens: int) -> Tensor:
            shape = (b, heads, tokens, d)
            return torch.randn(shape, device=DEVICE, generator=generator, dtype=DTYPE)

        self.q = draw(case.heads, 1)
        self.keys = [draw(case.kv_heads, n) for _ in range(ROTATING)]
        self.values = [draw(case.kv_heads, n) for _ in range(ROTATING)]
        self.scale = 1 / math.sqrt(d)
        self._turned: dict[str, tuple[Tensor, list[Tensor]]] = {}
        self._contents: dict[str, list[Tensor]] = {}

    def turned(self, encoding: str) -> tuple[Tensor, list[Tensor]]:
        """Features of the query and of every cache, row by row: a whole one needs float32 room."""
        if encoding in self._turned:
            return self._turned[encoding]
        term = self.rules[encoding].only
        caches = []
        for keys in self.keys:
            width = term.key.width(self.case.head_dim)
            out = keys.new_empty(*keys.shape[:3], width)
            for row in range(keys.shape[0]):
                out[row] = term.key(keys[row, None], self.positions)[0]
            caches.append(out)
        self._turned[encoding] = term.query(self.q, self.at), caches
        return self._turned[encoding]

    def contents(self, encoding: str) -> list[Tensor]:
        """What `KVCache` holds under the encoding: keys, or their magnitudes."""
        content = self.rules[encoding].content
        if encoding not in self._contents:
            self._contents[encoding] = [content(keys) for keys in self.keys]
        return self._contents[encoding]

    def truth(self, encoding: str, row: int) -> Tensor:
        """One sequence of the first cache by the definition, KV head by KV head in float64."""
        group, outs = self.case.heads // self.case.kv_heads, []
        rule = self.rules[encoding]
        where = Where(1, self.case.length, self.at[0], self.positions[0])
        for head in range(self.case.kv_heads):
            rows = slice(head * group, (head + 1) * group)
            one = slice(head, head + 1)
            query = rule.only.query
            if isinstance(query, Polar):
                query = Polar(query.angles, query.magnitude, query.offset[rows])
            part = ScoreRule((Term(query, rule.only.key, EVERYWHERE),))
            vectors = (
                self.q[row, None, rows],
                self.keys[0][row, None, one],
                self.values[0][row, None, one],
            )
            call = Call(*(x.double() for x in vectors), where, self.scale)
            outs.append(Reference()(part, call))
        return torch.cat(outs, 1)[0]
