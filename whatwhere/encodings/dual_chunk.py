"""Dual Chunk Attention: no distance ever exceeds the training length."""

from __future__ import annotations

from typing import final

from whatwhere.encodings.base import Encoding, Wrapper, check_length, choice, turned_term
from whatwhere.encodings.rerope import with_terms
from whatwhere.maps import Map, Reindex
from whatwhere.regions import chunk_gap
from whatwhere.rule import ScoreRule, Term

__all__ = ["DualChunk"]


@final
class DualChunk(Wrapper):
    """Keys stand at j mod s; the query at i mod s, min(s + i mod s, most) or most.

    The three cases are the same chunk, the previous chunk and all earlier ones: one key map, three
    terms. Constants for a training length c:
        "paper": s = 3c/4, most = c - 1 in both later cases; equal to the inner encoding up to c
            tokens, and to distance i - j wherever it is at most c - s.
        "chunkllama": s = 3c/4 - c/8 = 5c/8 and most = 3c/4, as the released code computes them; it
            already differs from the inner encoding beyond 3c/4 + 1 tokens (encodings.md §18).
    `chunk` overrides s. ChunkLlama's growing mscale is a temperature: wrap `llama4`/`logn` around.
    Source: arXiv 2402.17463, Eqs. 4-7 and Figure 2.
    """

    name = "dual_chunk"
    cite = "dual_chunk"

    def __init__(
        self,
        inner: Encoding,
        chunk: int | None = None,
        constants: str = "paper",
        train_length: int | None = None,
    ) -> None:
        super().__init__(inner)
        turned_term(inner, "Dual Chunk Attention")
        length = check_length("train_length", train_length, least=2)
        choice("constants of dual_chunk", constants, ("paper", "chunkllama"))
        whole = 3 * length // 4
        paper = constants == "paper"
        usual = whole if paper else whole - length // 8
        self.chunk = usual if chunk is None else check_length("chunk", chunk)
        self.most = length - 1 if paper else whole
        if self.chunk > self.most:
            raise ValueError(
                f"chunk is {self.chunk} with train_length {length}: distances inside a chunk "
                f"would exceed {self.most}; give a chunk of at most {self.most}"
            )

    @property
    def relative(self) -> bool:
        """False: where the chunks begin depends on the origin."""
        return False

    def rule(self, horizon: int | None = None, *, training: bool = False) -> ScoreRule:
        """The inner rule as three terms: same chunk, previous chunk, earlier chunks."""
        rule = self.inner.rule(horizon, training=training)
        s, most = self.chunk, self.most
        key = rule.only.key.moved(Reindex(modulo=s))

        def query(reindex: Reindex) -> Map:
            return rule.only.query.moved(reindex)

        return with_terms(
            rule,
            Term(query(Reindex(modulo=s)), key, chunk_gap(s, None, 0)),
            Term(query(Reindex(modulo=s, offset=s, most=most)), key, chunk_gap(s, 1, 1)),
            Term(query(Reindex(modulo=1, offset=most)), key, chunk_gap(s, 2, None)),
        )
