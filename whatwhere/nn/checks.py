"""What the decoder refuses before it computes, each with the argument and what would fit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from whatwhere.cache import KVCache
from whatwhere.errors import kind_of, real_number, whole_number
from whatwhere.nn.config import DecoderConfig

__all__ = ["check_call", "check_options"]


def check_call(
    config: DecoderConfig,
    tokens: Tensor,
    positions: Tensor | None,
    documents: Tensor | None,
    valid: Tensor | None,
    cache: KVCache | None,
) -> None:
    """Raise TypeError or ValueError unless the arguments of a forward pass fit each other."""
    check_tokens("tokens", tokens, config.vocab_size)
    batch, n = tokens.shape
    for name, value, dtype in (
        ("positions", positions, torch.int64),
        ("documents", documents, torch.int64),
        ("valid", valid, torch.bool),
    ):
        if value is None:
            continue
        if not isinstance(value, Tensor) or value.dtype != dtype:
            raise TypeError(f"{name} is {kind_of(value)}; give a tensor of {dtype}")
        shapes = [(batch, n)] if name == "valid" else [(n,), (1, n), (batch, n)]
        if value.shape not in shapes:
            wanted = " or ".join(map(str, shapes))
            raise ValueError(f"{name} has shape {tuple(value.shape)}; give {wanted}")
    if cache is None:
        return
    if not isinstance(cache, KVCache):
        raise TypeError(f"cache is {kind_of(cache)}; give what new_cache(capacity) returns")
    if cache.layers != config.layers:
        raise ValueError(f"cache has {cache.layers} layers, the model {config.layers}")
    if documents is not None:
        raise ValueError("documents with a cache: give each document a row of its own instead")
    if cache.length and cache.positions.shape[0] != batch:
        raise ValueError(f"tokens has {batch} rows; the cache holds {cache.positions.shape[0]}")


def check_tokens(name: str, tokens: Tensor, vocab_size: int) -> None:
    """Raise TypeError or ValueError unless these are token numbers, (batch, n) int64."""
    if not isinstance(tokens, Tensor):
        raise TypeError(f"{name} is {kind_of(tokens)}; give a tensor, (batch, n) int64")
    if tokens.dim() != 2 or tokens.dtype != torch.int64 or 0 in tokens.shape:
        raise ValueError(
            f"{name} has shape {tuple(tokens.shape)} and dtype {tokens.dtype}; give (batch, n) "
            "int64 with at least one token"
        )
    # Reading a value on a GPU would stall the stream, and a compiled graph would break.
    if tokens.device.type == "cpu" and not torch.compiler.is_compiling():
        least, most = int(tokens.min()), int(tokens.max())
        if least < 0 or most >= vocab_size:
            wrong = least if least < 0 else most
            raise ValueError(f"{name} holds {wrong}; the vocabulary has 0 to {vocab_size - 1}")


def check_options(
    config: DecoderConfig,
    max_new_tokens: Any,
    temperature: Any,
    top_k: Any,
    stop: Any,
    generator: Any,
) -> None:
    """Raise TypeError or ValueError unless these are options of sampling."""
    whole_number("max_new_tokens", max_new_tokens)
    real_number("temperature", temperature, least=0, why="0 is greedy")
    if top_k is not None and whole_number("top_k", top_k) > config.vocab_size:
        raise ValueError(f"top_k is {top_k}; give 1 to {config.vocab_size}, or None")
    if stop is not None and whole_number("stop", stop, least=0) >= config.vocab_size:
        raise ValueError(f"stop is {stop}; give a token, 0 to {config.vocab_size - 1}, or None")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator is {kind_of(generator)}; give a torch.Generator")
