"""From what the user asks for to one encoding per layer, checked before anything changes.

"rope" means the model's own: its base, scaling, layout and partial rotation, read from its config.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from whatwhere.encodings import (
    TABLE,
    Context,
    Encoding,
    Expression,
    NoPE,
    Part,
    RoPE,
    Shape,
    Wrapper,
    build,
    parse,
)
from whatwhere.errors import UnknownName, did_you_mean
from whatwhere.hf.read import expressions_of
from whatwhere.hf.sizes import layer_types, parameters_of, shape_of, train_length_of

__all__ = ["Choice", "Wanted", "choose", "encodings_of"]

Wanted = str | Expression | Encoding | Mapping[str, Any] | None


@dataclass(frozen=True)
class Choice:
    """What one layer type gets: the expression (None for a ready encoding), and the encoding."""

    expression: Expression | None
    encoding: Encoding


def choose(
    config: Any, wanted: Wanted, train_length: int | None = None, factor: float | None = None
) -> dict[str, Choice]:
    """The choice for every layer type.

    A text goes to all layers; where the config keeps rope_parameters per type, to those without a
    window (a window shorter than the trained length needs no extension). A dict names types.
    Raises UnknownName, TypeError or ValueError naming what was wrong.
    """
    own, shape = expressions_of(config), shape_of(config)
    written = parameters_of(config)
    types = list(dict.fromkeys(layer_types(config)))
    asked = _by_type(wanted, types, nested="" not in own)
    found: dict[str, Choice] = {}
    for name in types:
        text = own.get(name) or own[""]
        trained = (
            train_length
            if train_length is not None
            else train_length_of(config, written.get(name) or written[""])
        )
        context = Context(trained, factor)
        found[name] = _choice(asked.get(name), text, shape, context)
        check(found[name].encoding, shape, trained)
    return found


def _by_type(wanted: Wanted, types: list[str], nested: bool) -> dict[str, Any]:
    if wanted is None:
        return {}
    if not isinstance(wanted, Mapping):
        open_types = [name for name in types if "sliding" not in name] or types
        return dict.fromkeys(open_types if nested else types, wanted)
    for name in wanted:
        if name not in types:
            raise UnknownName(did_you_mean("layer type of this model", name, types))
    return dict(wanted)


def _choice(wanted: Any, own: str, shape: Shape, context: Context) -> Choice:
    if isinstance(wanted, Encoding):
        return Choice(None, wanted)
    if wanted is not None and not isinstance(wanted, str | Expression):
        raise TypeError(
            f"encoding is {type(wanted).__name__}; give a text such as 'rope+yarn(factor=4)', an "
            "Encoding, or a dict of them by layer type"
        )
    base = parse(own)
    expression = base if wanted is None else parse(wanted) if isinstance(wanted, str) else wanted
    expression = replace(
        expression, parts=(_own(expression.base, base.base), *expression.parts[1:])
    )
    return Choice(expression, build(expression, shape, context))


def _own(part: Part, own: Part) -> Part:
    """The base part with the options of the model's own rotation where none are written."""
    if part.inner is not None:
        return replace(part, inner=_own(part.inner, own))
    if TABLE[part.name].kind is not RoPE:
        return part
    preset, given, trained = TABLE[part.name].preset, dict(part.options), dict(own.options)
    layout = trained.get("layout", "half")
    if given.get("layout", layout) != layout:
        raise ValueError(
            f"layout is {given['layout']!r}, and this checkpoint pairs its channels {layout!r}: "
            "with the other layout its weights mean nothing"
        )
    options = {key: value for key, value in trained.items() if key not in preset} | given
    if "spectrum" in preset and "spectrum" not in given:
        options["spectrum"] = _with_base(preset["spectrum"], trained["spectrum"])
    return Part(part.name, tuple(options.items()))


def _with_base(preset: Any, trained: Part) -> Part:
    """A preset spectrum (abf, proportional) over the base that the model was trained with."""
    base = dict(trained.options).get("base", 10000.0)
    options = dict(preset.options) | {"base": base}
    if trained.name != "geometric":
        raise ValueError(
            f"{preset.name} replaces a plain spectrum, and this model's own is {trained}: write "
            "rope(spectrum=…) to replace it knowingly"
        )
    return Part(preset.name, tuple((key, value) for key, value in options.items()))


def check(encoding: Encoding, shape: Shape, train_length: int) -> None:
    """Raise ValueError for an encoding that this attention can not have; run its rule once."""
    ours, theirs = encoding.shape, shape
    for name in ("heads", "groups", "head_dim"):
        if getattr(ours, name) != getattr(theirs, name):
            told = "kv_heads" if name == "groups" else name
            raise ValueError(
                f"the encoding was made for {told} {getattr(ours, name)}, and this model has "
                f"{getattr(theirs, name)}"
            )
    inner = encoding
    while isinstance(inner, Wrapper):
        inner = inner.inner
    if type(inner).embed is not Encoding.embed:
        raise ValueError(
            f"{inner.name} adds to the token embeddings, and this model was trained without; "
            "only encodings that act in attention can be swapped"
        )
    # Text of any length must have a rule: a factor left open is refused below the trained length.
    for horizon in (1, train_length):
        encoding.rule(horizon)


def encodings_of(
    choices: Mapping[str, Choice], types: list[str], rotates: list[bool], shape: Shape
) -> tuple[list[Encoding], list[int]]:
    """The different encodings, and which of them each layer has.

    Layers that do not rotate (SmolLM3) keep no positions. An encoding that learns per layer is
    copied for each.
    """
    encodings: list[Encoding] = []
    numbers: list[int] = []
    shared: dict[str, int] = {}
    for name, turns in zip(types, rotates, strict=True):
        key = name if turns else ""
        encoding = choices[name].encoding if turns else NoPE(shape)
        if key in shared and encoding.per_layer:
            encoding = deepcopy(encoding)
            encoding.reset_parameters()
        elif key in shared:
            numbers.append(shared[key])
            continue
        shared[key] = len(encodings)
        numbers.append(len(encodings))
        encodings.append(encoding)
    return encodings, numbers
