"""Books to tokens: a byte-level BPE tokenizer, and the streams a training reads.

a directory with  tokenizer.json    trained on the books
                  train.npy.xz      uint16 tokens, a book after another, <|endoftext|> between
                  valid.npy.xz      the same, of books that training never sees
                  books.json        which book went where
"""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

__all__ = ["END", "Tokens", "load", "prepare"]

END = "<|endoftext|>"
SAMPLE = 60_000_000
"""Characters that the tokenizer is trained on: more change few of 4,096 merges."""

Tokens = NDArray[np.uint16]


def read(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The books of .jsonl or .jsonl.xz files: objects with "text" and perhaps author, title, year.

    FileNotFoundError, or ValueError with file and line for what is no such object.
    """
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"--data {path}: there is no such file")
        opener = lzma.open if path.suffix == ".xz" else open
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                book = json.loads(line) if line.strip().startswith("{") else None
                if not isinstance(book, dict) or not isinstance(book.get("text"), str):
                    raise ValueError(f'{path}:{number} is no JSON object with a "text"')
                yield cast("dict[str, Any]", book)


def prepare(
    paths: Sequence[Path],
    out: Path,
    vocab_size: int = 4096,
    per_book: int = 220_000,
    held_out: int = 8,
    seed: int = 0,
) -> None:
    """Write the directory that `load` reads.

    Of each book the first `per_book` characters are taken: many authors teach more than long books.
    `held_out` books, drawn by `seed`, become valid. ValueError if there are not more books.
    """
    books = list(read(paths))
    if len(books) <= held_out:
        raise ValueError(f"--data holds {len(books)} books; {held_out} are held out, give more")
    order = np.random.default_rng(seed).permutation(len(books)).tolist()
    parts = {"valid": order[:held_out], "train": order[held_out:]}
    texts = {part: [books[i]["text"][:per_book] for i in parts[part]] for part in parts}
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = _trained(texts["train"], vocab_size)
    tokenizer.save(str(out / "tokenizer.json"))
    summary: dict[str, Any] = {"vocab_size": vocab_size, "per_book": per_book, "seed": seed}
    for part, of_part in texts.items():
        tokens = _encoded(tokenizer, of_part)
        _write(out / f"{part}.npy.xz", tokens)
        summary[part] = {
            "characters": sum(map(len, of_part)),
            "tokens": len(tokens),
            "books": [
                {key: books[i].get(key) for key in ("author", "title", "year")} for i in parts[part]
            ],
        }
    (out / "books.json").write_text(json.dumps(summary, ensure_ascii=False, indent=1) + "\n")


def load(directory: Path, part: str) -> Tokens:
    """The tokens of "train" or "valid" in a directory that `prepare` wrote."""
    path = directory / f"{part}.npy.xz"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; give books, or what prepare wrote")
    with lzma.open(path, "rb") as file:
        return np.load(file)


def _trained(texts: list[str], vocab_size: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    # One digit a token: a number is then spelled, and a pass key of five digits has five tokens.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    each = SAMPLE // len(texts)
    tokenizer.train_from_iterator((text[:each] for text in texts), trainer)
    return tokenizer


def _encoded(tokenizer: Any, texts: list[str]) -> Tokens:
    end = tokenizer.token_to_id(END)
    streams: list[Tokens] = []
    for start in range(0, len(texts), 32):
        for encoding in tokenizer.encode_batch(texts[start : start + 32]):
            streams.append(np.asarray([*encoding.ids, end], dtype=np.uint16))
    return np.concatenate(streams)


def _write(path: Path, tokens: Tokens) -> None:
    neighbour = path.with_name(f".{path.name}.new")
    with lzma.open(neighbour, "wb", preset=6) as file:
        np.save(file, tokens)
    os.replace(neighbour, path)
