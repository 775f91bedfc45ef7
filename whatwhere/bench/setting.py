"""An encoding placed at a case: rule, positions, visibility, and random vectors to run it on."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from whatwhere import positions as at
from whatwhere.attention import Where
from whatwhere.bench.cases import WINDOW, Case
from whatwhere.encodings import make
from whatwhere.rule import ScoreRule

__all__ = ["DEVICE", "DTYPE", "Setup", "Vectors", "setup"]

DEVICE = os.environ.get("WHATWHERE_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.bfloat16
#: Lengths of the packed documents, in 64ths of the sequence: unequal, none a multiple of another.
PARTS = (1, 2, 3, 5, 7, 11, 13, 22)


@dataclass(frozen=True)
class Setup:
    """An encoding placed at a case."""

    case: Case
    encoding: Any

    @property
    def scale(self) -> float:
        """1 / √d with d the raw width, whatever the features' is."""
        return self.case.head_dim**-0.5

    @functools.cached_property
    def documents(self) -> Tensor | None:
        """(1, n): which document each token belongs to, where there are any."""
        if self.case.mask != "documents":
            return None
        unit = self.case.length // 64
        counts = torch.tensor(PARTS, device=DEVICE) * unit
        return torch.arange(len(PARTS), device=DEVICE).repeat_interleave(counts)[None]

    @functools.cached_property
    def positions(self) -> Tensor:
        """(1, n): 0, 1, …, starting again in each document as `Decoder` lets them."""
        if self.documents is not None:
            return at.from_documents(self.documents)
        return torch.arange(self.case.length, device=DEVICE)[None]

    @functools.cached_property
    def where(self) -> Where:
        """Who sees whom; made once, as in a model."""
        n, documents = self.case.length, self.documents
        if documents is not None:
            place = self.positions
            return Where(n, n, place, place, q_documents=documents, k_documents=documents)
        window = WINDOW if self.case.mask == "window" else None
        return Where(n, n, window=window, device=DEVICE)

    def seen_by(self, rows: Tensor) -> Where:
        """The same for some of the queries, named by their index."""
        documents, place = self.documents, self.positions
        return Where(
            rows.numel(),
            self.case.length,
            place[:, rows],
            place,
            window=self.where.window,
            q_documents=None if documents is None else documents[:, rows],
            k_documents=documents,
        )

    @functools.cached_property
    def learned(self) -> list[Tensor]:
        """The encoding's parameters that gradients are wanted of."""
        return [each for each in self.encoding.parameters() if each.requires_grad]

    def rule(self) -> ScoreRule:
        """The rule at this length, made anew as in a forward pass."""
        return self.encoding.rule(self.case.length)

    def tables(self) -> tuple[Tensor, Tensor]:
        """cos and sin of all phases, for those that want them made beforehand."""
        phase = self.rule().only.key.angles.phase(self.positions)[:, None]  # type: ignore[attr-defined]
        return phase.cos(), phase.sin()


def setup(encoding: str, case: Case) -> Setup:
    """The encoding with its parameters on the device; PoPE's δ is spread over [-2π, 0]."""
    torch.manual_seed(0)
    text = "pope(delta_init=uniform)" if encoding == "pope" else encoding
    made = make(
        text,
        heads=case.heads,
        head_dim=case.width,
        kv_heads=case.kv_heads,
        width=case.heads * case.head_dim,
        train_length=case.length,
    )
    return Setup(case, made.to(DEVICE))


class Vectors:
    """Random q, k, v as projections give them, (b, n, h, d), and a gradient of the output.

    `views` are what attention takes, (b, h, n, d). by_heads stores queries and keys head after
    head, as features made for our own kernels are.
    """

    def __init__(self, case: Case, by_heads: bool = False) -> None:
        b, n, g = case.batch, case.length, case.kv_heads

        def draw(heads: int, width: int, turned: bool = False) -> Tensor:
            shape = (b, heads, n, width) if turned else (b, n, heads, width)
            return torch.randn(shape, device=DEVICE, dtype=DTYPE)

        self.by_heads = by_heads
        self.q, self.k = (draw(h, case.width, by_heads) for h in (case.heads, g))
        self.v = draw(g, case.head_dim)
        self.leaves = [x.requires_grad_() for x in (self.q, self.k, self.v)]
        self.grad = draw(case.heads, case.head_dim).transpose(1, 2)

    @property
    def views(self) -> list[Tensor]:
        """q, k, v as (b, h, n, d)."""
        q, k, v = self.leaves
        return [*(x if self.by_heads else x.transpose(1, 2) for x in (q, k)), v.transpose(1, 2)]

    def heads_first(self, grads: list[Tensor]) -> list[Tensor]:
        """Gradients of the leaves, as (b, h, n, d)."""
        dq, dk, dv = grads[:3]
        turned = [x if self.by_heads else x.transpose(1, 2) for x in (dq, dk)]
        return [*turned, dv.transpose(1, 2)]
