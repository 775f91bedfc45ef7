"""Loss and accuracy of stacked decoders on the examples of a split."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from whatwhere.study.stacked import Stacked
from whatwhere.study.step import losses_of
from whatwhere.tasks import IGNORED, Drawn, exact_match

__all__ = ["Scores", "scores"]

TOKENS = {"cpu": 8192, "cuda": 262144}
"""Tokens of one batch, all seeds together."""

LOGITS = 2**31
"""Logits of one batch: 8 GiB in float32, of which the loss keeps a few copies."""


@dataclass(frozen=True)
class Scores:
    """Per seed: mean -log p(target) in nats, and the share of examples whose answer is right.

    targets and examples are the numbers of what was scored; an example is right if the most likely
    token is, at every one of its targets.
    """

    nll: list[float]
    accuracy: list[float]
    targets: int
    examples: int


@torch.no_grad()
def scores(
    stacked: Stacked,
    data: Drawn,
    split: str,
    limit: int | None = None,
    precision: str = "float32",
) -> Scores:
    """Scores of every seed on the first examples of `split`, `limit` input tokens at most.

    The same examples for all seeds, in evaluation mode. UnknownName for another split.
    """
    seeds, device = len(stacked.decoders), stacked.embedding.weight.device
    # Where every token is scored, logits of a large vocabulary are what fills a memory.
    most = min(TOKENS.get(device.type, 8192), LOGITS // data.vocab_size)
    size = max(1, most // (data.length * seeds))
    examples = None if limit is None else max(1, limit // data.length)
    nll = torch.zeros(seeds, dtype=torch.float64, device=device)
    right, targets, count = torch.zeros_like(nll), torch.zeros_like(nll[0]), 0
    was = stacked.training
    stacked.eval()
    try:
        for inputs, wanted in data.held_out(split, size, device, examples):
            found, hits = _batch(stacked, inputs, wanted, data.scored, precision)
            nll += found
            right += hits
            targets += (wanted != IGNORED).sum()
            count += len(inputs)
    finally:
        stacked.train(was)
    total = int(targets)
    return Scores((nll / max(1, total)).tolist(), (right / count).tolist(), total, count)


def _batch(
    stacked: Stacked, inputs: Tensor, targets: Tensor, scored: int | None, precision: str
) -> tuple[Tensor, Tensor]:
    """Summed losses and right examples of a batch, one a seed."""
    seeds, half = len(stacked.decoders), precision == "bfloat16"
    context = torch.autocast(inputs.device.type, torch.bfloat16) if half else nullcontext()
    with context:
        logits = stacked(inputs.expand(seeds, *inputs.shape), scored)
    targets = targets[..., -logits.shape[2] :].expand(seeds, -1, -1)
    nll = losses_of(logits, targets, logits.shape[-1])
    return nll.double(), exact_match(logits, targets).double().sum(1)
