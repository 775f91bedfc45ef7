"""Temperatures: factors on the scores of a query, wrapped around any encoding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whatwhere.encodings.base import Encoding, Wrapper, check_length, choice, horizon_of
from whatwhere.errors import real_number
from whatwhere.rule import ScoreRule

__all__ = ["Llama4Temperature", "LogN", "YarnTemperature"]


@dataclass(frozen=True)
class _Log:
    """τ(i) = log_L(i + 1), at least 1 if clipped."""

    train_length: int
    clip: bool

    def __call__(self, i: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The factor of each query position."""
        factor = torch.log((i + 1).clamp(min=1).to(torch.float32)) / math.log(self.train_length)
        return factor.clamp(min=1.0) if self.clip else factor


@dataclass(frozen=True)
class _Constant:
    """τ = value for every query."""

    value: float

    def __call__(self, i: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The value, once a position."""
        return torch.full(i.shape, self.value, dtype=torch.float32, device=i.device)


@dataclass(frozen=True)
class _Floored:
    """τ(i) = 1 + scale · log(1 + floor((i + 1) / floor_scale))."""

    scale: float
    floor_scale: int

    def __call__(self, i: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The factor of each query position."""
        # Before position 0 is padding, where the logarithm of 0 would make gradients NaN.
        steps = (i + 1).clamp(min=0).div(self.floor_scale, rounding_mode="floor")
        return 1.0 + self.scale * torch.log1p(steps.to(torch.float32))


@final
class LogN(Wrapper):
    """τ(i) = max(1, log_L(i + 1)): entropy of attention kept as sequences grow.

    Options:
        form: "clipped" as above, for models trained without it (kexue's logn-dagger);
            "unclipped" log_L(i + 1), for models trained with it;
            "length" log_L(n), one factor for the whole call of n = horizon tokens, never below 1
            (kexue 8823) — the only form for which streaming and one pass differ.
    L is the training length. Source: kexue.fm 8823 and 9708.
    """

    name = "logn"
    cite = "logn"

    def __init__(
        self, inner: Encoding, form: str = "clipped", train_length: int | None = None
    ) -> None:
        super().__init__(inner)
        self.form = choice("form of logn", form, ("clipped", "unclipped", "length"))
        self.train_length = check_length("train_length", train_length, least=2)

    @property
    def relative(self) -> bool:
        """False unless the factor belongs to the call: it reads the query's own position."""
        return self.form == "length" and self.inner.relative

    @property
    def length_dependent(self) -> bool:
        """True for the form "length"."""
        return self.form == "length" or self.inner.length_dependent

    def rule(self, horizon: int | None = None, *, training: bool = False) -> ScoreRule:
        """The inner rule with the factor."""
        rule = self.inner.rule(horizon, training=training)
        if self.form != "length":
            return rule.with_temperature(_Log(self.train_length, self.form == "clipped"))
        length = horizon_of(horizon, "logn with form 'length'")
        value = max(1.0, math.log(length) / math.log(self.train_length))
        return rule.with_temperature(_Constant(value))


@final
class YarnTemperature(Wrapper):
    """τ = (0.1 ln factor + 1)^2: YaRN's softmax temperature without its frequencies.

    The `yarn` spectrum carries it already, as amplitude on both sides; this wraps it around an
    encoding whose spectrum does not. Source: arXiv 2309.00071, Eq. 22.
    """

    name = "yarn_temperature"
    cite = "yarn"

    def __init__(self, inner: Encoding, factor: float = 1.0) -> None:
        super().__init__(inner)
        why = "it is target / training length"
        self.factor = real_number("factor", factor, least=1, why=why)

    def rule(self, horizon: int | None = None, *, training: bool = False) -> ScoreRule:
        """The inner rule with the constant factor."""
        value = (0.1 * math.log(self.factor) + 1.0) ** 2
        return self.inner.rule(horizon, training=training).with_temperature(_Constant(value))


@final
class Llama4Temperature(Wrapper):
    """τ(i) = 1 + scale · log(1 + floor((i + 1) / floor_scale)).

    Llama 4 applies it on its layers without positions (scale 0.1, floor_scale 8192); Ministral 3
    and Mistral 4 have the same form. Source: their code in transformers.
    """

    name = "llama4_temperature"
    cite = "llama4"

    def __init__(self, inner: Encoding, scale: float = 0.1, floor_scale: int = 8192) -> None:
        super().__init__(inner)
        self.scale = real_number("scale", scale, least=0)
        self.floor_scale = check_length("floor_scale", floor_scale)

    @property
    def relative(self) -> bool:
        """False: the factor reads the query's own position."""
        return False

    def rule(self, horizon: int | None = None, *, training: bool = False) -> ScoreRule:
        """The inner rule with the factor."""
        rule = self.inner.rule(horizon, training=training)
        return rule.with_temperature(_Floored(self.scale, self.floor_scale))
