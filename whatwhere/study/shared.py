"""Weights of several models in one tensor, and the layers that use them: a product for all.

Each model keeps its parameter, a view of the shared one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["Linear", "Norm", "Shared", "Table", "aligned", "product"]

PADDED = frozenset({"cuda"})
"""Devices whose 16-bit products want rows that begin at multiples of 16 bytes."""
LARGE = 4096
"""Outputs from which on padding them costs next to nothing."""


class _Product(torch.autograd.Function):
    """x Wᵀ, whose gradient of W lies as W does.

    Autograd's own comes out transposed, and giving it W's layout took a tenth of a step of indirect
    indexing (950 of 10,330 microseconds, five seeds, one H200).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, more: int) -> Tensor:
        dtype = _working(x)
        narrow, used = x.to(dtype), weight.to(dtype)
        if more:
            used = F.pad(used, (0, 0, 0, more))
        ctx.save_for_backward(narrow, used)
        ctx.dtypes, ctx.outputs = (x.dtype, weight.dtype), weight.shape[1]
        return torch.bmm(narrow, used.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,), (narrow, used), (of_x, of_weight) = grads, ctx.saved_tensors, ctx.dtypes
        to_x = torch.bmm(grad, used)
        to_weight = torch.bmm(grad.transpose(1, 2), narrow)
        if to_weight.shape[1] > ctx.outputs:
            to_weight = to_weight[:, : ctx.outputs]
        return to_x.to(of_x), to_weight.to(of_weight), None


def _working(x: Tensor) -> torch.dtype:
    """What products of x are computed in."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def product(
    x: Float[Tensor, "s t i"], weight: Float[Tensor, "s o i"], outputs: int | None = None
) -> Float[Tensor, "s t more"]:
    """y[s] = x[s] W[s]ᵀ in x's dtype, under autocast in autocast's.

    With `outputs`, so many: those that W has no rows for are 0.
    """
    more = 0 if outputs is None else outputs - weight.shape[1]
    return cast(Tensor, _Product.apply(x, weight, more))


def aligned(outputs: int, x: Tensor) -> int:
    """How many outputs a product of x should have to be fast, `outputs` or a few more.

    GPT-2's 50,257 tokens are odd: rows of 16-bit logits then begin at odd multiples of 2 bytes,
    which no fast kernel reads or writes. In multiples of 64, as GPTs usually are (50,304).
    """
    wide = outputs >= LARGE and x.device.type in PADDED and _working(x).itemsize == 2
    return -(-outputs // 64) * 64 if wide and outputs % 8 else outputs


class Shared(nn.Module):
    """A weight of shape (S, …) whose slices are the parameters of S models."""

    def __init__(self, each: Sequence[Tensor], weight: nn.Parameter | None = None) -> None:
        super().__init__()
        self.each = each
        if weight is None:
            weight = nn.Parameter(torch.stack([one.detach() for one in each]))
        self.weight = weight
        self.link()

    def link(self) -> None:
        """Make each model's parameter a view of this weight."""
        for each, view in zip(self.each, self.weight.detach().unbind(0), strict=True):
            each.data = view

    def share_gradient(self) -> None:
        """Give each model's parameter its slice of the gradient."""
        slices = [None] * len(self.each) if self.weight.grad is None else self.weight.grad.unbind(0)
        for each, gradient in zip(self.each, slices, strict=True):
            each.grad = gradient


class _Of(Shared):
    """As `Shared`, of the weights of modules."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__([cast(nn.Parameter, module.weight) for module in modules])


class Linear(_Of):
    """y[s] = x[s] W[s]ᵀ, (S, tokens, in) -> (S, tokens, out)."""

    def forward(self, x: Float[Tensor, "s t i"]) -> Float[Tensor, "s t o"]:
        return product(x, self.weight)


class Norm(_Of):
    """RMSNorm over the last axis with a gain a seed."""

    def __init__(self, modules: Sequence[nn.RMSNorm]) -> None:
        super().__init__(modules)
        self.eps = modules[0].eps

    def forward(self, x: Float[Tensor, "s *rest w"]) -> Float[Tensor, "s *rest w"]:
        gain = self.weight.view(len(x), *[1] * (x.dim() - 2), -1)
        return F.rms_norm(x, x.shape[-1:], None, self.eps) * gain


class Table(_Of):
    """Token embeddings, (S, …) int64 -> (S, …, width)."""

    def forward(self, tokens: Int[Tensor, "s *rest"]) -> Float[Tensor, "s *rest w"]:
        seeds, rows, _ = self.weight.shape
        first = torch.arange(0, seeds * rows, rows, device=tokens.device)
        first = first.view(seeds, *[1] * (tokens.dim() - 1))
        return F.embedding(tokens + first, self.weight.flatten(0, 1))
