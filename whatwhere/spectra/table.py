"""`Spectrum`, a named pure function with its options filled in, and the decorator that makes one.

To add a spectrum, write one function of (dim, horizon) and keyword-only options, decorate it with
``@spectrum(cite=...)`` and import it in ``whatwhere/spectra/__init__.py``: the options are checked
by their annotations, and table, printing and serialization follow.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import index
from types import MappingProxyType
from typing import Any, Concatenate, Generic, ParamSpec, get_type_hints

from whatwhere.errors import UnknownName, did_you_mean
from whatwhere.spectra.frequencies import Frequencies

P = ParamSpec("P")
Options = Mapping[str, Any]

TABLE: dict[str, Family[...]] = {}
"""Every spectrum by name; filled by the decorator when the package is imported."""


@dataclass(frozen=True)
class Spectrum:
    """A spectrum with all its options: call it with (dim, horizon) to get the `Frequencies`.

    A value: hashable, comparable, printable as ``yarn(factor=8, train_length=2048)``. `options`
    holds every option in the order of the function's signature, defaults included, so that two
    spellings of one spectrum are equal. Make one with ``spectra.yarn(...)`` or ``spectra.make``.
    """

    name: str
    options: tuple[tuple[str, Any], ...]

    def __call__(self, dim: int, horizon: int | None = None) -> Frequencies:
        """The frequencies of `dim // 2` pairs for a text of `horizon` tokens.

        RoPE calls with dim = head_dim (or the rotated part of it), PoPE with dim = 2 · head_dim.
        Raises ValueError for an odd or non-positive dim, a horizon below 1, and for a missing
        horizon where the value depends on it: no length is guessed.
        """
        if isinstance(dim, bool) or index(dim) < 2 or index(dim) % 2:
            raise ValueError(f"dim must be a positive even number (two features a pair), got {dim}")
        if horizon is None and self.length_dependent:
            raise ValueError(
                f"{self} depends on the length of the text: give horizon, in tokens"
                + (", or a number as factor" if dict(self.options).get("factor", 1) is None else "")
            )
        if horizon is not None and (isinstance(horizon, bool) or index(horizon) < 1):
            raise ValueError(f"horizon must be at least 1 token, got {horizon}")
        # A spectrum that does not depend on the length never reads the 1.
        length = 1 if horizon is None else index(horizon)
        return self.family.function(index(dim), length, **dict(self.options))

    @property
    def family(self) -> Family[...]:
        """The entry of `TABLE` that this is a member of."""
        if self.name not in TABLE:
            raise UnknownName(did_you_mean("spectrum", self.name, TABLE))
        return TABLE[self.name]

    @property
    def length_dependent(self) -> bool:
        """Whether another horizon can give other frequencies or another amplitude."""
        return self.family.depends(dict(self.options))

    @property
    def cite(self) -> str:
        """The key of the source in `whatwhere.citations`."""
        return self.family.cite

    def replace(self, **changes: Any) -> Spectrum:
        """The same spectrum with some options changed."""
        return self.family(**(dict(self.options) | changes))

    def to_dict(self) -> dict[str, Any]:
        """``{"name": ..., "options": {...}}`` in JSON's types, all options written out."""
        options = {key: list(v) if isinstance(v, tuple) else v for key, v in self.options}
        return {"name": self.name, "options": options}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Spectrum:
        """The spectrum that `to_dict` wrote; options left out take their defaults."""
        for key in data:
            if key not in ("name", "options"):
                raise UnknownName(did_you_mean("key of a spectrum", key, ("name", "options")))
        if "name" not in data:
            raise ValueError(f"a spectrum needs a name, got {dict(data)!r}")
        return make(data["name"], **data.get("options", {}))

    def __str__(self) -> str:
        defaults = self.family.parameters
        shown = [f"{k}={_text(v)}" for k, v in self.options if v != defaults[k]]
        return f"{self.name}({', '.join(shown)})"

    __repr__ = __str__


