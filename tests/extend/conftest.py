"""A tiny random model on disk, whose attention depends on positions, and a text for it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from whatwhere.extend import models, text
from whatwhere.extend.base import books
from whatwhere.extend.base.llama import Llama, Sizes, export
from whatwhere.extend.models import Source

LENGTH = 128  # what the tiny model is "trained" at


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tiny")
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


@pytest.fixture(scope="session")
def source(folder: Path) -> Source:
    return models.find(str(folder))


@pytest.fixture
def model(source: Source) -> Any:
    return models.load(source)


@pytest.fixture(scope="session")
def ids(source: Source) -> torch.Tensor:
    return text.tokens_of(text.manual(), source.tokenizer, 5000)[:5000]
