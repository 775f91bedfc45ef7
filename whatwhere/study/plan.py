"""What a configuration asks for, checked before anything is trained, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from whatwhere.encodings import Context, build, parse
from whatwhere.nn import Decoder
from whatwhere.study.config import Config
from whatwhere.study.devices import usable
from whatwhere.study.model import decoder_config
from whatwhere.tasks import Task, common_span

__all__ = ["Unit", "check", "check_encodings", "costs", "span", "units"]


@dataclass(frozen=True)
class Unit:
    """One training, and the expressions that are evaluated with its weights."""

    trained: str
    seed: int
    expressions: tuple[str, ...]


@dataclass(frozen=True)
class Costs:
    """Estimated floating-point operations of one training step, and of an evaluation by length."""

    step: float
    evaluation: dict[int, float]


def units(config: Config) -> list[Unit]:
    """The trainings of a configuration: per seed, one for each different trained part."""
    shared: dict[str, list[str]] = {}
    for text in config.encodings:
        expression = parse(text)
        shared.setdefault(expression.trained, []).append(expression.text)
    return [
        Unit(trained, seed, tuple(dict.fromkeys(texts)))
        for seed in config.seeds
        for trained, texts in shared.items()
    ]


def span(config: Config, task: Task) -> int:
    """How many tokens of the test split are scored: the same ones at every length."""
    return common_span(len(task.test), config.lengths, config.eval_tokens)


def check(config: Config, task: Task) -> None:
    """Raise ValueError, before any work, for what can not be trained or evaluated as asked.

    Lengths that an encoding can not tell are no error here: such a row says so.
    """
    check_encodings(config)
    usable(config.device)
    for split in ("train", "valid"):
        tokens = len(task.splits()[split])
        if tokens <= config.train_length:
            raise ValueError(
                f"the {split} split has {tokens} tokens, but train_length is "
                f"{config.train_length}: give more text, or a shorter --train-length"
            )
    try:
        span(config, task)
    except ValueError as error:
        raise ValueError(
            f"the test split has {len(task.test)} tokens, of which at most {config.eval_tokens} "
            f"are scored: {error}. Give more text, or other --eval-lengths"
        ) from None


def check_encodings(config: Config) -> None:
    """The part of `check` that needs no data: every expression can be built at every length."""
    for text in config.encodings:
        expression = parse(text)
        sizes = decoder_config(config, expression.trained, vocab_size=2)
        for length in config.lengths:
            factor = length / config.train_length
            build(expression, sizes.shape, Context(config.train_length, factor))


def costs(config: Config, task: Task) -> Costs:
    """The estimate. Attention over long windows costs more than its operations say."""
    sizes = decoder_config(config, "nope", task.vocab_size)
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in Decoder(sizes).parameters())

    def per_token(length: int) -> float:
        return 2.0 * parameters + 4.0 * config.layers * config.width * length

    tokens = config.batch_size * config.train_length
    scored = span(config, task)
    return Costs(
        3.0 * tokens * per_token(config.train_length),
        {length: scored * per_token(length) for length in config.lengths},
    )
