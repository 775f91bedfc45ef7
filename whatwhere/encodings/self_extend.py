"""Self-Extend: neighbours as they are, everything else in groups."""

from __future__ import annotations

from typing import final

from whatwhere.encodings.base import Encoding, Wrapper, check_length, turned_term
from whatwhere.encodings.rerope import window_of, with_terms
from whatwhere.maps import Reindex
from whatwhere.regions import far, near
from whatwhere.rule import ScoreRule, Term

__all__ = ["SelfExtend"]


@final
class SelfExtend(Wrapper):
    """For i - j >= window the query stands at i//G + W - W//G and the key at j//G.

    Reaches (L - W) G + W tokens for a model trained at L, exactly if G divides W. The projects'
    eager code divides W by G as a float, their flash decoding as an integer (encodings.md §17);
    here it is the integer everywhere. Defaults: group 8, window a quarter of the training length
    (the paper: G 8, W 1024 for L 4096). Source: arXiv 2401.01325.
    """

    name = "self_extend"
    cite = "self_extend"

    def __init__(
        self,
        inner: Encoding,
        group: int = 8,
        window: int | None = None,
        train_length: int | None = None,
    ) -> None:
        super().__init__(inner)
        turned_term(inner, "Self-Extend")
        self.group = check_length("group", group)
        self.window = window_of(window, train_length)

    @property
    def relative(self) -> bool:
        """False for groups of several tokens: which neighbours share one depends on the origin."""
        return self.group == 1 and self.inner.relative

    def rule(self, horizon: int | None = None, *, training: bool = False) -> ScoreRule:
        """The inner rule split at the window, with grouped positions beyond it."""
        rule = self.inner.rule(horizon, training=training)
        query, key = rule.only.query, rule.only.key
        grouped = Term(
            query.moved(Reindex(group=self.group, offset=self.window - self.window // self.group)),
            key.moved(Reindex(group=self.group)),
            far(self.window),
        )
        return with_terms(rule, Term(query, key, near(self.window)), grouped)
