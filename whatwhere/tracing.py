"""What torch.compile should know of our functions and tensors, said without importing it.

`torch.compiler.assume_constant_result` and `torch._dynamo.mark_static` import the whole compiler,
and with it Triton, for everyone who imports this library. What they do is to set one attribute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

__all__ = ["constant", "static"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def constant(function: _Function) -> _Function:
    """A graph holds this function's result; its body is never traced."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def static(x: Tensor) -> Tensor:
    """Sizes of this tensor never become symbols: another size is another graph."""
    x._dynamo_static_indices = set(range(x.dim()))  # type: ignore[attr-defined]
    return x
