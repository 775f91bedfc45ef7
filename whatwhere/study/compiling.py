"""torch.compile for one training among many of a process."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, TypeVar, cast

import torch

__all__ = ["compiled"]

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function, **options: Any) -> Function:
    """`torch.compile(function, **options)` with graphs of its own.

    torch keeps eight graphs for a piece of code, whoever compiled it, and runs what would be the
    ninth uncompiled: the fifth encoding of a study would train slower than the first. A copy of
    the code has its own eight, and they go when it goes.
    """
    plain = cast(FunctionType, getattr(function, "__func__", function))
    copy = FunctionType(
        plain.__code__.replace(),
        plain.__globals__,
        plain.__name__,
        plain.__defaults__,
        plain.__closure__,
    )
    copy.__kwdefaults__ = plain.__kwdefaults__
    own = copy if plain is function else MethodType(copy, cast(Any, function).__self__)
    return cast(Function, torch.compile(own, **options))
