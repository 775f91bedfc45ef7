"""Windows of a token stream as examples by number: what `Task` holds, given out as `Drawn` does.

With length = 4 and the stream "abcdefghi"::

    train     example n starts at token n:     0 [abcd | bcde]   1 [bcde | cdef]   2 ...
    held out  example n starts at n · length:  0 [abcd | bcde]   1 [efgh | fghi]
"""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor

from whatwhere.errors import whole_number
from whatwhere.tasks.drawn import Batch, Drawn
from whatwhere.tasks.task import Task


class Windows(Drawn):
    """Windows of `length` tokens of a task's streams, every target scored.

    A training example is a window at any place, so that `batch` draws starts uniformly over all
    tokens − length places (of a stream of that many tokens). valid and test are the windows of
    `tasks.windows`: in order, non-overlapping, and the tokens at the end that fill no window left
    out, as a shorter one would have a context of its own. A window may reach over the border of two
    pieces; `Pieces` does not.

    The streams are copied once to each device that is asked for, in 2 bytes a token (4 for more
    than 65,536 kinds of tokens): before a CUDA graph is captured, draw one batch.

    ValueError, naming the split, for a stream of fewer than length + 1 tokens, if it has any.
    """

    def __init__(self, task: Task, length: int) -> None:
        self.length = whole_number("length", length)
        self.name, self.vocab_size, self.unit = task.name, task.vocab_size, task.unit
        sizes: dict[str, int] = {}
        for split, stream in task.splits().items():
            if 0 < len(stream) <= length:
                raise ValueError(
                    f"length={length} is too long: {split} of task {task.name!r} has "
                    f"{len(stream)} tokens, of which a window takes {length + 1}"
                )
            places = (len(stream) - 1) // length if split != "train" else len(stream) - length
            sizes[split] = max(places, 0)  # an empty stream has none
        self.sizes = {**sizes}
        self.describe = f"{task.describe}; windows of {length}"
        self.metadata = {**task.metadata, "length": length, "examples": sizes}
        self._streams = {
            split: Stream(stream, task.vocab_size) for split, stream in task.splits().items()
        }

    def examples(self, split: str, numbers: Int64[Tensor, "*batch"]) -> Batch:
        """The windows `numbers` of `split`, as `Drawn.examples` says; 0 <= number < sizes[split].

        IndexError for a larger one on the CPU, a failed assertion of CUDA on a GPU: the number is
        not looked at here, which would wait for the device.
        """
        self._size(split)
        starts = numbers if split == "train" else numbers * self.length
        columns = torch.arange(self.length + 1, device=numbers.device)
        rows = self._streams[split](starts[..., None] + columns)
        return rows[..., :-1].contiguous(), rows[..., 1:].contiguous()


class Stream:
    """A stream that is indexed on any device: `stream(places)` are its tokens there, int64.

    It lies on each device in the smallest integers that hold `vocab_size` tokens and that every
    backend can gather: int16 (read as unsigned) or int32.
    """

    def __init__(self, tokens: Int64[Tensor, " tokens"], vocab_size: int) -> None:
        self._wraps = vocab_size <= 1 << 16
        self._kept = {tokens.device: tokens.to(torch.int16 if self._wraps else torch.int32)}
        self._source = tokens.device

    def __call__(self, places: Int64[Tensor, "*places"]) -> Int64[Tensor, "*places"]:
        kept = self._kept.get(places.device)
        if kept is None:
            kept = self._kept[places.device] = self._kept[self._source].to(places.device)
        tokens = kept[places].to(torch.int64)
        return tokens & 0xFFFF if self._wraps else tokens
