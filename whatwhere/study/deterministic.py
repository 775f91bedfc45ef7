"""The same bits each time, where torch has kernels for it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["deterministic"]


@contextmanager
def deterministic(device: torch.device) -> Generator[None]:
    """Kernels without atomics, where torch has them; the same bits each time."""
    if device.type != "cuda":
        yield
        return
    was = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    debug: Any = torch.utils.deterministic
    filled = debug.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    debug.fill_uninitialized_memory = False  # would write each tensor twice
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warned)
        debug.fill_uninitialized_memory = filled
