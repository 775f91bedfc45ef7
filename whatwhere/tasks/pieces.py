"""Whole pieces as examples: a chorale, a performance, a document, padded where it is shorter.

With length = 6 and pieces "^abc$" and "^abcdefgh$", `·` is what is not scored::

    [^abc..]  ->  [abc$··]                        one example: a piece that fits
    [^abcde] [fgh...]  ->  [abcdef] [gh$···]      held out: consecutive windows of a longer one
    [bcdefg]  ->  [cdefgh]                        training: `length` tokens from a random place

Padding stands to the right of what is scored, so that a causal model never sees it.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from whatwhere.errors import UnknownName, did_you_mean, whole_number
from whatwhere.tasks.drawn import IGNORED, SPLITS, Batch, Drawn, below, fold
from whatwhere.tasks.stream import Stream
from whatwhere.tasks.task import Task

LONG = {
    "split": "consecutive windows of the piece, the last one padded: every token is scored once",
    "first": "the first `length` tokens alone, as a model reads that never starts inside a piece",
}
OCTAVE = 12


class Pieces(Drawn):
    """The pieces of a task, one an example, in `length` tokens; targets are `IGNORED` at padding.

    A piece reaches from its start token to its end token, which is its last target: two separators
    (metadata["separator"]), or BOS and EOS (metadata["special"]). Pieces without a token in between
    are left out, and so is one without an end (of a stream that was cropped).

    Training example n is the piece n modulo their number; where it has more than `length` targets,
    `length` of them from a place that a hash of n chooses uniformly. `batch` draws the pieces
    uniformly, long ones no more often than short ones (`Windows` draws all tokens alike). valid
    and test are not cropped at random: `long`, a name of `LONG`, says what becomes of longer ones.

    transpose: in training, move all notes of an example by the same number of semitones, uniform in
    {-transpose, ..., transpose} by a hash of n. A note that leaves the vocabulary's pitches goes an
    octave back, and no other token changes. The task must name its pitches
    (metadata["pitch_tokens"]), and not have been transposed already.

    sizes["train"] is None, "without an end", where examples are cropped or transposed by n. The
    input at padding is PAD where the task has one, else token 0. Streams lie on devices as in
    `Windows`.

    ValueError for a task without pieces or pitches, or with a split that has none.
    """

    def __init__(self, task: Task, length: int, transpose: int = 0, long: str = "split") -> None:
        self.length = whole_number("length", length)
        self.transpose = whole_number("transpose", transpose, 0)
        if long not in LONG:
            raise UnknownName(did_you_mean("long of Pieces", long, LONG))
        self._pitches = _pitches(task, self.transpose) if self.transpose else None
        self._padding = int(task.metadata.get("special", {}).get("PAD", 0))
        found = {split: borders(task, split) for split in SPLITS if len(task.splits()[split])}
        longest = {split: int(counts.max()) for split, (_, counts) in found.items()}
        self._cuts = {
            split: torch.stack(each if split == "train" else _cut(*each, length, long))
            for split, each in found.items()
        }
        self._kept = {(split, cuts.device): cuts for split, cuts in self._cuts.items()}
        self._streams = {s: Stream(task.splits()[s], task.vocab_size) for s in found}
        self.name, self.vocab_size, self.unit = task.name, task.vocab_size, task.unit
        sizes = {s: self._cuts[s].shape[1] if s in found else 0 for s in SPLITS}
        varied = self.transpose or longest.get("train", 0) > length
        self.sizes = {**sizes, "train": None} if varied and sizes["train"] else {**sizes}
        self.describe = f"{task.describe}; pieces of up to {length}" + (
            f", training transposed by up to {transpose}" if transpose else ""
        )
        self.metadata = {
            **task.metadata, "length": length, "long": long, "transpose": self.transpose,
            "examples": sizes, "longest": longest,
        }  # fmt: skip

    def examples(self, split: str, numbers: Int64[Tensor, "*batch"]) -> Batch:
        """The examples `numbers` of `split`, as `Drawn.examples` says."""
        self._size(split)
        first, count = self._cut_table(split, numbers.device)
        if split == "train":
            piece = below(numbers, len(first))
            size = count[piece].clamp(max=self.length)
            start = first[piece] + below(fold(numbers, _PLACE), count[piece] - size + 1)
        else:
            start, size = first[numbers], count[numbers]
        columns = torch.arange(self.length + 1, device=numbers.device)
        # Past the end its last token is read again, which is then hidden.
        rows = self._streams[split](start[..., None] + columns.minimum(size[..., None]))
        if split == "train" and self._pitches is not None:
            shift = below(fold(numbers, _SHIFT), 2 * self.transpose + 1) - self.transpose
            rows = transposed(rows, shift[..., None], *self._pitches)
        scored = columns[:-1] < size[..., None]
        return (
            torch.where(scored, rows[..., :-1], self._padding),
            torch.where(scored, rows[..., 1:], IGNORED),
        )

    def _cut_table(self, split: str, device: torch.device) -> Int64[Tensor, "2 n"]:
        """Where the examples start and how many targets they have, copied to `device` once."""
        if split not in self._cuts:
            raise ValueError(f"task {self.name!r} has no tokens in {split}")
        if (split, device) not in self._kept:
            self._kept[split, device] = self._cuts[split].to(device)
        return self._kept[split, device]


def borders(task: Task, split: str) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    """Where each piece of `split` starts in its stream, and how many targets it has, end included.

    Piece i is stream[starts[i] : starts[i] + counts[i] + 1], from its start to its end token.
    ValueError for a task whose metadata name neither a separator nor BOS and EOS, and for a split
    without a piece; UnknownName for another split.
    """
    streams = task.splits()
    if split not in streams:
        raise UnknownName(did_you_mean("split", split, streams))
    stream, (first, last) = streams[split], _ends(task)
    starts, ends = ((stream == token).nonzero().flatten() for token in (first, last))
    starts, ends = starts.contiguous(), ends.contiguous()
    # The end that follows each start; none follows the start of a piece that was cropped.
    place = torch.searchsorted(ends, starts, right=True)
    starts, ends = starts[place < len(ends)], ends[place[place < len(ends)]]
    counts = ends - starts
    if not (counts > 1).any():
        raise ValueError(f"{split} of task {task.name!r} holds no whole piece")
    return starts[counts > 1], counts[counts > 1]


def transposed(
    tokens: Int64[Tensor, "*places"], semitones: Tensor | int, first: int, last: int
) -> Int64[Tensor, "*places"]:
    """`tokens` with those in [first, last], pitches a semitone apart, moved by `semitones`.

    A pitch that leaves [first, last] goes an octave back; all other tokens stay.
    """
    moved = tokens + semitones
    moved = moved + OCTAVE * ((moved < first).long() - (moved > last).long())
    return torch.where((tokens >= first) & (tokens <= last), moved, tokens)


def _ends(task: Task) -> tuple[int, int]:
    """The tokens at which a piece starts and ends."""
    special: dict[str, Any] = task.metadata.get("special", {})
    if "separator" in task.metadata:
        return task.metadata["separator"], task.metadata["separator"]
    if "BOS" in special and "EOS" in special:
        return special["BOS"], special["EOS"]
    raise ValueError(
        f"task {task.name!r} has no pieces: its metadata name no separator, nor BOS and EOS; "
        "Windows cuts any task"
    )


def _pitches(task: Task, transpose: int) -> tuple[int, int]:
    """The first and the last pitch token of a task that can be transposed."""
    if transpose > OCTAVE:
        raise ValueError(f"transpose is {transpose}; an octave, {OCTAVE}, is the most")
    if task.metadata.get("transpose"):
        raise ValueError(
            f"transpose={transpose}, but training of task {task.name!r} is transposed already, "
            f"by up to {task.metadata['transpose']}; tasks.pieces({task.name!r}, ...) loads it so "
            "that it is not"
        )
    first, last = task.metadata.get("pitch_tokens") or (0, 0)
    if last - first < OCTAVE - 1:
        raise ValueError(
            f"transpose={transpose}: task {task.name!r} names no pitch tokens, a semitone apart "
            "and an octave at least"
        )
    return int(first), int(last)


def _cut(
    starts: Tensor, counts: Tensor, length: int, long: str
) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    """Start and number of targets of every held-out window."""
    if long == "first":
        return starts, counts.clamp(max=length)
    number = (counts + length - 1) // length
    piece = torch.arange(len(starts)).repeat_interleave(number)
    before = length * (torch.arange(len(piece)) - (number.cumsum(0) - number)[piece])
    return starts[piece] + before, (counts[piece] - before).clamp(max=length)


_PLACE, _SHIFT = 0x706C616365, 0x7368696674
