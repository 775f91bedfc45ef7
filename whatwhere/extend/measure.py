"""One measurement of a model as it stands: perplexity, a sliding window, pass keys, copies."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from whatwhere.extend import retrieval
from whatwhere.extend.forward import PIECE, Reader
from whatwhere.extend.models import Source
from whatwhere.extend.plan import Plan

__all__ = ["BLOCKS", "measured"]

BLOCKS = 32
"""Equal parts of the text whose losses a row keeps: methods are compared part by part."""

STOCK = 32768
"""Tokens beyond which transformers' own code reads in pieces of a quarter of them, through its key
cache: with grouped heads in float32 it makes every score at once, 144 GiB a layer at 65,536."""

Row = dict[str, Any]
Tokens = Int64[Tensor, "_"]


def measured(
    plan: Plan, source: Source, model: Any, text: Tokens, row: Row, encoding: Any, engine: str
) -> Row:
    """What a row asks for (task, mode, eval_length, depth): value, n, and the details of its task.

    ValueError where the model's probabilities are not finite.
    """
    length, task = row["eval_length"], row["task"]
    pieces = None
    if row["mode"] == "streamed":
        pieces = plan.streamed
    elif engine == "whatwhere" and plan.in_pieces(len(encoding.rule(2).terms)):
        # The same numbers as in one pass, unless frequencies follow the length of the text.
        pieces = None if encoding.length_dependent else PIECE
    elif engine == "transformers" and length > STOCK and not encoding.length_dependent:
        pieces = STOCK // 4
    reader = Reader(model, pieces)
    if task == "perplexity" and row["mode"] == "sliding":
        return sliding(plan, reader, text, length)
    if task == "perplexity":
        found = summary(losses(plan, reader, text, length), length, source.train_length)
        return found if row["mode"] == "streamed" else found | {"pieces": pieces}
    filler = text[: max(plan.scored + 1, length)]
    if task == "passkey":
        samples = retrieval.passkeys(
            filler, source.tokenizer, length, row["depth"], plan.keys, plan.seed
        )
    else:
        samples = retrieval.copies(filler, length, 0.1, plan.copies, plan.seed)
    found = retrieval.score(reader, samples, plan.device, plan.batch_tokens)
    _finite(found.nll)
    share = found.hits / found.samples if task == "passkey" else found.right / found.tokens
    return {
        "value": share,
        "n": found.samples,
        "token_accuracy": found.right / found.tokens,
        "answer_nll": found.nll / found.tokens,
    }


def losses(plan: Plan, reader: Reader, text: Tokens, length: int) -> Float[Tensor, "_"]:
    """-ln p of `plan.scored` tokens in windows of `length`, every token but the first once."""
    scored = plan.scored
    found = torch.empty(scored)
    whole = scored // length
    step = max(1, plan.batch_tokens // length)
    for start in range(0, whole, step):
        count = min(step, whole - start)
        ids = text[start * length : (start + count) * length + 1].unfold(0, length + 1, length)
        part = reader.losses(ids.to(plan.device)).cpu()
        found[start * length : (start + count) * length] = part.flatten()
    if scored > whole * length:  # the rest, with what context there is
        ids = text[whole * length : scored + 1][None].to(plan.device)
        found[whole * length :] = reader.losses(ids)[0].cpu()
    return found


def summary(losses: Float[Tensor, "_"], length: int, trained: int) -> Row:
    """Mean over all tokens, over equal parts of the text, and by place in the window."""
    _finite(float(losses.sum()))
    edges = [0, *_edges(trained, length)]
    place = torch.arange(len(losses)) % length
    by_place = [losses[(place >= a) & (place < b)] for a, b in pairwise(edges)]
    blocks = [float(part.double().mean()) for part in losses.tensor_split(BLOCKS)]
    return {
        "value": float(losses.double().mean()),
        "n": len(losses),
        "blocks": [round(each, 5) for each in blocks],
        "positions": edges,
        "by_position": [round(float(part.double().mean()), 5) for part in by_place],
    }


def sliding(plan: Plan, reader: Reader, text: Tokens, length: int) -> Row:
    """Mean -ln p where each token has at least length - stride tokens before it."""
    total, n = 0.0, 0
    for start, end, scored in places(plan, len(text), length):
        found = reader.losses(text[start:end][None].to(plan.device))[:, -scored:]
        total, n = total + float(found.double().sum()), n + found.numel()
    _finite(total)
    return {"value": total / n, "n": n, "stride": min(plan.sliding, length)}


def places(plan: Plan, tokens: int, length: int) -> list[tuple[int, int, int]]:
    """Windows a stride apart, (start, end), and how many tokens at their ends are scored.

    They end at the same places for every length, so that all are scored on the same tokens.
    """
    stride = min(plan.sliding, length)
    count = max(1, min(plan.sliding_windows, (tokens - 1 - plan.longest) // stride + 1))
    ends = [plan.longest + number * stride + 1 for number in range(count)]
    return [(end - length - 1, end, stride) for end in ends]


def _edges(trained: int, length: int) -> Iterator[int]:
    """Ends of position buckets: the halves of the trained length, then doublings up to length."""
    edge = max(1, trained // 4)
    while edge < length:
        yield edge
        edge *= 2
    yield length


def _finite(value: float) -> None:
    if not math.isfinite(value):
        raise ValueError("the model's probabilities are not finite")
