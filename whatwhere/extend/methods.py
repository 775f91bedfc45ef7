"""The methods that are set side by side: a name, the modifiers it stands for, what it asks for.

A method is a text: names joined by "+" ("yarn", "ntk+logn", "yarn+dual_chunk"), an expression that
begins with "rope", or the result.json of `whatwhere search`. It is made for one target length.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from whatwhere import spectra
from whatwhere.encodings import Expression, Part, parse
from whatwhere.errors import UnknownName, did_you_mean, real_number

__all__ = ["ALL", "DEFAULT", "Form", "Made", "form_of", "make"]

#: name of a method -> its modifier ("" for none)
NAMES = {
    "none": "",
    "pi": "linear",
    "ntk": "ntk",
    "dynamic_ntk": "dynamic_ntk",
    "by_parts": "by_parts",
    "yarn": "yarn",
    "llama3": "llama3",
    "abf": "abf",
    "rerope": "rerope",
    "leaky_rerope": "leaky_rerope",
    "self_extend": "self_extend",
    "dual_chunk": "dual_chunk",
    "logn": "logn",
}
DEFAULT = (
    *("none", "pi", "ntk", "dynamic_ntk", "by_parts", "yarn", "llama3", "abf"),
    *("rerope", "leaky_rerope", "self_extend", "dual_chunk"),
    *("none+logn", "ntk+logn", "yarn+logn", "rerope+logn", "dual_chunk+logn", "yarn+dual_chunk"),
)
ALL = tuple(DEFAULT)


@dataclass(frozen=True)
class Made:
    """A method for one target: the name it was asked by, and the expression that stands for it."""

    method: str
    expression: str


@dataclass(frozen=True)
class Form:
    """What a method costs and where it runs.

    terms: products of queries and keys per pair of tokens (1: what the model computes anyway).
    parameters: `rope_parameters` for plain transformers, or None and `reason`. vllm: why vLLM does
    not compute the same from them, "" if it does.
    """

    terms: int
    parameters: dict[str, Any] | None
    reason: str
    vllm: str


def make(method: str, factor: float, train_length: int) -> Made:
    """The expression of a method for factor times the trained length.

    A factor that a spectrum takes is filled in, so that equal expressions are equal computations;
    Self-Extend's group and Leaky ReRoPE's factor become the least power of two that reaches.
    Raises UnknownName or ValueError for what is no method, ValueError for a factor below 1.
    """
    real_number("factor", factor, least=1, why="it is target / trained length")
    if method.endswith(".json"):
        return Made(*_searched(Path(method)))
    text = method if method.startswith("rope") else _expression(method)
    expression = parse(text)
    parts = [_filled(part, factor, train_length) for part in expression.modifiers]
    return Made(method, str(replace(expression, parts=(expression.base, *parts))))


def form_of(expression: str, config: Any, encoding: Any) -> Form:
    """What the expression asks of whoever runs it, for a model's config; see `Form`."""
    from whatwhere import hf
    from whatwhere.hf.architectures import architecture_of

    terms = max(1, len(encoding.rule(2).terms))
    try:
        parameters = hf.to_rope_parameters(expression, config)
    except ValueError as error:
        return Form(terms, None, str(error), str(error))
    each = [parameters] if "rope_type" in parameters else list(parameters.values())
    layout = architecture_of(config).layout
    reasons = [reason for one in each if (reason := _unlike(one, layout))]
    return Form(terms, parameters, "", reasons[0] if reasons else "")


def _unlike(parameters: dict[str, Any], layout: str) -> str:
    """What vLLM makes of them where it differs from transformers: vLLM 0.33, see docs/vllm.md."""
    kind = parameters["rope_type"]
    if kind == "dynamic":
        return "vLLM turns by the plain frequencies, and ends at the trained length"
    if kind == "proportional" and parameters["factor"] != 1:
        return "vLLM does not read the factor of rope_type 'proportional'"
    if kind == "longrope" and layout == "interleaved":
        return "vLLM refuses rope_type 'longrope' for interleaved channels"
    if kind == "longrope" and parameters["short_factor"] != parameters["long_factor"]:
        return "vLLM turns short texts by long_factor too (search without --recover)"
    return ""


def check(methods: Sequence[str], factor: float, train_length: int) -> None:
    """Raise what `make` would raise for any of them, and ValueError for an empty list."""
    if not methods:
        raise ValueError("--methods names no method; give some, such as none,ntk,yarn")
    for method in methods:
        make(method, factor, train_length)


def _expression(method: str) -> str:
    names = [name.strip() for name in method.split("+")]
    for name in names:
        if name.split("(")[0] not in {*NAMES, *spectra.TABLE}:
            raise UnknownName(did_you_mean("method", name, NAMES))
    chosen = [NAMES.get(name, name) for name in names]
    return "+".join(["rope", *(name for name in chosen if name)])


def _filled(part: Part, factor: float, train_length: int) -> Part:
    given = dict(part.options)
    family = spectra.TABLE.get(part.name)
    if family is not None:
        needs = "factor" in family.parameters and family.parameters["factor"] is None
        needs = needs or family.parameters.get("factor") is family.REQUIRED
        if needs and "factor" not in given:
            given["factor"] = _short(factor)
    elif part.name == "self_extend" and "group" not in given:
        given["group"] = _reaching(factor, train_length, given.get("window"))
    elif part.name == "leaky_rerope" and "factor" not in given:
        given["factor"] = _reaching(factor, train_length, given.get("window"))
    return replace(part, options=tuple(given.items()))


def _reaching(factor: float, train_length: int, window: int | None) -> int:
    """The least power of two k with window + (target - window) / k within the trained length."""
    near = window or max(1, train_length // 4)
    room, group = max(1, train_length - near), 1
    while group * room < factor * train_length - near:
        group *= 2
    return group


def _short(factor: float) -> float | int:
    return int(factor) if float(factor).is_integer() else factor


def _searched(path: Path) -> tuple[str, str]:
    if not path.is_file():
        raise FileNotFoundError(f"--methods names {path}, and there is no such file")
    try:
        found = json.loads(path.read_text())
        text = found["expression"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{path} is no result of `whatwhere search`: no expression in it"
        ) from None
    name = found.get("name", path.stem)
    # Results for several lengths stand side by side: each says which length it was searched for.
    searched = found.get("factor")
    return name if searched is None else f"{name}@{searched:g}x", str(parse(text))


__all__ += ["Expression", "check"]
