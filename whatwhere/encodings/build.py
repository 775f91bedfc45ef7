"""From an expression to an encoding: defaults that depend on the context are filled in here."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from whatwhere import spectra
from whatwhere.encodings.base import Encoding, Shape, Turning
from whatwhere.encodings.expression import Expression, Part, option_names, parse
from whatwhere.encodings.rescaled import Rescaled
from whatwhere.encodings.table import TABLE
from whatwhere.errors import UnknownName, did_you_mean, real_number, whole_number
from whatwhere.spectra import Spectrum

__all__ = ["Context", "build", "from_dict", "make", "modify"]


@dataclass(frozen=True)
class Context:
    """What options default to: the length a model is trained at, how much longer it is used, the
    length of a table, and the standard deviation of the token embeddings that a code is added to.
    """

    train_length: int | None = None
    factor: float | None = None
    max_length: int | None = None
    embedding_std: float | None = None

    def __post_init__(self) -> None:
        for name in ("train_length", "max_length"):
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name))
        if self.factor is not None:
            real_number("factor", self.factor, above=0)

    def default(self, option: str) -> Any:
        """The value of a missing option, or None."""
        if option == "max_length":
            return self.max_length if self.max_length is not None else self.train_length
        if option == "factor":
            return None if self.factor is None else max(1.0, self.factor)
        if option == "scale":
            return self.embedding_std
        return self.train_length if option == "train_length" else None


def make(
    expression: str | Expression,
    *,
    heads: int,
    head_dim: int,
    kv_heads: int | None = None,
    width: int | None = None,
    train_length: int | None = None,
    factor: float | None = None,
    max_length: int | None = None,
) -> Encoding:
    """The encoding that an expression stands for: make("rope+yarn(factor=8)", heads=8, …).

    Args:
        expression: see `whatwhere.encodings.expression`.
        heads, head_dim, kv_heads, width: sizes of the attention and the model it serves.
        train_length, factor, max_length: defaults for options of these names.
    Raises UnknownName or ValueError that name what was wrong.
    """
    shape = Shape(heads, head_dim, kv_heads, width)
    return build(expression, shape, Context(train_length, factor, max_length))


def build(expression: str | Expression, shape: Shape, context: Context | None = None) -> Encoding:
    """The encoding of an expression for a shape; its modifiers are applied, spectra first."""
    if not isinstance(expression, Expression):
        expression = parse(expression)
    context = context or Context()
    return modify(_base(expression.base, shape, context), expression.modifiers, context)


def _base(part: Part, shape: Shape, context: Context) -> Encoding:
    if part.inner is not None:
        return _wrap(part, _base(part.inner, shape, context), context)
    entry = TABLE[part.name]
    options = dict(entry.preset)
    for key, value in part.options:
        options[key] = _spectrum(value, context, None) if isinstance(value, Part) else value
    for key in option_names(part.name):
        if key in ("train_length", "max_length", "scale") and key not in options:
            options[key] = context.default(key)
    return entry.kind(shape, **options)


def _wrap(part: Part, inner: Encoding, context: Context) -> Encoding:
    options = dict(part.options)
    for key in option_names(part.name):
        own_factor = key == "factor" and part.name == "yarn_temperature"
        if key not in options and (key == "train_length" or own_factor):
            value = context.default(key)
            if value is not None:
                options[key] = value
    return TABLE[part.name].kind(inner, **options)  # type: ignore[arg-type]


def modify(
    encoding: Encoding, modifiers: tuple[Part, ...], context: Context | None = None
) -> Encoding:
    """An encoding inside its modifiers; the parameters are shared, not copied.

    A spectrum must reach the frequencies, so it is applied first wherever it is written.
    """
    context = context or Context()
    chosen = [part for part in modifiers if part.name in spectra.TABLE]
    if len(chosen) > 1:
        raise ValueError(
            f"{' and '.join(part.name for part in chosen)} both replace the spectrum; choose one"
        )
    for part in chosen:
        own = encoding.spectrum if isinstance(encoding, Turning) else None
        encoding = Rescaled(encoding, _spectrum(part, context, own))
    for part in modifiers:
        if part.name not in spectra.TABLE:
            encoding = _wrap(part, encoding, context)
    return encoding


def _spectrum(part: Part, context: Context, own: Spectrum | None) -> Spectrum:
    """A spectrum with missing train_length, factor and base from context and the trained one."""
    family = spectra.TABLE.get(part.name)
    if family is None:
        raise UnknownName(did_you_mean("spectrum", part.name, spectra.TABLE))
    options = dict(part.options)
    for key in family.parameters:
        if key in options:
            continue
        value = context.default(key)
        if key == "factor" and family.parameters[key] is not None:
            value = None  # no ratio of lengths: dynamic_ntk's multiplies the ratio that it reads
        if key == "base" and own is not None:
            value = _trained_base(own, part)
        if value is not None:
            options[key] = value
    return family(**options)


def _trained_base(own: Spectrum, part: Part) -> float:
    """The base of the ladder that was trained, whatever name it has (abf has one of its own).

    Raises ValueError if the trained frequencies are no geometric ladder: a method that starts from
    one would silently replace them.
    """
    dim = 128
    listed = any(isinstance(value, list | tuple) for _, value in own.options)
    if not own.length_dependent and not listed:  # lists are no ladder, and belong to one width
        trained = own(dim)
        ratios = [b / a for a, b in pairwise(trained.inv_freq) if a]
        ladder = max(ratios) - min(ratios) < 1e-9 and trained.inv_freq[0] == 1.0
        if ladder and trained.inv_freq[-1] > 0 and trained.amplitude == 1.0 and not trained.start:
            return float(f"{ratios[0] ** (-dim / 2):.12g}")
    raise ValueError(
        f"{part.name} starts from a geometric ladder, and the encoding was trained with {own}: "
        f"write {part.name}(base=…) to replace it knowingly"
    )


def from_dict(data: Mapping[str, Any]) -> Encoding:
    """The encoding that `to_dict` described, with freshly initialized parameters."""
    for key in ("name", "options"):
        if not isinstance(data, Mapping) or key not in data:
            raise ValueError(f"an encoding is written as a dict with {key!r}, not {data!r}")
    options = {key: _read(value) for key, value in data["options"].items()}
    kinds = {entry.kind.name: entry.kind for entry in TABLE.values()} | {"rescaled": Rescaled}
    if data["name"] not in kinds:
        raise UnknownName(did_you_mean("encoding", data["name"], kinds))
    kind: Any = kinds[data["name"]]
    known = list(inspect.signature(kind.__init__).parameters)[2:]
    for key in options:
        if key not in known:
            raise UnknownName(did_you_mean(f"option of {data['name']}", key, known))
    if "inner" in data:
        return kind(from_dict(data["inner"]), **options)
    return kind(Shape(**data["shape"]), **options)


def _read(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Spectrum.from_dict(value["spectrum"])
    return tuple(value) if isinstance(value, list) else value