class Family(Generic[P]):
    """One spectrum with its options still open: a checked factory of `Spectrum` values.

    `parameters` maps the option names to their defaults (`Family.REQUIRED` where there is none),
    `function` is the undecorated pure function (dim, horizon, **options) -> Frequencies,
    `depends` says from the options whether the value depends on the horizon.
    """

    REQUIRED: Any = inspect.Parameter.empty

    def __init__(
        self,
        function: Callable[Concatenate[int, int, P], Frequencies],
        cite: str,
        depends: Callable[[Options], bool],
        check: Callable[[Options], str | None],
    ) -> None:
        functools.update_wrapper(self, function)
        self.name, self.cite, self.depends, self._check = function.__name__, cite, depends, check
        self.function: Callable[..., Frequencies] = function
        hints = get_type_hints(function, include_extras=True)
        options = list(inspect.signature(function).parameters.values())[2:]
        self.parameters = MappingProxyType({p.name: p.default for p in options})
        self._checks = {p: getattr(hints[p], "__metadata__", ()) for p in self.parameters}
        plain = get_type_hints(function)
        self.__signature__ = inspect.Signature(
            [p.replace(annotation=plain[p.name]) for p in options], return_annotation=Spectrum
        )

    def __call__(self, *args: P.args, **options: P.kwargs) -> Spectrum:
        """The spectrum with these options; ValueError names the option, its value and what fits."""
        if args:
            raise TypeError(f"{self.name} takes its options by name, got {args!r}")
        for key in options:
            if key not in self.parameters:
                raise UnknownName(did_you_mean(f"option of {self.name}", key, self.parameters))
        values: dict[str, Any] = {}
        for key, default in self.parameters.items():
            value = options.get(key, default)
            if value is self.REQUIRED:
                raise ValueError(f"{self.name} needs {key}: {self.name}({key}=...)")
            for check in self._checks[key]:
                try:
                    value = check(value)
                except ValueError as error:
                    raise ValueError(f"{self.name}: {key} {error}, got {value!r}") from None
            values[key] = value
        reason = self._check(values)
        if reason:
            raise ValueError(f"{self.name}: {reason}")
        return Spectrum(self.name, tuple(values.items()))

    def __repr__(self) -> str:
        return f"<spectrum {self.name}{self.__signature__}>"


def open_factor(options: Options) -> bool:
    """Whether `factor` is left to the length (None or "dynamic"): the usual dependence."""
    return options.get("factor", 1.0) in (None, "dynamic")


def _consistent(options: Options) -> str | None:
    if open_factor(options) and options.get("train_length", 1) is None:
        return "give factor, or train_length so that factor = horizon / train_length"
    return None


def spectrum(
    *,
    cite: str,
    depends: Callable[[Options], bool] = open_factor,
    check: Callable[[Options], str | None] = lambda options: None,
) -> Callable[[Callable[Concatenate[int, int, P], Frequencies]], Family[P]]:
    """Enter a pure function (dim, horizon, *, options) -> Frequencies in `TABLE`.

    `cite` is a key of `whatwhere.citations`, `check` returns why options do not fit each other, or
    None. The function may rely on: an even dim of at least 2, a horizon of at least 1, and options
    that passed the checks in their annotations.
    """

    def decorate(function: Callable[Concatenate[int, int, P], Frequencies]) -> Family[P]:
        if function.__name__ in TABLE:
            raise ValueError(f"a spectrum named {function.__name__!r} exists already")
        family = Family(function, cite, depends, lambda o: _consistent(o) or check(o))
        TABLE[family.name] = family
        return family

    return decorate


def make(name: str, **options: Any) -> Spectrum:
    """The spectrum of that name: ``make("yarn", factor=8, train_length=2048)``."""
    if name not in TABLE:
        raise UnknownName(did_you_mean("spectrum", name, TABLE))
    return TABLE[name](**options)


def _text(value: Any) -> str:
    """A value as written in an expression; no '+' (as in 1e+16), which joins modifiers there."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, float):
        return repr(value).removesuffix(".0").replace("e+", "e")
    return str(value)
