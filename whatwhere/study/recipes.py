"""The PoPE paper's models and schedules (arXiv 2509.10534 v3, tables 7 and 8), as configurations.

What it does not print is chosen here, once for all studies: beta1 0.9 (AdamW's usual), a cosine
from the rate to the minimal rate (which "decay iterations" and "min lr" suggest), an MLP of four
widths with GELU, no biases, embeddings tied (its parameter counts 123.5, 252.8 and 772.1M fit these
only), dropout on attention and on both residual branches, no QK-norm. Weight decay acts on
matrices. Products in bfloat16, weights, phases, norms, softmax and loss in float32.
"""

from __future__ import annotations

from typing import Any

from whatwhere.errors import UnknownName, did_you_mean
from whatwhere.study.config import Config

__all__ = ["LANGUAGE", "TASKS", "language", "recipe", "tuned"]

_COMMON: dict[str, Any] = {
    "activation": "gelu", "beta1": 0.9, "weight_decay": 0.01, "clip": 1.0, "final_lr": 0.1,
    "device": "cuda", "precision": "bfloat16", "compile": True,
}  # fmt: skip

TASKS: dict[str, dict[str, Any]] = {
    # 47 tokens hold the longest example; the paper's 40 can not.
    "indirect": {
        "width": 512, "layers": 8, "heads": 8, "dropout": 0.0, "batch_size": 64,
        "train_length": 47, "lr": 2e-4, "beta2": 0.99, "steps": 100_000, "warmup": 4000,
        "valid_points": 50, "valid_tokens": 47 * 2048,
    },
    "jsb": {
        "width": 256, "layers": 6, "heads": 8, "dropout": 0.2, "batch_size": 4,
        "train_length": 2048, "lr": 6e-4, "beta2": 0.99, "steps": 3000, "warmup": 10,
        "valid_points": 60, "valid_tokens": 10**9,
    },
    "maestro": {
        "width": 384, "layers": 6, "heads": 8, "dropout": 0.1, "batch_size": 16,
        "train_length": 2048, "lr": 6e-4, "beta2": 0.99, "steps": 60_000, "warmup": 500,
        "valid_points": 60, "valid_tokens": 2**20,
    },
    "genome": {
        "width": 1024, "layers": 16, "heads": 16, "dropout": 0.1, "batch_size": 64,
        "train_length": 1000, "lr": 2.5e-4, "beta2": 0.999, "steps": 100_000, "warmup": 4000,
        "valid_points": 20, "valid_tokens": 2**20,
    },
}  # fmt: skip

LANGUAGE: dict[str, dict[str, Any]] = {
    "124M": {"width": 768, "layers": 12, "heads": 12, "accumulate": 2},
    "253M": {"width": 1024, "layers": 16, "heads": 16, "accumulate": 4},
    "774M": {"width": 1280, "layers": 36, "heads": 20, "accumulate": 8},
}
"""Sizes of the language models. `accumulate` changes memory, not the batch."""


def recipe(task: str, **changes: Any) -> Config:
    """The paper's configuration for a name of `TASKS`, with changes. UnknownName for another."""
    if task not in TASKS:
        raise UnknownName(did_you_mean("recipe", task, TASKS))
    return Config(**(_COMMON | TASKS[task] | changes))


def language(size: str = "124M", **changes: Any) -> Config:
    """The paper's language model of a size of `LANGUAGE`, with changes. UnknownName for another."""
    if size not in LANGUAGE:
        raise UnknownName(did_you_mean("size of language model", size, LANGUAGE))
    schedule: dict[str, Any] = {
        "dropout": 0.0, "batch_size": 64, "train_length": 1024, "lr": 6e-4, "beta2": 0.95,
        "steps": 100_000, "warmup": 1000, "valid_points": 20, "valid_tokens": 2**19,
    }  # fmt: skip
    return Config(**(_COMMON | LANGUAGE[size] | schedule | changes))


def tuned(size: str = "124M", **changes: Any) -> Config:
    """A trained language model made longer as in the paper's figure 2: 500 steps at 4,096 tokens,
    20 of warm-up, then a constant rate of 6e-5."""
    schedule: dict[str, Any] = {
        "train_length": 4096, "steps": 500, "warmup": 20, "lr": 6e-5, "final_lr": 1.0,
        "accumulate": 4 * LANGUAGE[size]["accumulate"], "valid_points": 5,
    }  # fmt: skip
    return language(size, **(schedule | changes))
