"""A tiny random model whose attention depends on positions, for tests and planted faults."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import torch

from whatwhere.extend import models, text
from whatwhere.extend.base import books
from whatwhere.extend.base.llama import Llama, Sizes, export
from whatwhere.extend.models import Source

LENGTH = 128  # what the tiny model is "trained" at


def write(place: Path) -> Path:
    """Config, tokenizer and weights in a folder, as transformers reads them."""
    tokenizer = books._trained([text.manual().content[:60_000]], 300)
    tokenizer.save(str(place / "trained.json"))
    model = Llama(
        Sizes(
            vocab_size=tokenizer.get_vocab_size(), hidden_size=48, intermediate_size=40,
            num_hidden_layers=2, num_attention_heads=3, head_dim=16,
            max_position_embeddings=LENGTH, rope_theta=500.0,
        ),
        seed=3,
    )  # fmt: skip
    with torch.no_grad():  # sharp: at the usual scale positions hardly matter
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(12.0 if "_proj" in name else 20.0)
    export(model, place / "trained.json", place)
    return place


@functools.cache
def source() -> Source:
    """The model before its weights, once a process; for checks that take no fixtures."""
    with tempfile.TemporaryDirectory() as folder:
        found = models.find(str(write(Path(folder))))
        _loaded[found.name] = models.load(found)
    return found


_loaded: dict[str, torch.nn.Module] = {}


def model() -> torch.nn.Module:
    """Its weights, shared: whoever uses a method on it undoes it."""
    return _loaded[source().name]


@functools.cache
def tokens() -> torch.Tensor:
    """A text of 5,000 of its tokens."""
    return text.tokens_of(text.manual(), source().tokenizer, 5000)[:5000]
