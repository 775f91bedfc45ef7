"""The shape checks of conftest.py are on, in pytest-xdist's workers too, and can be put off."""

import os

import jaxtyping
import pytest
import torch

from whatwhere import positions

FLOATS = torch.zeros(3)  # document numbers are integers


@pytest.mark.skipif(
    os.environ.get("WHATWHERE_DEVICE", "cpu") != "cpu", reason="on a GPU dynamo would trace them"
)
def test_types_are_checked_under_test() -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match="from_documents"):
        positions.from_documents(FLOATS)


@pytest.mark.usefixtures("unchecked")
def test_unchecked_puts_the_checks_off() -> None:
    with pytest.raises(TypeError, match=r"^documents is a tensor of shape \(3,\)"):
        positions.from_documents(FLOATS)
