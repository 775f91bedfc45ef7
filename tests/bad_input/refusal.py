"""How a refusal is tested: our own raise, with the argument, the value and the remedy."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import whatwhere as ww

LIBRARY = str(Path(ww.__file__).parent)
#: All that bad input may raise. UnknownName is a ValueError; jaxtyping's checks are off here.
REFUSALS = (ValueError, TypeError, ww.Unsupported)


def deliberate(error: BaseException) -> bool:
    """Whether the innermost line is a `raise` of this library, and no operation that failed."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return last.filename.startswith(LIBRARY) and (last.line or "").startswith("raise")


def refuses(call: Callable[[], Any], *words: str) -> None:
    """Assert that the call is refused with a message that contains all the words."""
    with pytest.raises(REFUSALS) as caught:
        call()
    message = str(caught.value)
    assert deliberate(caught.value), f"not our own error: {caught.value!r}"
    missing = [word for word in words if word not in message]
    assert not missing, f"{message!r} does not say {missing}"


def answers_or_refuses(call: Callable[[], Any], *also: type[Exception]) -> Any:
    """The result of the call, or None if it was refused deliberately; other errors escape."""
    try:
        return call()
    except (*REFUSALS, *also) as error:
        if not deliberate(error):
            raise AssertionError(f"an obscure error escaped: {error!r}") from error
        return None
