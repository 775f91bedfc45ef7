"""Texts to measure on: the user's files, else English that every CPython carries."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

__all__ = ["Text", "manual", "of_files", "tokens_of"]


@dataclass(frozen=True)
class Text:
    """A text and what it is called in the rows: names of files, and a hash of all of it."""

    content: str
    name: str

    @property
    def fingerprint(self) -> str:
        """Name and hash: the same file name can hold another text tomorrow."""
        return f"{self.name} {hashlib.sha256(self.content.encode()).hexdigest()[:16]}"


def of_files(paths: Sequence[Path]) -> Text:
    """The files' texts, one after another.

    FileNotFoundError for a file that is not there, ValueError for one that is no UTF-8 text.
    """
    parts: list[str] = []
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"--text {path}: there is no such file")
        try:
            parts.append(path.read_text(encoding="utf-8-sig"))  # without a byte order mark
        except UnicodeDecodeError as error:
            raise ValueError(f"--text {path} is no text in UTF-8 (byte {error.start})") from None
    return Text("\n\n".join(parts), ", ".join(path.name for path in paths))


def manual() -> Text:
    """The prose of the Python language reference, which CPython carries as `pydoc_data.topics`.

    Code samples, grammar and tables are left out: paragraphs that are mostly words stay.
    """
    from pydoc_data import topics

    kept: dict[str, None] = {}  # topics share passages: each paragraph once, in order
    for name in sorted(topics.topics):
        for paragraph in topics.topics[name].split("\n\n"):
            if not paragraph.startswith(" ") and _is_prose(paragraph):
                kept[re.sub(r"\s+", " ", re.sub(r"[*`\"]", "", paragraph)).strip()] = None
    return Text("\n\n".join(kept), "pydoc_data.topics")


def _is_prose(paragraph: str) -> bool:
    letters = sum(each.isalpha() or each in " ,.;\n" for each in paragraph)
    return len(paragraph) > 120 and letters > 0.93 * len(paragraph)


def tokens_of(text: Text, tokenizer: Any, least: int) -> Int64[Tensor, "n"]:
    """The text's tokens, without special ones. ValueError if there are fewer than `least`."""
    ids = tokenizer(text.content, add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) < least:
        raise ValueError(
            f"{text.name} has {len(ids):,} tokens, and this needs {least:,}; give a longer --text, "
            "or a shorter --to"
        )
    return torch.tensor(ids, dtype=torch.int64)
