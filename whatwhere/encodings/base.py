"""What an encoding is: options, perhaps parameters, and one rule per horizon.

An encoding is an `nn.Module` (some learn tables, slopes or phases) whose only duty is

    rule(horizon)  ->  ScoreRule        and, for those that add to the token embedding,
    embed(x, positions)  ->  x.

Every concrete encoding is final: a variant is a value of its options or a wrapper around it,
never a subclass that overrides half of another.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

from jaxtyping import Float, Int
from torch import Tensor, int64, nn

from whatwhere.errors import UnknownName, did_you_mean, whole_number
from whatwhere.maps import Polar, Rotate
from whatwhere.phases import Angles, Phases
from whatwhere.rule import ScoreRule
from whatwhere.spectra import Spectrum

__all__ = [
    "Encoding",
    "Shape",
    "Turning",
    "Wrapper",
    "check_embedding",
    "check_length",
    "horizon_of",
]


@dataclass(frozen=True)
class Shape:
    """Sizes of the attention an encoding serves.

    heads query heads over kv_heads (default heads) key/value heads of head_dim channels; width is
    the model's (default heads · head_dim).
    """

    heads: int
    head_dim: int
    kv_heads: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        for name in ("heads", "head_dim", "kv_heads", "width"):
            value = getattr(self, name)
            if value is not None or name in ("heads", "head_dim"):
                whole_number(name, value)
        if self.heads % self.groups:
            raise ValueError(f"heads is {self.heads}, no multiple of kv_heads {self.groups}")

    @property
    def groups(self) -> int:
        """Number of key/value heads."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def model_width(self) -> int:
        """Width of the token embedding."""
        return self.heads * self.head_dim if self.width is None else self.width


class Encoding(nn.Module):
    """A positional encoding. Subclasses set the class attributes and `rule`, and are final.

    Attributes:
        per_layer: whether a decoder gives each layer its own instance (own parameters).
        relative: whether shifting all positions leaves attention unchanged.
        length_dependent: whether `rule` needs the horizon.
        max_length: the first position that has no code (None: there is none).
        cite: key into `whatwhere.citations`.
    """

    name: ClassVar[str] = ""
    cite: ClassVar[str] = ""
    per_layer: ClassVar[bool] = False
    causal_only: ClassVar[bool] = False

    shape: Shape
    options: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        if args or kwargs:  # copy.deepcopy and pickle call without; they restore the state
            bound = inspect.signature(cls.__init__).bind(None, *args, **kwargs)
            bound.apply_defaults()
            given = dict(list(bound.arguments.items())[2:])
            object.__setattr__(self, "options", given)
        return self

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for parent in cls.__mro__[1:]:
            if "name" in vars(parent) and vars(parent)["name"]:
                raise TypeError(f"{parent.__name__} is final: wrap it or add an option instead")

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape

    @property
    def relative(self) -> bool:
        """Whether shifting all positions by one integer leaves attention unchanged."""
        return True

    @property
    def length_dependent(self) -> bool:
        """Whether the rule changes with the horizon."""
        return False

    @property
    def max_length(self) -> int | None:
        """Number of positions that the encoding can tell; None if there is no limit."""
        return None

    def reset_parameters(self) -> None:
        """Draw the encoding's own parameters anew; by default there are none."""

    def rule(self, horizon: int | None = None, *, training: bool = False) -> ScoreRule:
        """The rule for a sequence of `horizon` tokens; NoPE's unless a subclass says otherwise.

        `training` matters only to an encoding that trains with one rule and infers with another
        (inverse Leaky ReRoPE).
        """
        return ScoreRule()

    def beside(self, others: Sequence[Encoding]) -> Encoding | None:
        """One encoding for the models of self and `others`, whose batches follow one another.

        They are of one expression and shape, and differ in what they learned. Its parameters have
        the names of theirs and shape (models, …); None if no rule can hold what they learn.
        """
        return None if list(self.parameters()) else self

    def embed(
        self, x: Float[Tensor, "b n width"], positions: Int[Tensor, "#b n"]
    ) -> Float[Tensor, "b n width"]:
        """The token embeddings with whatever this encoding adds to them; by default nothing."""
        return x

    def to_dict(self) -> dict[str, Any]:
        """Name, shape and every option, defaults included; `encodings.from_dict` reads it."""
        options = {key: _plain(value) for key, value in self.options.items()}
        return {"name": self.name, "shape": asdict(self.shape), "options": options}

    def extra_repr(self) -> str:
        return ", ".join(
            f"{key}={value}" for key, value in self.options.items() if value is not None
        )


