"""A task: three token streams and what one needs to read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from whatwhere.errors import UnknownName, did_you_mean, whole_number

Progress = Callable[[int, int], object]
"""Called as ``progress(done, total)`` while a slow first load works; what it returns is ignored."""


def no_file(path: Path) -> str:
    """The sentence for a path that is no file, which may be a folder."""
    folder = "that is a folder; give the file in it" if path.is_dir() else "there is no such file"
    return f"data={str(path)!r}: {folder}"


@dataclass(frozen=True, eq=False)
class Task:
    """Data to train and evaluate on: one stream of token ids per split.

    The streams are int64 of shape (tokens,) with values in [0, vocab_size); no piece stands in two
    of them. Text that is only evaluated on has an empty train and valid. `unit` is what one token
    is ("note", "byte"), for labels such as "nats per note".
    `describe` is one sentence for a report, `metadata` holds what a reader of the tokens needs
    (special tokens, pitches) and the counts that a report quotes.
    """

    name: str
    vocab_size: int
    train: Int64[Tensor, " train"]
    valid: Int64[Tensor, " valid"]
    test: Int64[Tensor, " test"]
    unit: str
    describe: str
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        for split, stream in self.splits().items():
            empty = not stream.numel()
            if stream.dtype != torch.int64 or stream.ndim != 1 or (empty and split == "test"):
                raise ValueError(
                    f"{split} of task {self.name!r} is {stream.dtype} of shape "
                    f"{tuple(stream.shape)}; a stream is int64, one-dimensional and test not empty"
                )
            if empty:
                continue
            low, high = int(stream.min()), int(stream.max())
            if low < 0 or high >= self.vocab_size:
                raise ValueError(
                    f"{split} of task {self.name!r} holds tokens {low}..{high}; "
                    f"with vocab_size={self.vocab_size} they must be 0..{self.vocab_size - 1}"
                )

    def splits(self) -> dict[str, Tensor]:
        """The three streams by name, in the order train, valid, test."""
        return {"train": self.train, "valid": self.valid, "test": self.test}

    def cropped(self, **tokens: int) -> Task:
        """The first so many tokens of the splits named: ``task.cropped(train=25_000_000)``.

        metadata["cropped"] tells how many there were; the metadata's other counts but "tokens" stay
        those of the whole. UnknownName for another split, ValueError for more than there are.
        """
        streams = self.splits()
        before: dict[str, int] = {}
        for split, count in tokens.items():
            if split not in streams:
                raise UnknownName(did_you_mean("split", split, streams))
            before[split] = len(streams[split])
            if whole_number(split, count) > before[split]:
                raise ValueError(f"{split}={count}, but task {self.name!r} has {before[split]}")
            streams[split] = streams[split][:count]
        counts = ", ".join(f"{tokens[split]:,} of {before[split]:,} {split}" for split in tokens)
        return replace(
            self,
            **streams,
            describe=f"{self.describe}; the first {counts} tokens" if tokens else self.describe,
            metadata={
                **self.metadata,
                "tokens": {split: len(stream) for split, stream in streams.items()},
                "cropped": {**self.metadata.get("cropped", {}), **before},
            },
        )
