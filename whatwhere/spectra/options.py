"""What an option of a spectrum may be: annotated types whose metadata check and normalise a value.

A spectrum writes ``base: Base = 10000.0`` in its signature and the check comes with it, so options
of one name mean one thing everywhere. A check takes a value, returns it in the form that is stored
(a float, an int, a tuple: hashable, so that a spectrum can be a cache key), or raises ValueError
saying what would be right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from operator import index
from typing import Annotated, Any, Literal

Check = Callable[[Any], Any]


def number(
    low: float | int, *, open_end: bool = False, words: tuple[str, ...] = (), none: bool = False
) -> Check:
    """A finite number from `low` up (above it if `open_end`), or one of `words`, or None."""
    bound = f"above {low:g}" if open_end else f"of at least {low:g}"
    wanted = " or ".join([f"a finite number {bound}", *map(repr, words), *["None"] * none])

    def check(value: Any) -> float | str | None:
        if (none and value is None) or (isinstance(value, str) and value in words):
            return value
        # True is a Real to Python and would pass as 1.
        if type(value) is not bool and isinstance(value, Real) and math.isfinite(value):
            result = float(value)
            if result > low or (result == low and not open_end):
                return result
        raise ValueError(f"must be {wanted}")

    return check


def whole(low: int, *, none: bool = False) -> Check:
    """An integer from `low` up, or None; a float is refused even when it is integral."""

    def check(value: Any) -> int | None:
        if none and value is None:
            return None
        try:
            result = -1 if isinstance(value, bool) else index(value)
        except TypeError:
            result = -1
        if result < low:
            raise ValueError(f"must be a whole number of at least {low}" + " or None" * none)
        return result

    return check


def choice(*allowed: Any) -> Check:
    """One of the values `allowed`; 1 is not True."""

    def check(value: Any) -> Any:
        if any(type(value) is type(item) and value == item for item in allowed):
            return value
        raise ValueError(f"must be {' or '.join(map(repr, allowed))}")

    return check


def per_frequency(*, none: bool = False) -> Check:
    """A sequence of positive finite numbers, one per frequency; lists become tuples."""
    positive = number(0.0, open_end=True)

    def check(value: Any) -> tuple[float, ...] | None:
        if none and value is None:
            return None
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise ValueError("must be a list of positive numbers, one per frequency")
        try:
            return tuple(positive(item) for item in value)
        except ValueError as error:
            raise ValueError(f"must hold positive finite numbers only: each {error}") from None

    return check


Base = Annotated[float, number(1.0, open_end=True)]
"""b in theta_i = b^(-2i/d). At b = 1 all frequencies are equal, below it they grow: refused."""

Factor = Annotated[float | Literal["dynamic"] | None, number(1.0, words=("dynamic",), none=True)]
"""s, how much longer than trained. None: horizon / train_length. "dynamic": max(1, that)."""

AtLeastOne = Annotated[float, number(1.0)]
Positive = Annotated[float, number(0.0, open_end=True)]
PositiveOrNone = Annotated[float | None, number(0.0, open_end=True, none=True)]
Tokens = Annotated[int, whole(1)]
"""A length in tokens, such as train_length: the length the model was *trained* at, not its
extended one (`max_position_embeddings` means either, depending on the checkpoint)."""
TokensOrNone = Annotated[int | None, whole(1, none=True)]
Count = Annotated[int, whole(0)]
Flag = Annotated[bool, choice(True, False)]
Ramp = Annotated[Literal["code", "paper"], choice("code", "paper")]
Factors = Annotated[Sequence[float], per_frequency()]
FactorsOrNone = Annotated[Sequence[float] | None, per_frequency(none=True)]
Attention = Annotated[
    float | Literal["su", "yarn"], number(0.0, open_end=True, words=("su", "yarn"))
]


def scale(factor: float | str | None, train_length: int | None, horizon: int) -> float:
    """The number s that `factor` stands for: itself, horizon / train_length, or max(1, that)."""
    if isinstance(factor, float | int):
        return float(factor)
    if train_length is None:
        raise ValueError("without a number as factor, train_length must be given")
    if factor == "dynamic":
        return max(1.0, horizon / train_length)
    if horizon < train_length:
        raise ValueError(
            f"factor=None means horizon / train_length, which is below 1 here: horizon={horizon}, "
            f"train_length={train_length}. Give factor=1, or factor='dynamic' for max(1, ratio)"
        )
    return horizon / train_length
