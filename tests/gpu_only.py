"""Marks of tests that only a GPU can run: `pytestmark = gpu_only.MARKS`."""

from __future__ import annotations

import os

import pytest
import torch

__all__ = ["MARKS"]

MARKS = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or os.environ.get("WHATWHERE_DEVICE") != "cuda",
        reason="needs WHATWHERE_DEVICE=cuda",
    ),
]
