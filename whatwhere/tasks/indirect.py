"""Indirect indexing: find a letter in a string, go some places left or right, name what is there.

    QEOHoUbKfeSrMVNlCzXu,z,-3,N

    places     0 1 2 ...                      13 14 15 16 17 18 19
    string     Q E O H o U b K f e S r M V N  l  C  z  X  u
                                         ^ answer   ^ z, then 3 places to the left

The letter is content (*what*), the shift a position (*where*), and the answer needs both: with
RoPE, whose scores mix the two, the PoPE paper's model solves 11 % of the examples, with PoPE 95 %
(Gopalakrishnan et al., arXiv 2509.10534, section 4.1, appendix B.1, table 1).

The paper's rules: a string of 20 to 40 different letters of [A-Za-z]; a letter of it; a shift in
[-15, 15]; one token per character; loss and accuracy on the answer alone; 1M / 10k / 10k examples.
What it leaves open are options of `Indirect` here, each with its default and the reason for it.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from whatwhere.errors import UnknownName, did_you_mean, flag, whole_number
from whatwhere.tasks.drawn import IGNORED, SPLITS, Batch, Drawn, below, fold

CHARACTERS = ("", ",", "+", "-", *string.digits, *string.ascii_letters, " ")
"""The tokens: 0 is padding, 66, the space, is used only with spaces=True."""

PADDING, COMMA, PLUS, MINUS, ZERO, FIRST_LETTER = 0, 1, 2, 3, 4, 14
LETTERS = len(string.ascii_letters)
SPACE = FIRST_LETTER + LETTERS

TARGETS = {
    "pair": "letter and shift together, uniform over all pairs that stay inside the string",
    "shift": "the shift uniform, then the letter uniform among those that it keeps inside",
    "letter": "the letter uniform, then the shift uniform among those that stay inside",
    "wrap": "both uniform; past an end of the string it goes on at the other end",
}


@dataclass(frozen=True, eq=False)
class Indirect(Drawn):
    """Indirect indexing, `length` input tokens whose last one (of the text) predicts the answer.

    lengths: (shortest, longest) string, uniform between them; at most 52, as no letter repeats.
    shifts: those that are asked for, uniform as `target` says; give other ones than training's to
        test generalization (`indirect.shifts(16, 30)`). Zero is among the default ones: the paper
        writes "[-15, +15]".
    target: what happens at the ends of the string, a name of `TARGETS`. The paper does not say;
        "pair" is what drawing both and throwing away what leaves the string gives, the shortest
        program for its text (the one independent replication does so). It asks large shifts less
        often: 15 half to five eighths as often as 0 on strings of 30 to 40.
    zero: is 0 among the shifts kept? False removes it: its answer is the letter itself.
    spaces: is the space after a comma a token? The paper's vocabulary, "letters, digits, delimiter,
        +/-", has none.
    pad: "left" ends every example at the same place, so that the answer is always predicted by the
        last token, as its "final token" suggests; "right" starts every example at 0.
    width: input tokens, at least what the longest example needs (the default). The paper's table 8
        gives 40, which cannot hold a string of 40 letters and a question. Larger: more padding.
    score: "answer", the paper's loss, or "all", which also trains on the string and the question.
    train, valid, test: examples of each split; train=None draws new ones for ever. The paper: 1M,
        10k and 10k, about 6.4 passes in its 100k steps of 64.
    seed: chooses the data set. The splits are different keys of it: two of them share an example
        with a chance below 1e-20.

    A positive shift is written with "+", and zero as "+0", so that each one has a sign.
    Raises TypeError, ValueError or UnknownName for options that make no examples.
    """

    name = "indirect"
    unit = "answer"

    _: KW_ONLY
    lengths: tuple[int, int] = (20, 40)
    shifts: Sequence[int] = range(-15, 16)
    target: str = "pair"
    zero: bool = True
    spaces: bool = False
    pad: str = "left"
    width: int | None = None
    score: str = "answer"
    train: int | None = 1_000_000
    valid: int = 10_000
    test: int = 10_000
    seed: int = 0
    _tables: dict[torch.device, Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shortest, longest = (whole_number("lengths", length, 2) for length in self.lengths)
        if shortest > longest or longest > LETTERS:
            raise ValueError(
                f"lengths={self.lengths} must be (shortest, longest) with "
                f"2 <= shortest <= longest <= {LETTERS}, the number of different letters"
            )
        for name, known in (("target", TARGETS), ("pad", _PADS), ("score", _SCORES)):
            if getattr(self, name) not in known:
                raise UnknownName(did_you_mean(f"{name} of indirect", getattr(self, name), known))
        flag("zero", self.zero)
        flag("spaces", self.spaces)
        for split in SPLITS:
            if split != "train" or self.train is not None:
                whole_number(split, getattr(self, split))
        whole_number("seed", self.seed, None)
        shifts = sorted({whole_number("shifts", shift, None) for shift in self.shifts})
        self._set("shifts", tuple(s for s in shifts if s or self.zero))
        self._check_shifts(shortest)
        # string , letter , sign digits , and the answer, which is never an input
        needed = longest + 5 + len(str(max(map(abs, self.shifts)))) + 3 * self.spaces
        width = needed if self.width is None else whole_number("width", self.width)
        if width < needed:
            raise ValueError(f"width={width} is too small: the longest example takes {needed}")
        self._set("width", width)
        self._describe(width)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # frozen: nobody else changes what names the data

    def _describe(self, width: int) -> None:
        self._set("length", width)
        self._set("scored", 1 if (self.pad, self.score) == ("left", "answer") else None)
        self._set("vocab_size", SPACE + self.spaces)
        self._set("sizes", {split: getattr(self, split) for split in SPLITS})
        names = ("lengths", "shifts", "target", "zero", "spaces", "pad", "width", "score", "seed")
        self._set("metadata", {name: getattr(self, name) for name in names} | self.sizes)
        self._set(
            "describe",
            f"indirect indexing, strings of {self.lengths[0]} to {self.lengths[1]} letters, "
            f"{len(self.shifts)} shifts from {self.shifts[0]} to {self.shifts[-1]}, "
            f"target by {self.target}",
        )
        self._set("_tables", {})

    def _check_shifts(self, shortest: int) -> None:
        if not (shifts := self.shifts):
            raise ValueError("shifts holds no shift; give at least one besides 0, or zero=True")
        if max(map(abs, shifts)) > 99:
            raise ValueError(f"shifts={shifts} must lie in [-99, 99]: two digits")
        nearest = min(map(abs, shifts))
        if self.target != "wrap" and nearest >= shortest:
            raise ValueError(
                f"shifts: even {nearest} leaves every string of {shortest} letters, and "
                f"lengths={self.lengths} draws such; give a smaller shift or target='wrap'"
            )

    def examples(self, split: str, numbers: Int64[Tensor, "*batch"]) -> Batch:
        """The examples `numbers` of `split`, as `Drawn.examples` says."""
        self._size(split)
        flat = numbers.reshape(-1)
        key = fold(fold(self.seed, SPLITS.index(split)), flat)
        rows, ends = self._write(*self._draw(key))
        columns = torch.arange(self.length + 1, device=flat.device)
        inputs = torch.where(columns == ends[:, None], PADDING, rows)[:, :-1]
        if self.score == "answer":
            scored = columns == ends[:, None]
        else:
            scored = rows != PADDING
        targets = torch.where(scored, rows, IGNORED)[:, 1:]
        shape = (*numbers.shape, self.length)
        return inputs.reshape(shape), targets.reshape(shape)

    def _table(self, device: torch.device) -> Int64[Tensor, " shifts"]:
        """The shifts on `device`, copied there once: a CUDA graph cannot hold the copy."""
        if device not in self._tables:
            self._tables[device] = torch.tensor(self.shifts, device=device)
        return self._tables[device]

    def _draw(self, key: Int64[Tensor, " n"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Letters in random order (n, 52), how many form the string, place and shift, all (n,)."""
        device, (shortest, longest) = key.device, self.lengths
        letters = fold(key[:, None], torch.arange(LETTERS, device=device)).argsort(-1)
        size = shortest + below(fold(key, LETTERS), longest - shortest + 1)
        shifts = self._table(device)
        places = torch.arange(longest, device=device)
        first, second = fold(key, LETTERS + 1), fold(key, LETTERS + 2)
        rows = torch.arange(len(key), device=device)
        ends = places[:, None] + shifts  # (places, shifts)
        inside = (places[:, None] < size[:, None, None]) & (
            (self.target == "wrap") | ((ends >= 0) & (ends < size[:, None, None]))
        )
        if self.target in ("letter", "wrap"):
            place = _pick(first, inside.any(2))
            shift = _pick(second, inside[rows, place])
        else:
            count = inside.sum(1)
            shift = _pick(first, count if self.target == "pair" else count > 0)
            place = _pick(second, inside[rows, :, shift])
        return letters, size, place, shifts[shift]

    def _write(
        self, letters: Tensor, size: Tensor, place: Tensor, shift: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The text as tokens, answer included, padded: (n, width + 1), and the answer's place."""
        n, longest = len(size), self.lengths[1]
        string_ = FIRST_LETTER + letters[:, :longest]
        asked, answer = (
            string_.gather(1, (p % size)[:, None]).squeeze(1) for p in (place, place + shift)
        )
        comma, space = torch.full_like(size, COMMA), torch.full_like(size, SPACE)
        always = torch.ones_like(size, dtype=torch.bool)
        spaced = always & self.spaces
        distance = shift.abs()
        # Slots in the order of the text, each with the examples that have it.
        slots = [(comma, always), (space, spaced), (asked, always), (comma, always)]
        slots += [(space, spaced), (torch.where(shift < 0, MINUS, PLUS), always)]
        slots += [(ZERO + distance // 10, distance > 9), (ZERO + distance % 10, always)]
        slots += [(comma, always), (space, spaced), (answer, always)]
        tokens = torch.cat([string_, torch.stack([token for token, _ in slots], 1)], 1)
        there = torch.arange(longest, device=size.device) < size[:, None]
        there = torch.cat([there, torch.stack([kept for _, kept in slots], 1)], 1)
        total = there.sum(1)
        width = self.length + 1
        start = width - total if self.pad == "left" else torch.zeros_like(total)
        to = start[:, None] + there.long().cumsum(1) - 1
        rows = torch.full((n, width + 1), PADDING, dtype=torch.int64, device=size.device)
        rows.scatter_(1, torch.where(there, to, width), tokens)  # the last column takes the rest
        return rows[:, :width], start + total - 1


_PADS = ("left", "right")
_SCORES = ("answer", "all")


def shifts(least: int, most: int) -> tuple[int, ...]:
    """All shifts whose distance is in [least, most], to either side: shifts(16, 17) is ±16, ±17."""
    return tuple(s for s in range(-most, most + 1) if abs(s) >= least)


def text(inputs: Int64[Tensor, " length"], targets: Int64[Tensor, " length"] | None = None) -> str:
    """An example as one reads it, without padding: "abc,b,+1,", and the answer with `targets`."""
    tokens = inputs.tolist()
    if targets is not None:
        tokens.append(targets[targets != IGNORED][-1].item())
    return "".join(CHARACTERS[token] for token in tokens)


def _pick(bits: Int64[Tensor, " n"], weights: Tensor) -> Int64[Tensor, " n"]:
    """An index per row with probability in proportion to the whole `weights` (n, choices)."""
    cumulated = weights.long().cumsum(-1)
    return (cumulated <= below(bits, cumulated[:, -1])[:, None]).sum(-1)
