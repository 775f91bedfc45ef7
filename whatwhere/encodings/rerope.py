"""ReRoPE and Leaky ReRoPE: distances beyond a window are held, or grow more slowly."""

from __future__ import annotations

from dataclasses import replace
from typing import final

from whatwhere.encodings.base import Encoding, Wrapper, check_length, turned_term
from whatwhere.errors import real_number
from whatwhere.maps import Reindex
from whatwhere.regions import far, near
from whatwhere.rule import ScoreRule, Term

__all__ = ["InverseLeakyReRoPE", "LeakyReRoPE", "ReRoPE"]

_PARKED = 1  # modulo 1 maps every position to 0


@final
class ReRoPE(Wrapper):
    """Distance min(i - j, window): exact inside the window, constant beyond.

    Two terms: the inner one for i - j < window; beyond, the query stands at `window` and the key at
    0. The best window is a quarter to a half of the training length (default a quarter); at the
    training length itself accuracy collapses (encodings.md §16).
    Source: kexue.fm 9708.
    """

    name = "rerope"
    cite = "rerope"

    def __init__(
        self, inner: Encoding, window: int | None = None, train_length: int | None = None
    ) -> None:
        super().__init__(inner)
        turned_term(inner, "ReRoPE")
        self.window = window_of(window, train_length)

    def rule(self, horizon: int | None = None, *, training: bool = False) -> ScoreRule:
        """The inner rule split at the window."""
        rule = self.inner.rule(horizon, training=training)
        query, key = rule.only.query, rule.only.key
        held = Term(
            query.moved(Reindex(modulo=_PARKED, offset=self.window)),
            key.moved(Reindex(modulo=_PARKED)),
            far(self.window),
        )
        return with_terms(rule, Term(query, key, near(self.window)), held)


@final
class LeakyReRoPE(Wrapper):
    """Distance i - j inside the window, window + (i - j - window) / factor beyond.

    Far term: all frequencies divided by factor, the query re-indexed to i + window (factor - 1),
    the key at j. factor = 1 is the inner encoding, factor -> ∞ is ReRoPE.
    window (factor - 1) must be a whole number of tokens. Defaults: window a quarter of the training
    length, factor 16. Source: kexue.fm 9708.
    """

    name = "leaky_rerope"
    cite = "leaky_rerope"

    def __init__(
        self,
        inner: Encoding,
        window: int | None = None,
        factor: float = 16.0,
        train_length: int | None = None,
    ) -> None:
        super().__init__(inner)
        turned_term(inner, "Leaky ReRoPE")
        self.window = window_of(window, train_length)
        why = "distances that grow faster beyond the window are inverse_leaky_rerope"
        self.factor = real_number("factor", factor, least=1, why=why)
        _whole(self.window, factor)

    def rule(self, horizon: int | None = None, *, training: bool = False) -> ScoreRule:
        """The inner rule split at the window, slowed beyond it."""
        return leaky(self.inner.rule(horizon, training=training), self.window, self.factor)


@final
class InverseLeakyReRoPE(Wrapper):
    """Train with distance window + (i - j - window) · stride beyond the window, infer without.

    One encoding with two rules: in training far distances are stretched, so that plain rotation at
    inference reaches window + stride (L - window) tokens without ever seeing a new angle.
    Defaults: window a quarter of the training length, stride 16. Source: kexue.fm 9728.
    """

    name = "inverse_leaky_rerope"
    cite = "inverse_leaky_rerope"

    def __init__(
        self,
        inner: Encoding,
        window: int | None = None,
        stride: int = 16,
        train_length: int | None = None,
    ) -> None:
        super().__init__(inner)
        turned_term(inner, "inverse Leaky ReRoPE")
        self.window = window_of(window, train_length)
        self.stride = check_length("stride", stride)
        _whole(self.window, 1.0 / stride)

    def rule(self, horizon: int | None = None, *, training: bool = False) -> ScoreRule:
        """In training the stretched rule, else the inner one."""
        rule = self.inner.rule(horizon, training=training)
        return leaky(rule, self.window, 1.0 / self.stride) if training else rule


def leaky(rule: ScoreRule, window: int, factor: float) -> ScoreRule:
    """A one-term rule with distance window + (i - j - window) / factor beyond the window."""
    query, key = rule.only.query, rule.only.key
    ahead = Reindex(offset=round(window * (factor - 1.0)))
    beyond = Term(query.slowed(factor).moved(ahead), key.slowed(factor), far(window))
    return with_terms(rule, Term(query, key, near(window)), beyond)


def with_terms(rule: ScoreRule, *terms: Term) -> ScoreRule:
    """The rule with other terms; biases, temperatures and value maps stay."""
    return replace(rule, terms=terms)


def window_of(window: int | None, train_length: int | None) -> int:
    """The window, by default a quarter of the training length."""
    if window is None and train_length is not None:
        window = max(1, check_length("train_length", train_length) // 4)
    return check_length("window", window)


def _whole(window: int, factor: float) -> None:
    offset = window * (factor - 1.0)
    if abs(offset - round(offset)) > 1e-6:
        step = round(1 / factor) if factor < 1 else 1
        raise ValueError(
            f"window is {window} with factor {factor}: window · (factor - 1) = {offset} must be a "
            f"whole number of tokens; give a whole factor or a window that is a multiple of {step}"
        )
