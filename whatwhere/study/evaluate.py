"""The negative log-likelihood of a stream at a given context length."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import Tensor

from whatwhere.nn import Decoder
from whatwhere.tasks import windows

__all__ = ["batch_of", "dense", "nll"]

TOKENS = 8192
"""Tokens of one batch where attention is fused: more would not be faster on two cores."""

DENSE_BYTES = 2**30
"""What the score matrices of a batch may take where attention is dense."""

_LIVE = 6  # score matrices alive at once in the reference backend: scores, masks, weights, …


@torch.no_grad()
def nll(
    model: Decoder,
    stream: Int64[Tensor, " tokens"],
    length: int,
    limit: int | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[float, int]:
    """Mean of -log p(token | its window so far) in nats, and the number of tokens scored.

    The stream is cut into non-overlapping windows of `length` inputs (`tasks.windows`; `limit`
    bounds the tokens scored), each read in one pass: a token's context is what stands before it in
    its window, length / 2 tokens on average. The model is used as it is: call
    `model.use(expression, factor=…)` before. KeyboardInterrupt when `stop()` says so.
    """
    inputs, targets = windows(stream, length, limit)
    size, total = batch_of(model, length), 0.0
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(inputs), size):
            if stop():
                raise KeyboardInterrupt
            logits = model(inputs[start : start + size].to(model.device))
            losses = F.cross_entropy(
                logits.float().flatten(0, 1),
                targets[start : start + size].to(model.device).flatten(),
                reduction="none",
            )
            total += float(losses.double().sum())
    finally:
        model.train(was_training)
    return total / targets.numel(), targets.numel()


def batch_of(model: Decoder, length: int) -> int:
    """Windows in a batch, so that its largest tensors stay within memory."""
    size = max(1, TOKENS // length)
    if dense(model, length):
        matrix = 4 * model.config.heads * length**2 * _LIVE
        size = max(1, min(size, DENSE_BYTES // matrix))
    return size


def dense(model: Decoder, length: int) -> bool:
    """Whether whole score matrices are built: several terms, or scores that need pairs of vectors.

    `attend` chooses the backend call by call; this is what no fused backend of a CPU takes.
    """
    rule = model.active[0].rule(length)
    return len(rule.cases) > 1 or rule.pairwise is not None
