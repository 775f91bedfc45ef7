"""Errors and checks that several packages share.

A name that nobody knows (an encoding, a spectrum, an option, a task) is refused with the nearest
known one: a configuration key that is silently swallowed ends up in a published figure.
A value is checked where it enters, so that the error names it, not the line that failed on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

FAULTS = (ValueError, TypeError, RuntimeError, MemoryError, AssertionError)
"""What an encoding, a size or the memory of a machine can raise in the middle of a run: it becomes
the error of a row, and the others go on. torch.compile's checks of what it was promised are
assertions, attention's of dtypes are type errors."""


class UnknownName(ValueError):
    """A name that stands in no table; the message says which one was probably meant."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says, for a row or a line of output; its class if nothing."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def did_you_mean(kind: str, name: object, known: Iterable[str]) -> str:
    """The sentence for an unknown name: ``unknown spectrum 'yarm'; did you mean 'yarn'? Known: …``.

    `kind` is the word for what was asked for ("spectrum", "option of yarn"), `known` the names
    that exist. It only builds the text; the caller raises it:
    ``raise UnknownName(did_you_mean("spectrum", name, TABLE))``.
    """
    names = sorted(known)
    text = f"unknown {kind} {name!r}"
    close = get_close_matches(str(name), names, n=1, cutoff=0.5)
    if close:
        text += f"; did you mean {close[0]!r}?"
    elif names:
        text += "."
    else:
        return text + "; there are none."
    return f"{text} Known: {', '.join(names)}"


def whole_number(name: str, value: Any, least: int | None = 1) -> int:
    """The value as an int. True is no 1 and 8.0 no 8 here: both are slips, not sizes.

    Raises TypeError for what is no integer, ValueError below `least` (None: any will do).
    """
    wanted = "a whole number" + ("" if least is None else f" of at least {least}")
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} is {value!r}; it must be {wanted}")
    number = int(value)
    if least is not None and number < least:
        raise ValueError(f"{name} is {value}; it must be {wanted}")
    return number


def real_number(
    name: str,
    value: Any,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: float = -math.inf,
    why: str = "",
) -> float:
    """The value as a float, finite, within [least, most] and larger than `above`.

    Raises TypeError for what is no number, ValueError outside; `why` ends the message.
    """
    bounds = [f"at least {least:g}"] * (least > -math.inf) + [f"at most {most:g}"] * (
        most < math.inf
    )
    bounds += [f"above {above:g}"] * (above > -math.inf)
    wanted = f"a finite number{' ' * bool(bounds)}{' and '.join(bounds)}{why and '; ' + why}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} is {value!r}; it must be {wanted}")
    number = float(value)
    # No math.isfinite: torch.compile(dynamic=True) makes numbers symbolic and can not trace it.
    if not (abs(number) < math.inf and least <= number <= most and number > above):
        raise ValueError(f"{name} is {value}; it must be {wanted}")
    return number


def probability(name: str, value: Any) -> float:
    """The value as a float in [0, 1): a dropout. Raises TypeError or ValueError."""
    number = real_number(name, value)
    if not 0.0 <= number < 1.0:
        raise ValueError(f"{name} is {value}; give a probability in [0, 1)")
    return number


def flag(name: str, value: Any) -> bool:
    """True or False itself: "no" and 2 are true to Python. Raises TypeError for all else."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; give True or False")
    return value


def kind_of(value: Any) -> str:
    """What a value is, in words: shape and dtype of a tensor or array, else its type's name."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        kind = "an array" if type(value).__module__ == "numpy" else "a tensor"
        return f"{kind} of shape {tuple(value.shape)} and dtype {value.dtype}"
    return type(value).__name__


def changes(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What differs between a configuration that was kept and one that is asked for, by key."""
    return [
        f"{key} was {found.get(key)!r} and is now {wanted.get(key)!r}"
        for key in dict.fromkeys([*found, *wanted])
        if found.get(key) != wanted.get(key)
    ]
