"""A task and a configuration so small that a training takes a fraction of a second."""

import math
from typing import Any

import torch

from whatwhere.study import Config, Observer
from whatwhere.tasks import Task


def toy_task(vocab_size: int = 11, seed: int = 5) -> Task:
    """Streams in which most tokens are a function of the one before."""
    generator = torch.Generator().manual_seed(seed)

    def stream(tokens: int) -> torch.Tensor:
        noise = torch.rand(tokens, generator=generator) < 0.2
        draws = torch.randint(vocab_size, (tokens,), generator=generator)
        made = [1, 2]
        for index in range(2, tokens):
            made.append(int(draws[index]) if noise[index] else (made[-1] + 3) % vocab_size)
        return torch.tensor(made)

    return Task("toy", vocab_size, stream(600), stream(90), stream(150), "token", "a toy")


def toy_config(**changes: Any) -> Config:
    """Train at 8 tokens, evaluate at 8, 16 and 64, of which 128 tokens are scored."""
    sizes: dict[str, Any] = {
        "task": "toy",
        "encodings": ("nope", "rope", "rope+yarn"),
        "width": 12,
        "layers": 2,
        "heads": 2,
        "kv_heads": 1,
        "steps": 6,
        "batch_size": 3,
        "train_length": 8,
        "eval_lengths": (8, 16, 64),
        "eval_tokens": 140,
        "valid_tokens": 40,
        "valid_points": 3,
    }
    return Config(**(sizes | changes))


def learning_rate(step: int, config: Config) -> float:
    """The rate of step 0, 1, … as one would write it on the host."""
    warmup = config.warmup_steps
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, config.steps - warmup)
    share = config.final_lr + (1 - config.final_lr) * (1 + math.cos(math.pi * progress)) / 2
    return config.lr * share


class Until(Observer):
    """Keeps the losses, and stops at a step."""

    def __init__(self, step: int | None = None) -> None:
        self.at, self.losses = step, list[float]()

    def step(self, step: int, loss: float, work: float) -> None:
        self.losses.append(loss)
        self.now = step

    def stop(self) -> bool:
        return self.at is not None and self.now >= self.at
