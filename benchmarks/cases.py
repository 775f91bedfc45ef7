"""What is measured, as data: shapes, and which implementation runs at which of them, in order.

Constant work: 32,768 tokens a call (one sequence where it is longer), hidden size 2,048, bfloat16,
causal. The order is the order of importance: a budget cuts the end off.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

DEVICE = os.environ.get("WHATWHERE_DEVICE", "cuda")
HIDDEN = 2048
TOKENS = 32768


@dataclass(frozen=True)
class Case:
    """One shape of attention."""

    head_dim: int
    length: int
    grouped: int = 1
    tokens: int = TOKENS

    @property
    def heads(self) -> int:
        return HIDDEN // self.head_dim

    @property
    def kv_heads(self) -> int:
        return self.heads // self.grouped

    @property
    def batch(self) -> int:
        return max(1, self.tokens // self.length)

    def __str__(self) -> str:
        grouped = f" gqa{self.grouped}" if self.grouped > 1 else ""
        return f"d{self.head_dim} n{self.length}{grouped}"


def cases(lengths: tuple[int, ...], grouped: int = 1) -> list[Case]:
    """Both head sizes at every length."""
    return [Case(d, n, grouped) for n in lengths for d in (64, 128)]


MAIN = cases((4096, 16384, 1024))
GROUPED = cases((4096,), grouped=4)
FURTHER = cases((2048, 8192, 32768, 65536)) + cases((16384, 1024), grouped=4)

#: (implementations, cases): earlier lines matter more.
PLAN: list[tuple[tuple[str, ...], list[Case]]] = [
    (("rope_cudnn", "pope_fused"), MAIN + GROUPED),
    (("rope_compiled_cudnn", "pope_expand_cudnn"), MAIN + GROUPED),
    (("rope_fused", "pope_lean"), MAIN),
    (("rope_fa2",), MAIN),
    (("pope_package",), cases((4096, 1024))),
    (("rope_flex", "pope_flex"), cases((4096, 16384))),
    (("pope_flash",), cases((4096,))),
    (("rope_cudnn", "pope_fused"), FURTHER),
    (("rope_flex", "pope_flex"), cases((1024,))),
]
