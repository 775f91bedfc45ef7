"""Sampling from a decoder, token by token, with the un-rotated cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whatwhere.errors import kind_of
from whatwhere.nn.checks import check_options, check_tokens

if TYPE_CHECKING:
    from whatwhere.nn.decoder import Decoder

__all__ = ["generate"]


@torch.no_grad()
def generate(
    model: Decoder,
    prompt: Int[Tensor, "b n"],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    stop: int | None = None,
    valid: Bool[Tensor, "b n"] | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "b m"]:
    """The prompt with up to max_new_tokens sampled tokens after it.

    Args:
        temperature: divides the logits; 0 takes the most probable token.
        top_k: sample among the k most probable only.
        stop: a token after which a row is finished; it is repeated to fill the row.
        valid: False at padding on the left of shorter prompts.
        generator: for reproducible samples.
    Raises ValueError before any computation for a bad option, or for more positions than the
    encoding can tell.
    """
    check_tokens("prompt", prompt, model.config.vocab_size)
    check_options(model.config, max_new_tokens, temperature, top_k, stop, generator)
    if valid is not None and not isinstance(valid, Tensor):
        raise TypeError(f"valid is {kind_of(valid)}; give a bool tensor, (batch, n)")
    if valid is not None and valid.shape == prompt.shape and not bool(valid[:, -1].all()):
        raise ValueError("valid is False at the end of a row; pad prompts on the left")
    total = prompt.shape[1] + max_new_tokens
    limit = model.active[0].max_length
    # The last token is drawn but never read: it needs no position.
    if limit is not None and total - 1 > limit:
        raise ValueError(
            f"{prompt.shape[1]} prompt tokens and {max_new_tokens} new ones need {total - 1} "
            f"positions, but the encoding has {limit}"
        )
    was_training = model.training
    model.eval()
    cache = model.new_cache(total)
    logits = model(prompt, valid=valid, cache=cache)[:, -1]
    tokens, done = prompt, torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)
    for step in range(max_new_tokens):
        following = _sample(logits, temperature, top_k, generator)
        if stop is not None:
            following = following.masked_fill(done, stop)
            done = done | (following == stop)
        tokens = torch.cat((tokens, following[:, None]), dim=1)
        if step + 1 == max_new_tokens or bool(done.all()):
            break
        logits = model(following[:, None], cache=cache)[:, -1]
    model.train(was_training)
    return tokens


def _sample(
    logits: Float[Tensor, "b vocab"],
    temperature: float,
    top_k: int | None,
    generator: torch.Generator | None,
) -> Int[Tensor, " b"]:
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.float() / temperature
    if top_k is not None:
        least = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).squeeze(-1)
