"""Errors that several packages share.

A name that nobody knows (an encoding, a spectrum, an option, a task) is refused with the nearest
known one: a configuration key that is silently swallowed ends up in a published figure.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UnknownName(ValueError):
    """A name that stands in no table; the message says which one was probably meant."""


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
