"""When a training does what: its learning rate, and the steps after which it is validated."""

from __future__ import annotations

import math

from whatwhere.study.config import Config

__all__ = ["learning_rate", "valid_steps"]


def learning_rate(step: int, config: Config) -> float:
    """The rate of step 0, 1, …: linear warm-up, then half a cosine from lr to final_lr · lr."""
    warmup = config.warmup_steps
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, config.steps - warmup)
    share = config.final_lr + (1 - config.final_lr) * (1 + math.cos(math.pi * progress)) / 2
    return config.lr * share


def valid_steps(config: Config) -> set[int]:
    """The steps after which the validation split is scored; the last one is always among them."""
    points = max(1, min(config.valid_points, config.steps))
    return {round(config.steps * (point + 1) / points) for point in range(points)}
