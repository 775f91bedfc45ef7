"""What a short training is: everything its numbers depend on, kept as plan.json."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from whatwhere.errors import UnknownName, changes, did_you_mean, real_number, whole_number
from whatwhere.extend import methods
from whatwhere.extend.models import Source
from whatwhere.extend.objective import windows

__all__ = ["Adaptation", "Batches", "begin", "trainable"]

VALID_SHARE = 0.1
"""Of the text, its end: never trained on."""


@dataclass(frozen=True)
class Adaptation:
    """What a short training is: method, target, and how it is trained.

    train: "lora" (rank, alpha twice the rank, on all linear layers) or "full". batch_size windows
    of `target` tokens a step, over all processes. Raises ValueError or UnknownName by name.
    """

    model: str
    method: str
    target: int
    train: str = "lora"
    steps: int = 200
    batch_size: int = 8
    lr: float = 1e-3
    warmup: int = 20
    rank: int = 16
    weight_decay: float = 0.0
    clip: float = 1.0
    valid_windows: int = 8
    seed: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.train not in ("lora", "full"):
            raise UnknownName(did_you_mean("--train", self.train, ("lora", "full")))
        if self.precision not in ("float32", "bfloat16"):
            raise UnknownName(did_you_mean("--precision", self.precision, ("float32", "bfloat16")))
        for name in ("target", "steps", "batch_size", "rank", "valid_windows"):
            whole_number(name, getattr(self, name))
        whole_number("warmup", self.warmup, least=0)
        real_number("lr", self.lr, above=0)

    def check(self, source: Source) -> methods.Made:
        """The method's expression. ValueError for a target below the trained length."""
        factor = self.target / source.train_length
        if factor < 1:
            raise ValueError(
                f"--to {self.target} is below the trained length {source.train_length}; give a "
                "longer one"
            )
        return methods.make(self.method, factor, source.train_length)

    def rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine from lr to 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        return self.lr * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps))) / 2


class Batches:
    """Windows of a text to train on, and its end, of which training sees nothing.

    Batch number `step` is (batch_size, target + 1) tokens from random places: a pure function of
    text, seed and step. Raises ValueError for a text that is too short for either part.
    """

    def __init__(self, plan: Adaptation, text: Int64[Tensor, "n"]) -> None:
        held = max(plan.target + 1, int(len(text) * VALID_SHARE))
        self.plan, self.text, self.end = plan, text[:-held], text[-held:]
        windows(self.text, plan.target, 1)  # long enough, or refused

    def __call__(self, step: int) -> Int64[Tensor, "batch length"]:
        """The windows of a step, equal for equal steps."""
        random = np.random.default_rng([self.plan.seed, step])
        room = len(self.text) - self.plan.target
        starts = torch.from_numpy(random.integers(room, size=self.plan.batch_size))
        return self.text[starts[:, None] + torch.arange(self.plan.target + 1)]

    def held_out(self, train_length: int) -> dict[int, Int64[Tensor, "windows length"]]:
        """Windows of the end, of the trained length and of the target."""
        lengths = dict.fromkeys((train_length, self.plan.target))
        return {n: windows(self.end, n, self.plan.valid_windows) for n in lengths}


def begin(plan: Adaptation, text: Int64[Tensor, "n"], out: Path) -> None:
    """Write out/plan.json (the plan, and which text it is), or agree with the one that is there.

    Processes that begin together write the same bytes, each at once. ValueError that names what
    differs.
    """
    file = out / "plan.json"
    wanted = asdict(plan) | {"tokens": len(text), "text": crc32(text.numpy().tobytes())}
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        beside = out / f".plan.json.{os.getpid()}"
        beside.write_text(json.dumps(wanted, indent=2) + "\n")
        beside.replace(file)
        return
    differing = changes(json.loads(file.read_text()), wanted)
    if differing:
        raise ValueError(f"--out {out} was begun otherwise: {'; '.join(differing)}; give a new one")


def trainable(model: Any, plan: Adaptation) -> Any:
    """The model with what is trained: all of it in float32, or LoRA's matrices alone.

    Raises ImportError with what to install where peft is missing.
    """
    if plan.train == "full":
        return model.float()
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError("LoRA needs peft: pip install 'whatwhere[extend]'") from error
    torch.manual_seed(plan.seed)
    config = LoraConfig(
        r=plan.rank, lora_alpha=2 * plan.rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)
