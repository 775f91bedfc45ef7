"""What torch.compile should know of our functions and tensors, said without importing it, and
what we should know of torch's transforms.

`torch.compiler.assume_constant_result` and `torch._dynamo.mark_static` import the whole compiler,
and with it Triton, for everyone who imports this library. What they do is to set one attribute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["constant", "static", "transformed"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def constant(function: _Function) -> _Function:
    """A graph holds this function's result; its body is never traced."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def static(x: Tensor) -> Tensor:
    """Sizes of this tensor never become symbols: another size is another graph."""
    x._dynamo_static_indices = set(range(x.dim()))  # type: ignore[attr-defined]
    return x


def transformed() -> bool:
    """Whether a transform of torch.func (vmap, grad, jvp, …) or forward-mode differentiation is at
    work: our operators have no rules for them, and torch drops their tangents without a word."""
    if torch.compiler.is_compiling():
        return False
    forward = forward_ad._current_level >= 0  # pyright: ignore[reportPrivateUsage]
    return forward or torch._C._are_functorch_transforms_active()  # pyright: ignore[reportPrivateUsage]
