"""One model, one text, no logits that nobody asked for.

A text of 65,536 tokens and 49,152 words has 13 GB of logits. So the decoder runs once, in one pass
or in pieces through the key cache, and the head runs over a few positions at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

__all__ = ["Reader"]

PIECE = 128
"""Queries of a piece where several products are formed per pair: their scores stay in a CPU's
cache, and pairs that are not causal are never formed. Timed at 2,048 tokens: 9.2 s, whole 24.8."""

_LOGITS = 64 * 2**20
"""Logits that are formed at a time."""


class Reader:
    """Scores tokens with a causal language model of transformers, under `hf.use` or not.

    `pieces`: None for one pass, else how many tokens enter at a time (streamed, through the cache).
    """

    def __init__(self, model: Any, pieces: int | None = None) -> None:
        self.model, self.pieces = model, pieces
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.decoder = inner.base_model
        self.head = inner.get_output_embeddings()
        config = inner.config.get_text_config()
        self.vocab = int(config.vocab_size)
        self._multiplied = float(getattr(config, "logit_scale", None) or 1.0)  # Cohere
        self._divided = float(getattr(config, "logits_scaling", None) or 1.0)  # Granite
        self._cap = getattr(config, "final_logit_softcapping", None)  # Gemma 2

    @torch.no_grad()
    def losses(self, ids: Int64[Tensor, "b n"]) -> Float[Tensor, "b n-1"]:
        """-ln p of every token but the first, in float32, on the model's device."""
        found: list[Tensor] = []
        targets, start = ids[:, 1:], 0
        for hidden in self._hidden(ids[:, :-1]):
            step = max(1, _LOGITS // (self.vocab * len(ids)))
            for part in hidden.split(step, dim=1):
                wanted = targets[:, start : start + part.shape[1]]
                # Words last: with them in the middle a GPU's softmax walks through memory in
                # strides, and takes longer than the whole model.
                lost = F.cross_entropy(
                    self.logits(part).flatten(0, 1), wanted.flatten(), reduction="none"
                )
                found.append(lost.view_as(wanted))
                start += part.shape[1]
        return torch.cat(found, dim=1)

    @torch.no_grad()
    def at_end(self, ids: Int64[Tensor, "b n"], count: int) -> Float[Tensor, "b count v"]:
        """Logits that predict the last `count` tokens."""
        kept: list[Tensor] = []
        for hidden in self._hidden(ids[:, :-1]):
            kept = [torch.cat([*kept, hidden], dim=1)[:, -count:]]
        return self.logits(kept[0])

    def logits(self, hidden: Float[Tensor, "b n w"]) -> Float[Tensor, "b n v"]:
        """What the model's own head makes of hidden states, in float32."""
        found = self.head(hidden).float() * (self._multiplied / self._divided)
        return found if self._cap is None else torch.tanh(found / self._cap) * self._cap

    def _hidden(self, ids: Tensor) -> Iterator[Tensor]:
        if self.pieces is None or ids.shape[1] <= self.pieces:
            yield self.decoder(input_ids=ids, use_cache=False).last_hidden_state
            return
        from transformers import DynamicCache

        # No config: a cache that forgets what a window hides costs the positions of the rest.
        past = DynamicCache()
        for part in ids.split(self.pieces, dim=1):
            output = self.decoder(input_ids=part, past_key_values=past, use_cache=True)
            yield output.last_hidden_state


def agrees(reader: Reader, ids: Int64[Tensor, "b n"]) -> bool:
    """Whether decoder and head, called apart, give the model's own logits (1e-3 of the largest)."""
    with torch.no_grad():
        own = reader.model(input_ids=ids[:, :-1]).logits.float()
    found = reader.at_end(ids, ids.shape[1] - 1)
    largest = max(1.0, float(own.abs().max()))
    return (
        float((own - found).abs().max()) <= (1e-3 if own.dtype == torch.float32 else 2e-2) * largest
    )
