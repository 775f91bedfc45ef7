"""Shape checks off: here the library's own errors must answer."""

import pytest


@pytest.fixture(autouse=True)
def _ours(unchecked: None) -> None:
    del unchecked
