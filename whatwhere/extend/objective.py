"""What a search minimises on a real model: -ln p of a text's tokens, or of pass keys' alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from whatwhere import hf
from whatwhere.extend import retrieval
from whatwhere.extend.forward import Reader
from whatwhere.extend.retrieval import Samples
from whatwhere.extend.search import Candidate, Space

__all__ = ["Needles", "Objective", "Perplexity", "windows"]


def windows(text: Tensor, length: int, count: int) -> Tensor:
    """(count, length + 1) tokens, evenly spread over a text. ValueError if one does not fit."""
    room = len(text) - length - 1
    if room < 0:
        raise ValueError(f"the text has {len(text):,} tokens here; a window takes {length + 1:,}")
    starts = torch.linspace(0, room, count).long() if count > 1 else torch.zeros(1).long()
    return text[starts[:, None] + torch.arange(length + 1)]


@dataclass
class Objective:
    """A candidate's -ln p per token on one device: give the model the factors, score, take back.

    Each device has an objective with a model of its own, so that they can work side by side.
    """

    model: Any
    space: Space
    device: str
    batch_tokens: int = 8192

    def __call__(self, candidate: Candidate) -> float:
        """Nats a token under a candidate's factors."""
        return self.of(f"rope+{self.space.spectrum(candidate)}")

    def of(self, expression: str) -> float:
        """Nats a token under any expression."""
        with hf.use(self.model, expression, train_length=self.space.train_length):
            return self.score(Reader(self.model))

    def score(self, reader: Reader) -> float:
        """Nats a token with the model as it stands."""
        raise NotImplementedError


@dataclass
class Perplexity(Objective):
    """Over all tokens of some windows at the target length, several windows in a batch."""

    samples: Tensor | None = None

    def score(self, reader: Reader) -> float:
        """Mean -ln p of the windows' tokens."""
        assert self.samples is not None
        length = self.samples.shape[1] - 1
        total = 0.0
        for part in self.samples.split(max(1, self.batch_tokens // length)):
            total += float(reader.losses(part.to(self.device)).double().sum())
        return total / (len(self.samples) * length)

    def by_window(self, expression: str) -> list[float]:
        """Mean -ln p of each window, for comparing expressions on the same ones."""
        assert self.samples is not None
        with hf.use(self.model, expression, train_length=self.space.train_length):
            reader = Reader(self.model)
            parts = [reader.losses(w[None].to(self.device)).double() for w in self.samples]
        return [float(part.mean()) for part in parts]


@dataclass
class Needles(Objective):
    """Over the tokens of pass keys only: the few for which the far text counts.

    Source: LongRoPE2's needle-driven perplexity, arXiv 2502.20082, section 3.3.
    """

    samples: Samples | None = None

    def score(self, reader: Reader) -> float:
        """Mean -ln p of the answers' tokens."""
        assert self.samples is not None
        found = retrieval.score(reader, self.samples, self.device, self.batch_tokens)
        return found.nll / found.tokens if math.isfinite(found.nll) else math.inf


def needles(text: Tensor, tokenizer: Any, length: int, count: int, seed: int) -> Samples:
    """`count` rows with a pass key each, at depths spread over the text."""
    rows: list[Tensor] = []
    counts: list[int] = []
    for number in range(count):
        depth = number / max(1, count - 1)
        made = retrieval.passkeys(text, tokenizer, length, depth, 1, seed + number)
        rows += made.rows
        counts += made.counts
    return Samples(rows, counts)


__all__ += ["needles"]
