"""beartype, for jaxtyping's import hook: the hook decorates functions one by one."""

from collections.abc import Callable
from typing import Any, Self, get_args

from beartype import BeartypeConf, beartype

# An int is a float wherever Python lets it be one (PEP 484): leaky_rerope(factor=2).
_typed = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """beartype's check of one function, `Self` taken as anything.

    beartype knows what `Self` is only where it decorates the class, which the hook does not do.
    """
    hints = getattr(function, "__annotations__", {})
    function.__annotations__ = {
        name: Any if Self in (hint, *get_args(hint)) else hint for name, hint in hints.items()
    }
    return _typed(function)
