"""Our un-rotated key cache in the shape that transformers' `generate` wants."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers.cache_utils import Cache

from whatwhere.cache import KVCache
from whatwhere.errors import whole_number

__all__ = ["DecoderCache"]

ROOM = 256
"""Tokens that a cache has room for at first, where nobody knows how many there will be."""


class Growing(KVCache):
    """A `KVCache` that doubles its room in place of raising when it is full."""

    def advance(
        self, positions: Int[Tensor, "b n"], valid: Bool[Tensor, "b n"] | None = None
    ) -> None:
        needed = self.length + positions.shape[-1]
        if needed > self.capacity:
            self._grow(max(needed, 2 * self.capacity))
        super().advance(positions, valid)

    def _grow(self, capacity: int) -> None:
        self.capacity = capacity
        for store in (self._keys, self._values):
            for layer, tensor in enumerate(store):
                if tensor is not None:
                    store[layer] = _longer(tensor, capacity, axis=2)
        if self._positions is not None and self._valid is not None:
            self._positions = _longer(self._positions, capacity, axis=1)
            self._valid = _longer(self._valid, capacity, axis=1)


class DecoderCache(Cache):
    """Keys and values of a `DecoderForCausalLM` between calls: `past_key_values`.

    `tokens` is the `KVCache` itself. Beams, assisted decoding and prompts that go on work; the
    parts of transformers' caches that hold layers of their own (static, quantized) do not exist.
    """

    def __init__(self, layers: int, capacity: int = ROOM) -> None:
        super().__init__(layers=[])
        self.tokens = Growing(layers, capacity)

    def __len__(self) -> int:
        return self.tokens.layers

    def __repr__(self) -> str:
        return f"DecoderCache({self.tokens.layers} layers, {self.tokens.length} tokens)"

    def get_seq_length(self, layer_idx: int = 0) -> int:
        del layer_idx
        return self.tokens.length

    def get_max_length(self, layer_idx: int | None = None) -> int:
        del layer_idx
        return -1  # transformers' word for: it grows

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        del layer_idx
        return self.tokens.length + query_length, 0

    @property
    def batch_size(self) -> int:
        """Rows, or -1 as long as there are none."""
        return self.tokens.positions.shape[0] if self.tokens.length else -1

    @property
    def is_initialized(self) -> bool:
        """Whether any token was cached."""
        return self.tokens.length > 0

    def update(self, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Not for callers: the decoder itself fills `tokens`. Raises TypeError."""
        raise TypeError("a DecoderCache is filled by DecoderForCausalLM, not through update")

    def reset(self) -> None:
        # Not crop(0): the next rows may be more or fewer.
        self.tokens = Growing(self.tokens.layers, self.tokens.capacity)

    def crop(self, tokens_to_remove: int | Tensor) -> None:
        """Forget the last tokens: -n forgets n, as transformers counts.

        Raises ValueError above 0 (releases before 5.18 meant the length that stays) and for more
        tokens than there are.
        """
        if isinstance(tokens_to_remove, Tensor):  # releases before 5.18
            tokens_to_remove = int(tokens_to_remove)
        count = -whole_number("tokens_to_remove", tokens_to_remove, least=None)
        if not 0 <= count <= self.tokens.length:
            raise ValueError(
                f"tokens_to_remove is {tokens_to_remove}; give 0 to -{self.tokens.length}, the "
                "number of cached tokens, negative"
            )
        self.tokens.crop(self.tokens.length - count)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        if self.tokens.length:
            self.tokens.select(beam_idx.to(torch.int64))

    def batch_select_indices(self, indices: Tensor) -> None:
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.tokens.length:
            rows = torch.arange(self.batch_size, device=self.tokens.positions.device)
            self.tokens.select(rows.repeat_interleave(whole_number("repeats", repeats)))


def _longer(tensor: Tensor, capacity: int, axis: int) -> Tensor:
    """The tensor with room for `capacity` along an axis; what is new is not written."""
    shape = list(tensor.shape)
    shape[axis] = capacity
    grown = tensor.new_empty(shape)
    grown.narrow(axis, 0, tensor.shape[axis]).copy_(tensor)
    return grown
