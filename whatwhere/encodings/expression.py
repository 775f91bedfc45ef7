"""Encodings as text: `pope(delta_init=uniform)+dual_chunk+logn`.

    expression = part ("+" part)*        part = name [ "(" [part,] option "=" value, … ")" ]

What stands before the first "+" is an encoding, everything after it a modifier: a wrapper (rerope,
dual_chunk, logn, …) or a spectrum (yarn, ntk, …), which replaces the encoding's own. In studies the
encoding is trained and the modifiers are applied at evaluation only. To train with a spectrum write
it inside, with a wrapper around: `rope(spectrum=yarn(factor=8))`, `inverse_leaky_rerope(rope)`.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

from whatwhere import spectra
from whatwhere.encodings.table import TABLE, encodings, modifiers
from whatwhere.errors import UnknownName, did_you_mean

__all__ = ["Expression", "Part", "parse"]


@dataclass(frozen=True)
class Part:
    """A name with the options that were written out, in their order, and what it wraps."""

    name: str
    options: tuple[tuple[str, Any], ...] = ()
    inner: Part | None = None

    def __str__(self) -> str:
        inner = [] if self.inner is None else [str(self.inner)]
        written = [*inner, *(f"{key}={_shown(value)}" for key, value in self.options)]
        return f"{self.name}({','.join(written)})" if written else self.name


@dataclass(frozen=True)
class Expression:
    """An encoding and its modifiers, as parsed. str() gives the canonical text."""

    parts: tuple[Part, ...]

    @property
    def trained(self) -> str:
        """The text of what a study trains: everything before the first "+"."""
        return str(self.parts[0])

    @property
    def base(self) -> Part:
        """The part before the first "+"."""
        return self.parts[0]

    @property
    def modifiers(self) -> tuple[Part, ...]:
        """The parts after the first "+"."""
        return self.parts[1:]

    @property
    def text(self) -> str:
        """The canonical text."""
        return str(self)

    def __str__(self) -> str:
        return "+".join(map(str, self.parts))


def parse(text: str) -> Expression:
    """The expression that a text stands for.

    Raises UnknownName (a ValueError) for unknown names and options, with the nearest known ones,
    and ValueError for text that is no expression. Values are checked when the encoding is built.
    """
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"an encoding is a text such as 'rope' or 'pope+yarn', not {text!r}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:  # a null byte: ValueError in Python 3.11.2
        place = f" near column {error.offset}" if isinstance(error, SyntaxError) else ""
        raise ValueError(
            f"can not read encoding {text!r}{place}; write "
            "name(option=value,…)+modifier(option=value,…)"
        ) from None
    parts = tuple(_part(node, text) for node in _summands(tree))
    _check_base(parts[0])
    for part in parts[1:]:
        if part.name not in modifiers() and part.name not in spectra.TABLE:
            known = [*modifiers(), *spectra.TABLE]
            raise UnknownName(did_you_mean("modifier", part.name, known))
        if part.inner is not None:
            raise ValueError(f"{part.name!r} after a '+' wraps what stands before it, not {part}")
        _check_options(part)
    return Expression(parts)


def _check_base(part: Part) -> None:
    """What is trained: an encoding, or a wrapper written around one, name(encoding, …)."""
    name = part.name
    if part.inner is not None:
        if name not in modifiers():
            raise ValueError(f"{name!r} wraps nothing: options go by name, option=value")
        _check_base(part.inner)
    elif name in modifiers():
        raise UnknownName(
            f"{name!r} modifies another encoding: write 'rope+{name}' to apply it at evaluation, "
            f"'{name}(rope)' to train with it"
        )
    elif name in spectra.TABLE:
        raise UnknownName(
            f"{name!r} modifies another encoding: write 'rope+{name}' to apply it at evaluation, "
            f"'rope(spectrum={name})' to train with it"
        )
    elif name not in encodings():
        raise UnknownName(did_you_mean("encoding", name, encodings()))
    _check_options(part)


def _summands(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [*_summands(node.left), *_summands(node.right)]
    return [node]


def _part(node: ast.expr, text: str) -> Part:
    if isinstance(node, ast.Name):
        return Part(node.id)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        name = node.func.id
        if len(node.args) > 1 or any(not isinstance(x, ast.Name | ast.Call) for x in node.args):
            raise ValueError(f"options of {name!r} in {text!r} go by name: option=value")
        if any(item.arg is None for item in node.keywords):
            raise ValueError(f"{text!r} has '**'; write the options out: option=value")
        keys = [(i.arg, _value(i.value, text, i.arg)) for i in node.keywords if i.arg]
        inner = _part(node.args[0], text) if node.args else None
        return Part(name, tuple(keys), inner)
    raise ValueError(
        f"{ast.unparse(node)!r} in {text!r} is no encoding: write name(option=value,…)"
    )


def _value(node: ast.expr, text: str, option: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if isinstance(node, ast.Name):
        lowered = node.id.lower()
        if lowered in words and node.id not in spectra.TABLE:
            return words[lowered]
        # longrope(attention_factor=yarn) means the word.
        return Part(node.id) if option == "spectrum" and node.id in spectra.TABLE else node.id
    if isinstance(node, ast.Call):
        return _part(node, text)
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError):
        raise ValueError(f"can not read the value {ast.unparse(node)!r} in {text!r}") from None
    return tuple(value) if isinstance(value, list) else value


def _check_options(part: Part) -> None:
    if part.name in spectra.TABLE:
        known = list(spectra.TABLE[part.name].parameters)
    else:
        known = option_names(part.name)
    for key, value in part.options:
        if key not in known:
            raise UnknownName(did_you_mean(f"option of {part.name}", key, known))
        if isinstance(value, Part):
            if value.name not in spectra.TABLE:
                raise UnknownName(did_you_mean("spectrum", value.name, spectra.TABLE))
            _check_options(value)


def option_names(name: str) -> list[str]:
    """Options of an encoding or wrapper, from its signature."""
    import inspect

    parameters = inspect.signature(TABLE[name].kind.__init__).parameters
    return [key for key in parameters if key not in ("self", "shape", "inner")]


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ",".join(map(_shown, value)) + "]"
    return str(value)
