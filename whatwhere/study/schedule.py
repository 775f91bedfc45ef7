"""When a training does what: its learning rate, and the steps after which it is validated."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from whatwhere.study.config import Config

__all__ = ["learning_rate", "valid_steps"]


def learning_rate(step: Int64[Tensor, ""], config: Config) -> Float[Tensor, ""]:
    """The rate of step 0, 1, …, on its device: linear warm-up, then half a cosine from lr to
    final_lr · lr."""
    warmup = config.warmup_steps
    at = step.double()
    progress = (at - warmup) / max(1, config.steps - warmup)
    cosine = (1 + torch.cos(math.pi * progress)) / 2
    after = config.final_lr + (1 - config.final_lr) * cosine
    return (config.lr * torch.where(at < warmup, (at + 1) / max(1, warmup), after)).float()


def valid_steps(config: Config) -> set[int]:
    """The steps after which the validation split is scored; the last one is always among them."""
    points = max(1, min(config.valid_points, config.steps))
    return {round(config.steps * (point + 1) / points) for point in range(points)}