class Turning(Encoding):
    """An encoding whose single term turns vectors by a spectrum: it can be given other angles.

    Spectra (YaRN, NTK, …) and region methods (ReRoPE, Dual Chunk, …) apply to every one of these.
    """

    phases: Phases

    def rule_with(self, angles: Angles, horizon: int | None = None) -> ScoreRule:
        """The rule with the given angles in place of the encoding's own spectrum."""
        raise NotImplementedError

    @property
    def spectrum(self) -> Spectrum:
        """The spectrum that the phases come from."""
        return self.phases.spectrum

    @property
    def length_dependent(self) -> bool:
        """Whether the spectrum depends on the length."""
        return self.spectrum.length_dependent

    @property
    def relative(self) -> bool:
        """As `relative_with` its own spectrum."""
        return self.relative_with(self.spectrum)

    def relative_with(self, spectrum: Spectrum) -> bool:
        """True, unless the spectrum treats the first positions apart (LongRoPE's n-hat)."""
        return not dict(spectrum.options).get("n_hat")

    def rule(self, horizon: int | None = None, *, training: bool = False) -> ScoreRule:
        """The rule at the angles of this horizon."""
        return self.rule_with(self.phases.at(horizon), horizon)


class Wrapper(Encoding):
    """An encoding around another: it changes the inner rule and delegates all else."""

    def __init__(self, inner: Encoding) -> None:
        if not isinstance(inner, Encoding):
            raise TypeError(f"inner is {type(inner).__name__}; give an encoding to wrap")
        super().__init__(inner.shape)
        self.inner = inner

    @property
    def per_layer(self) -> bool:  # type: ignore[override]
        """As the inner encoding."""
        return self.inner.per_layer

    @property
    def causal_only(self) -> bool:  # type: ignore[override]
        """As the inner encoding."""
        return self.inner.causal_only

    @property
    def relative(self) -> bool:
        """As the inner encoding, unless a subclass says otherwise."""
        return self.inner.relative

    @property
    def length_dependent(self) -> bool:
        """As the inner encoding, unless a subclass says otherwise."""
        return self.inner.length_dependent

    @property
    def max_length(self) -> int | None:
        """As the inner encoding."""
        return self.inner.max_length

    def embed(
        self, x: Float[Tensor, "b n width"], positions: Int[Tensor, "#b n"]
    ) -> Float[Tensor, "b n width"]:
        """As the inner encoding."""
        return self.inner.embed(x, positions)

    def to_dict(self) -> dict[str, Any]:
        """Name and options, with the inner encoding nested under "inner"."""
        own = {key: _plain(value) for key, value in self.options.items()}
        return {"name": self.name, "inner": self.inner.to_dict(), "options": own}


def turned_term(inner: Encoding, method: str) -> None:
    """Raise ValueError unless the inner encoding's rule is one term that turns vectors."""
    if inner.length_dependent:
        return  # the rule needs a horizon; the check happens when it is asked for
    term = inner.rule(1).only
    if not isinstance(term.key, Rotate | Polar):
        raise ValueError(
            f"{method} re-indexes the positions of a rotation; {inner.name!r} does not rotate. "
            "Wrap rope, pope or another encoding that does"
        )


def check_length(name: str, value: int | None, least: int = 1) -> int:
    """The value, or an error that names it if it is missing, too small or no whole number."""
    if value is None:
        raise ValueError(f"{name} is missing: give it, or train_length for the default")
    return whole_number(name, value, least)


def check_embedding(x: Tensor, positions: Tensor, width: int) -> None:
    """Raise TypeError or ValueError unless x is (b, n, width) and positions are whole numbers."""
    if x.dim() != 3 or x.shape[-1] != width:
        raise ValueError(f"x has shape {tuple(x.shape)}; give (batch, n, {width})")
    if positions.dtype != int64:
        raise TypeError(f"positions has dtype {positions.dtype}; give int64")
    if positions.dim() != 2 or positions.shape[1] != x.shape[1]:
        n = x.shape[1]
        raise ValueError(f"positions has shape {tuple(positions.shape)}; give (1 or batch, {n})")


def horizon_of(horizon: int | None, name: str) -> int:
    """The horizon, or a ValueError that says who needs it."""
    if horizon is None:
        raise ValueError(f"{name} depends on the length of the sequence: pass horizon")
    return whole_number("horizon", horizon)


def choice(name: str, value: str | None, known: tuple[str, ...]) -> str:
    """The value, or UnknownName with the nearest of the known ones.

    None stands for "none" where that is known: the word is read so in an expression.
    """
    if value is None and "none" in known:
        return "none"
    if value not in known:
        raise UnknownName(did_you_mean(name, value, known))
    return value


def _plain(value: Any) -> Any:
    return {"spectrum": value.to_dict()} if isinstance(value, Spectrum) else value
