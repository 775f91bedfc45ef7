"""WHATWHERE_DEVICE=cuda runs the tests of this folder on a GPU."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def everything_on(device: torch.device) -> Iterator[None]:
    """Models, tokens and positions are made on the device."""
    torch.set_default_device(device)
    yield
    torch.set_default_device(None)
