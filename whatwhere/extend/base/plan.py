"""What one training of the base model is: everything its numbers depend on, kept as plan.json."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from whatwhere.errors import real_number, whole_number
from whatwhere.extend.base.llama import Sizes

__all__ = ["Plan", "learning_rate"]


@dataclass(frozen=True)
class Plan:
    """Sizes, data and schedule of a training; ValueError that names a field that can not be."""

    steps: int
    sizes: Sizes = field(default_factory=Sizes)
    batch_size: int = 256
    lr: float = 2e-3
    warmup_steps: int = 200
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    seed: int = 0
    valid_windows: int = 256
    precision: str = "bfloat16"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "valid_windows"):
            whole_number(name, getattr(self, name))
        real_number("lr", self.lr, above=0)
        if self.precision not in ("bfloat16", "float32"):
            raise ValueError(f"precision is {self.precision!r}; give bfloat16 or float32")

    @property
    def length(self) -> int:
        """Tokens of a training window."""
        return self.sizes.max_position_embeddings

    @property
    def tokens_per_step(self) -> int:
        """Tokens that are predicted in one step."""
        return self.batch_size * self.length

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @staticmethod
    def load(path: Path) -> Plan:
        """The plan that `save` wrote."""
        found: dict[str, Any] = json.loads(path.read_text())
        sizes = Sizes(**found.pop("sizes"))
        return Plan(sizes=sizes, **found)

    def differing(self, other: Plan) -> list[str]:
        """Names of the fields, steps apart, in which two plans differ."""
        names = (each.name for each in fields(self) if each.name != "steps")
        return [name for name in names if getattr(self, name) != getattr(other, name)]


def learning_rate(step: int, plan: Plan) -> float:
    """The rate of step 0, 1, …: linear warm-up, then half a cosine from lr to 0."""
    warmup = min(plan.warmup_steps, plan.steps // 10)
    if step < warmup:
        return plan.lr * (step + 1) / warmup
    return plan.lr * (1 + math.cos(math.pi * (step - warmup) / (plan.steps - warmup))) / 2
