"""What a long context is for: a pass key found again, and a passage copied.

    … The pass key is 71432. Remember it. 71432 is the pass key. … What is the pass key? The pass
    key is 71432

The key counts as found if each token with a digit of it is the likeliest one given those before:
exactly then greedy decoding writes it on. Its average -ln p is kept as well: hits alone are coarse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from zlib import crc32

import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import Tensor

from whatwhere.extend.base.needles import ANSWER, DIGITS, NEEDLE
from whatwhere.extend.forward import Reader

__all__ = ["ASKED", "Found", "Samples", "copies", "passkeys", "score"]

ASKED = "digits"
"""What of a pass key is asked for. Rows of another rule (the blank before it as well, which is a
token of its own for some models) are not compared with these."""

PASSAGE = 32
"""Tokens of the passage that is copied."""

Tokens = Int64[Tensor, "_"]


@dataclass(frozen=True)
class Samples:
    """Rows of equal length whose last tokens are to be predicted; count: how many of each."""

    rows: list[Tokens]
    counts: list[int]


@dataclass(frozen=True)
class Found:
    """Of samples: all their tokens right (hits), tokens right, sum of -ln p, and how many."""

    hits: int
    right: int
    nll: float
    samples: int
    tokens: int


def passkeys(
    text: Tokens, tokenizer: Any, length: int, depth: float, samples: int, seed: int
) -> Samples:
    """Rows of `length` tokens: text with a key at `depth` of it (0: at the start), asked for last.

    Equal arguments give equal rows, whatever the method. ValueError if `length` has no room.
    """
    rows, counts = [], []
    for number in range(samples):
        random = _random("key", seed, length, depth, number)
        key = "".join(str(int(d)) for d in torch.randint(10, (DIGITS,), generator=random))
        needle = _ids(tokenizer, NEEDLE.format(key=key))
        question, answer = _asked(tokenizer, key)
        room = length - len(needle) - len(question) - len(answer)
        if room < 2:
            raise ValueError(f"{length} tokens have no room for a pass key and its question")
        filler = _filler(text, room, random)
        place = round(depth * room)
        parts = [filler[:place], needle, filler[place:], question, answer]
        rows.append(torch.cat(parts))
        counts.append(len(answer))
    return Samples(rows, counts)


def copies(text: Tokens, length: int, depth: float, samples: int, seed: int) -> Samples:
    """Rows whose last `PASSAGE` tokens, drawn at random from the text's, stood at `depth` before.

    The first token of the repeated passage says where to copy from; the others are predicted.
    """
    rows = []
    for number in range(samples):
        random = _random("copy", seed, length, depth, number)
        passage = text[torch.randint(len(text), (PASSAGE,), generator=random)]
        room = length - 2 * PASSAGE
        if room < 2:
            raise ValueError(f"{length} tokens have no room for a passage of {PASSAGE} twice")
        filler = _filler(text, room, random)
        place = round(depth * (room - 1))  # never right before its copy
        rows.append(torch.cat([filler[:place], passage, filler[place:], passage]))
    return Samples(rows, [PASSAGE - 1] * samples)


def score(reader: Reader, samples: Samples, device: str, batch_tokens: int) -> Found:
    """Run the samples, some at a time, and count."""
    hits = right = tokens = 0
    total = 0.0
    size = max(1, batch_tokens // len(samples.rows[0]))
    for start in range(0, len(samples.rows), size):
        rows = torch.stack(samples.rows[start : start + size]).to(device)
        counts = samples.counts[start : start + size]
        most = max(counts)
        logits = reader.at_end(rows, most)
        for row, found, count in zip(rows, logits, counts, strict=True):
            wanted, found = row[-count:], found[-count:]
            good = int((found.argmax(-1) == wanted).sum())
            total += float(F.cross_entropy(found, wanted, reduction="sum"))
            hits, right, tokens = hits + (good == count), right + good, tokens + count
    return Found(hits, right, total, len(samples.rows), tokens)


def _random(*what: Any) -> torch.Generator:
    """A generator that only these values decide, on any machine."""
    return torch.Generator().manual_seed(crc32(repr(what).encode()))


def _filler(text: Tokens, room: int, random: torch.Generator) -> Tokens:
    if len(text) < room:
        raise ValueError(f"the text has {len(text):,} tokens, and {room:,} are to be filled")
    start = int(torch.randint(len(text) - room + 1, (1,), generator=random))
    return text[start : start + room]


def _asked(tokenizer: Any, key: str) -> tuple[Int64[Tensor, "question"], Int64[Tensor, "answer"]]:
    """Tokens of the question and of the answer; the point behind the answer is not asked for.

    A blank that is a token of its own belongs to the question: a model that would rather go on
    with "is in" than with "is 7…" has not lost the key (SmolLM2 does so within its own length).
    """
    whole = _ids(tokenizer, ANSWER.format(key=key).removesuffix("."))
    question = _ids(tokenizer, ANSWER.split("{key}")[0].rstrip())
    same = 0
    while same < len(question) and bool(whole[same] == question[same]):
        same += 1
    while same < len(whole) and not tokenizer.decode(whole[same : same + 1]).strip():
        same += 1
    return whole[:same], whole[same:]


def _ids(tokenizer: Any, text: str) -> Tokens:
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor(ids, dtype=torch.int64)
