"""What makes retrieval learnable on a few hundred million tokens of novels, which hold no numbers.

    … The pass key is 71432. Remember it. 71432 is the pass key. … What is the pass key? The pass
    key is 71432. …

A few rows of a batch get such a pair at random places, a few others a passage that comes twice.
The model then retrieves within its context, and what fails past it is the positions' fault.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from whatwhere.extend.base.books import Tokens

__all__ = ["ANSWER", "DIGITS", "NEEDLE", "Batches", "Needles"]

NEEDLE = "\nThe pass key is {key}. Remember it. {key} is the pass key.\n"
ANSWER = "\nWhat is the pass key? The pass key is {key}."
DIGITS = 5
COPY = (8, 64)
"""Tokens of a passage that comes twice: least and most."""

Encode = Callable[[str], Sequence[int]]
Random = np.random.Generator


class _Template:
    """A text with digits to fill in: its tokens, and where the key's digits stand among them."""

    def __init__(self, text: str, encode: Encode) -> None:
        digits = [np.asarray(encode(text.format(key=str(d) * DIGITS))) for d in range(10)]
        self.tokens = digits[0]
        (places,) = np.nonzero(digits[0] != digits[1])
        self.slots = places.reshape(-1, DIGITS)
        self.of_digit = np.asarray([tokens[places[0]] for tokens in digits])

    def filled(self, key: NDArray[np.int64]) -> NDArray[np.int64]:
        tokens = self.tokens.copy()
        tokens[self.slots] = self.of_digit[key]
        return tokens


class Needles:
    """Puts needles into rows of tokens, in place; each method returns where the answer stands.

    `encode` must spell a number digit by digit, as the tokenizer of `books.prepare` does.
    """

    def __init__(self, encode: Encode, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.needle, self.answer = _Template(NEEDLE, encode), _Template(ANSWER, encode)
        self.shortest = len(self.needle.tokens) + len(self.answer.tokens)

    def passkey(self, row: Tokens, random: Random, *, at_end: bool = False) -> slice:
        """A pass key at a random place, asked for later: at the end, or half the time anywhere."""
        key = random.integers(10, size=DIGITS)
        needle, answer = self.needle.filled(key), self.answer.filled(key)
        last = len(row) - len(answer)
        asked = last if at_end or random.random() < 0.5 else random.integers(len(needle), last + 1)
        hidden = random.integers(asked - len(needle) + 1)
        row[hidden : hidden + len(needle)] = needle
        row[asked : asked + len(answer)] = answer
        start = int(asked + self.answer.slots[0, 0])
        return slice(start, start + DIGITS)

    def copy(self, row: Tokens, random: Random) -> slice:
        """A passage, half the time of random tokens, that comes again; all but its first token."""
        size = int(random.integers(COPY[0], min(COPY[1], len(row) // 2) + 1))
        again = int(random.integers(size, len(row) - size + 1))
        first = int(random.integers(again - size + 1))
        if random.random() < 0.5:
            row[first : first + size] = random.integers(1, self.vocab_size, size)
        row[again : again + size] = row[first : first + size]
        return slice(again + 1, again + size)


class Batches:
    """Batch number `step` of a training: a pure function of (tokens, seed, step), so of no state.

    Windows of `length` + 1 tokens, non-overlapping targets, in a new order and from a new offset
    in each epoch. Of every 16 rows the first gets a pass key, the second a passage that comes
    twice.
    """

    def __init__(self, tokens: Tokens, needles: Needles, size: int, length: int, seed: int) -> None:
        self.windows = (len(tokens) - 1) // length - 1
        if self.windows < 1 or length < needles.shortest:
            raise ValueError(
                f"{len(tokens)} tokens and windows of {length}: give at least {2 * length + 1} "
                f"tokens, and windows of at least {needles.shortest}"
            )
        self.tokens, self.needles = tokens, needles
        self.size, self.length, self.seed = size, length, seed
        self._epoch, self._starts = -1, np.empty(0, np.int64)

    def __call__(self, step: int) -> Tokens:
        """uint16 tokens of shape (size, length + 1)."""
        samples = np.arange(step * self.size, (step + 1) * self.size)
        starts = np.asarray([self._start(sample) for sample in samples.tolist()])
        rows = self.tokens[starts[:, None] + np.arange(self.length + 1)]
        random = np.random.default_rng([self.seed, 1, step])
        for i in range(0, self.size, 16):
            self.needles.passkey(rows[i], random)
            if i + 1 < self.size:
                self.needles.copy(rows[i + 1], random)
        return rows

    def passkeys(self, windows: Tokens) -> tuple[Tokens, NDArray[np.int64]]:
        """Copies of the windows with a pass key asked for at their ends; (n, 5) places of it."""
        rows, random = windows.copy(), np.random.default_rng([self.seed, 2])
        answers = [self.needles.passkey(row, random, at_end=True) for row in rows]
        return rows, np.asarray([range(a.start, a.stop) for a in answers], dtype=np.int64)

    def _start(self, sample: int) -> int:
        epoch, place = divmod(sample, self.windows)
        if epoch != self._epoch:
            random = np.random.default_rng([self.seed, 0, epoch])
            offset = random.integers(self.length)
            self._starts = random.permutation(self.windows) * self.length + offset
            self._epoch = epoch
        return int(self._starts[place])
