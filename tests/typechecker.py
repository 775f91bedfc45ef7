"""beartype, for jaxtyping's import hook: the hook decorates functions one by one."""

from collections.abc import Callable
from typing import Any, Self, get_args

from beartype import beartype


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """beartype's check of one function, `Self` taken as anything.

    beartype knows what `Self` is only where it decorates the class, which the hook does not do.
    """
    hints = getattr(function, "__annotations__", {})
    function.__annotations__ = {
        name: Any if Self in (hint, *get_args(hint)) else hint for name, hint in hints.items()
    }
    return beartype(function)
