"""Text from a file of your own, one token per byte.

    "Fugue" -> 70 117 103 117 101

Bytes need no tokenizer, know no unknown character and compare between any two texts. The file is
read as it is: UTF-8, Latin-1 or no text at all.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import torch

from whatwhere.tasks.task import Progress, Task

SHARES = (90, 5, 5)
"""Per cent of the file in train, valid and test, in this order and contiguous."""

MINIMUM = 40
"""Bytes: with fewer, 5 % holds no pair of (input, target)."""


def text(path: str | PathLike[str]) -> Task:
    """The bytes of the file at `path` as a task: vocabulary 256, split 90 / 5 / 5 in file order.

    Contiguous shares keep the end of the text unseen; shuffled lines would put a line's neighbours
    into training. The streams are int64, so they take 8 bytes of memory per byte of the file.

    FileNotFoundError if there is no such file, ValueError if it is no regular file or too short.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path={str(path)!r}: there is no such file")
    if not path.is_file():
        raise ValueError(f"path={str(path)!r} is no regular file; text reads one file")
    content = path.read_bytes()
    if len(content) < MINIMUM:
        raise ValueError(
            f"path={str(path)!r} has {len(content)} bytes; "
            f"a 90/5/5 split needs at least {MINIMUM}, a useful one some hundred thousand"
        )
    stream = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(torch.int64)
    held_out = len(stream) * SHARES[1] // 100
    train, valid, test = stream.split([len(stream) - 2 * held_out, held_out, held_out])
    return Task(
        name="text",
        vocab_size=256,
        train=train,
        valid=valid,
        test=test,
        unit="byte",
        describe=f"bytes of {path.name}, {len(stream):,} in all, split 90/5/5 in file order",
        metadata={"source": str(path), "tokens": [len(train), len(valid), len(test)]},
    )


def load(data: Path | None = None, progress: Progress | None = None) -> Task:
    """The bytes of a file of your own: `text(data)`. ValueError without a file."""
    if data is None:
        raise ValueError("task 'text' needs data=FILE, the file whose bytes it reads")
    return text(data)
