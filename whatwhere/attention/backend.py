"""What a backend is, and what one call of it looks like.

A backend computes attention under a rule, or says in one sentence why it can not. Backends never
import one another and never fall back on their own: `attend` picks the first without a reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from whatwhere.attention.where import Where
from whatwhere.rule import ScoreRule

__all__ = ["Backend", "Call", "Unsupported", "learns", "repeat_heads"]


class Unsupported(NotImplementedError):
    """A named backend was asked for something it has a reason not to do."""


@dataclass(frozen=True, eq=False)
class Call:
    """One attention call, checked: shapes agree, positions are int64, GQA divides evenly.

    q (b, h, nq, d), k (b, g, nk, d), v (b, g, nk, dv) with h a multiple of g. `named` is True when
    the user asked for this backend by name, `hypothetical` when the call is only asked about and
    the machine's own equipment (a GPU, a compiler) shall not count, only what can be computed.
    """

    q: Float[Tensor, "b h nq d"]
    k: Float[Tensor, "b g nk d"]
    v: Float[Tensor, "b g nk dv"]
    where: Where
    scale: float
    dropout: float = 0.0
    named: bool = False
    hypothetical: bool = False

    @property
    def device(self) -> torch.device:
        """The device that all tensors are on."""
        return self.q.device

    @property
    def needs_grad(self) -> bool:
        """Whether autograd will want gradients of q, k or v."""
        wanted = self.q.requires_grad or self.k.requires_grad or self.v.requires_grad
        return torch.is_grad_enabled() and wanted


@runtime_checkable
class Backend(Protocol):
    """A way to compute attention under a rule."""

    name: str

    def why_not(self, rule: ScoreRule, call: Call) -> str | None:
        """None if this backend computes the call exactly, else one sentence that says why not."""
        ...

    def __call__(self, rule: ScoreRule, call: Call) -> Float[Tensor, "b h nq dv"]:
        """The attention output. Only called when `why_not` gave None."""
        ...


def learns(*parts: object) -> bool:
    """Whether a gradient is wanted of what maps, biases or temperatures of a rule hold."""
    if not torch.is_grad_enabled():
        return False
    for part in parts:
        held = part.parameters() if isinstance(part, nn.Module) else vars(part).values()
        if any(isinstance(item, Tensor) and item.requires_grad for item in held):
            return True
    return False


def repeat_heads(x: Float[Tensor, "b g n d"], heads: int) -> Float[Tensor, "b h n d"]:
    """Key or value heads repeated to `heads`: query head h reads KV head h // (heads / g).

    That is repeat_interleave, Hugging Face's order; tiling (h mod g) is a silent bug (pope.md §6).
    """
    groups = heads // x.shape[1]
    return x if groups == 1 else x.repeat_interleave(groups, dim=1)
