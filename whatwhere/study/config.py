"""Every parameter of a comparison, with its default, in one value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from whatwhere.errors import UnknownName, did_you_mean

__all__ = ["DEFAULT_ENCODINGS", "MULTIPLES", "Config"]

DEFAULT_ENCODINGS = ("nope", "sinusoidal", "alibi", "rope", "rope+yarn", "pope")

MULTIPLES = (1, 2, 4, 8, 16)
"""Evaluation lengths that are not given are these multiples of the training length."""

SELECTION = ("encodings", "seeds")
"""Fields that say which results are wanted, not what one is: they may change in a directory."""

_LATER = ("head_dim", "hidden", "activation", "qk_norm", "tie_embeddings", "accumulate")
"""Fields that came after the first results: not written at their default, so that those stay
what they are."""

_POSITIVE = (
    *("steps", "batch_size", "train_length", "eval_tokens", "valid_points", "valid_tokens"),
    *("width", "layers", "heads", "accumulate"),
)


@dataclass(frozen=True)
class Config:
    """What is trained and evaluated. Lengths, steps and tokens are counts; nothing is in seconds.

    Encodings are expressions (`whatwhere.encodings.expression`): the part before the first "+" is
    trained, once a seed, and the modifiers are applied at evaluation only, with factor =
    evaluation length / train_length.

    The schedule: `warmup` steps (None: a tenth of all, at most 100) up to `lr`, then a cosine down
    to `final_lr` · lr. AdamW; `weight_decay` acts on matrices of the decoder, not on norms nor on
    an encoding's own parameters. Gradients are clipped to norm `clip`. A batch is read in
    `accumulate` pieces.
    `eval_lengths` None: 1, 2, 4, 8 and 16 times train_length. At most `eval_tokens` tokens of the
    test split are scored, the same ones at every length. The validation curve has `valid_points`
    points on at most `valid_tokens` tokens.

    `head_dim`, `hidden`, `activation`, `qk_norm` and `tie_embeddings` are those of
    `whatwhere.nn.DecoderConfig`.

    The default sizes are chosen by measuring: all default encodings together take at most five
    minutes on two CPU cores, and what fails beyond the training length visibly fails.
    Raises ValueError that names the field.
    """

    task: str = "chorales"
    data: str | None = None
    encodings: tuple[str, ...] = DEFAULT_ENCODINGS
    seeds: tuple[int, ...] = (0,)

    width: int = 96
    layers: int = 3
    heads: int = 4
    kv_heads: int | None = None
    head_dim: int | None = None
    hidden: int | None = None
    activation: str = "swiglu"
    qk_norm: bool = False
    tie_embeddings: bool = True
    dropout: float = 0.0

    steps: int = 240
    batch_size: int = 16
    accumulate: int = 1
    train_length: int = 128
    lr: float = 3e-3
    final_lr: float = 0.1
    warmup: int | None = None
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.01
    clip: float = 1.0

    eval_lengths: tuple[int, ...] | None = None
    eval_tokens: int = 32768
    valid_points: int = 8
    valid_tokens: int = 8192

    device: str = "cpu"
    precision: str = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("encodings", "seeds", "eval_lengths"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, tuple(dict.fromkeys(value)))
                if not value:
                    raise ValueError(f"{name} is empty; give at least one")
        for name in _POSITIVE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("kv_heads", "head_dim", "hidden"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1, or None")
        if self.activation not in ("swiglu", "gelu"):
            raise UnknownName(did_you_mean("activation", self.activation, ("swiglu", "gelu")))
        if any(length < 1 for length in self.lengths):
            raise ValueError(f"eval_lengths is {self.lengths}; lengths are at least 1 token")
        if any(seed < 0 for seed in self.seeds):
            raise ValueError(f"seeds is {self.seeds}; a seed is 0 or more")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ValueError(f"lr is {self.lr}; give a positive number, such as 3e-3")
        for name in ("final_lr", "dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give a number in [0, 1]")
        if self.precision not in ("float32", "bfloat16"):
            raise UnknownName(did_you_mean("precision", self.precision, ("float32", "bfloat16")))
        if self.precision != "float32" and self.device == "cpu":
            raise ValueError(f"precision {self.precision} is for cuda; on a CPU use float32")

    @property
    def lengths(self) -> tuple[int, ...]:
        """The evaluation lengths, in the order given; by default multiples of train_length."""
        if self.eval_lengths is not None:
            return self.eval_lengths
        return tuple(factor * self.train_length for factor in MULTIPLES)

    @property
    def warmup_steps(self) -> int:
        """Steps until the learning rate is `lr`."""
        return min(100, self.steps // 10) if self.warmup is None else self.warmup

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types, what None stands for filled in where it is a number.

        All of them, less those of a later version that are at their default.
        """
        filled = {"eval_lengths": self.lengths, "warmup": self.warmup_steps}
        filled["kv_heads"] = self.heads if self.kv_heads is None else self.kv_heads
        both = asdict(self) | filled
        plain = {field.name: field.default for field in fields(Config) if field.name in _LATER}
        return {
            key: list(v) if isinstance(v, tuple) else v
            for key, v in both.items()
            if key not in plain or v != plain[key]
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Config:
        """The config that `to_dict` wrote. Raises UnknownName for a key that is no field."""
        known = [field.name for field in fields(Config)]
        for key in data:
            if key not in known:
                raise UnknownName(did_you_mean("field of Config", key, known))
        lists: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return Config(**lists)

    def identity(self) -> dict[str, Any]:
        """The fields on which a result depends: all but the selection of encodings and seeds."""
        return {key: value for key, value in self.to_dict().items() if key not in SELECTION}
