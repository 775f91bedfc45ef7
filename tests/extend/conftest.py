"""The tiny model on disk, loaded, and a text for it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from extend import tiny

from whatwhere.extend import models, text
from whatwhere.extend.models import Source


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def source(folder: Path) -> Source:
    return models.find(str(folder))


@pytest.fixture
def model(source: Source) -> Any:
    return models.load(source)


@pytest.fixture(scope="session")
def ids(source: Source) -> torch.Tensor:
    return text.tokens_of(text.manual(), source.tokenizer, 5000)[:5000]
