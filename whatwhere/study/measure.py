"""The kinds of evaluation: from a finished training to numbers, one a seed, metric and length."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from whatwhere.errors import FAULTS, first_line
from whatwhere.nn import Decoder
from whatwhere.study.cells import Cell, Evaluation
from whatwhere.study.data import Library
from whatwhere.study.evaluate import batch_of, dense
from whatwhere.study.held_out import scores
from whatwhere.study.runner import described
from whatwhere.study.speed import speeds
from whatwhere.study.training import Training
from whatwhere.study.wanted import Wanted, wanted
from whatwhere.tasks import books, by_length

__all__ = ["Found", "measure"]

Stop = Callable[[], bool]
Needed = Callable[[int, Wanted], bool]
"""Whether the row of a seed is still missing."""


@dataclass(frozen=True)
class Found:
    """A measured value of a seed, from `n` tokens or examples, or why there is none.

    columns["described"] are the options that `runner.described` gives: the encoding in full.
    """

    seed: int
    wanted: Wanted
    value: float | None
    n: int = 0
    error: str | None = None
    columns: dict[str, Any] = field(default_factory=dict[str, Any])


def measure(
    cell: Cell,
    each: Evaluation,
    training: Training,
    library: Library,
    stop: Stop,
    needed: Needed = lambda seed, row: True,
) -> Iterator[Found]:
    """Measure one evaluation on a finished training: seed by seed, in the order of `wanted`.

    What is not `needed` may be left out. KeyboardInterrupt when `stop()` says so; what an encoding
    or a size raises comes through.
    """
    # Where the validation loss chooses, what a claim is judged by never saw the test split.
    decoders = training.models(best=cell.keep_best)
    expected = wanted(cell, each, library)
    try:
        if each.kind == "speed":
            yield from _speed(cell, training, library, expected, stop, needed)
        elif each.kind == "scores":
            yield from _scores(cell, each, training, decoders, library, expected)
        else:
            one = _lengths if each.kind == "lengths" else _zero_shot
            for seed, decoder in zip(training.seeds, decoders, strict=True):
                rows = [row for row in expected if needed(seed, row)]
                yield from one(cell, each, seed, decoder, library, rows, stop)
    finally:
        for decoder in decoders:
            decoder.use(cell.encoding)


def _scores(
    cell: Cell,
    each: Evaluation,
    training: Training,
    decoders: Sequence[Decoder],
    library: Library,
    expected: Sequence[Wanted],
) -> Iterator[Found]:
    name = each.data or cell.data
    data = library.drawn(name, cell.config.train_length, {**cell.drawn, **each.drawn})
    for decoder in decoders:
        _use(decoder, cell, each, data.length)
    more = {"described": described(decoders[0])}
    found = scores(training.stacked, data, each.split, each.limit, cell.config.precision)
    for place, seed in enumerate(training.seeds):
        for row in expected:
            if row.metric == "nll":
                yield _finite(seed, row, found.nll[place], found.targets, more)
            else:
                yield Found(seed, row, found.accuracy[place], found.examples, columns=more)


def _lengths(
    cell: Cell,
    each: Evaluation,
    seed: int,
    decoder: Decoder,
    library: Library,
    rows: Sequence[Wanted],
    stop: Stop,
) -> Iterator[Found]:
    """One pass over the same targets at every length; the longest also by position."""
    task = library.task(each.data or cell.data)
    for length in sorted({row.eval_length for row in rows}):
        here = [row for row in rows if row.eval_length == length]
        try:
            _use(decoder, cell, each, length)
            more = {"described": described(decoder)}
            sums, windows = torch.zeros(length, dtype=torch.float64), 0
            for cut in by_length(task, each.lengths, each.split, each.limit):
                if cut.length == length:
                    sums += by_place(decoder, cut.inputs, cut.targets, cell.config, stop)
                    windows += len(cut.inputs)
        except FAULTS as error:
            yield from (Found(seed, row, None, error=first_line(error)) for row in here)
            continue
        for row in here:
            start, end = map(int, (row.positions or f"0-{length}").split("-"))
            n = windows * (end - start)
            yield _finite(seed, row, float(sums[start:end].sum()) / n, n, more)


@torch.no_grad()
def by_place(model: Decoder, inputs: Tensor, targets: Tensor, config: Any, stop: Stop) -> Tensor:
    """Sums over windows of -log p(target) in nats, by place in the window: (length,) float64.

    Each window (m, length) is read in one pass. KeyboardInterrupt when `stop()` says so.
    """
    length = inputs.shape[1]
    size = batch_of(model, length)
    if model.device.type == "cuda" and not dense(model, length):
        size = max(size, 32768 // length)
    total = torch.zeros(length, dtype=torch.float64, device=model.device)
    for first in range(0, len(inputs), size):
        if stop():
            raise KeyboardInterrupt
        with _half(model.device, config.precision):
            logits = model(inputs[first : first + size].to(model.device))
        wanted_ = targets[first : first + size].to(model.device)
        for row, tokens in zip(
            logits, wanted_, strict=True
        ):  # float32 logits of one window at once
            total += F.cross_entropy(row.float(), tokens, reduction="none").double()
    return total.cpu()


def _half(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """bfloat16 products where the configuration asks for them."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def _speed(
    cell: Cell,
    training: Training,
    library: Library,
    expected: Sequence[Wanted],
    stop: Stop,
    needed: Needed,
) -> Iterator[Found]:
    data = library.drawn(cell.data, cell.config.train_length, cell.drawn)
    for place, seed in enumerate(training.seeds):
        if not any(needed(seed, row) for row in expected):
            continue
        found = speeds(training.stacked.decoders[place], data, cell.config, cell.encoding, stop)
        for row in expected:
            value, n = found[row.metric]
            yield Found(seed, row, value, n)


def _zero_shot(
    cell: Cell,
    each: Evaluation,
    seed: int,
    decoder: Decoder,
    library: Library,
    rows: Sequence[Wanted],
    stop: Stop,
) -> Iterator[Found]:
    """One benchmark after the other; one whose files are missing is a row that says so."""
    from whatwhere.hf.decoder_inputs import tokenizer_of
    from whatwhere.study import zero_shot as harness

    def observe(_: object) -> None:
        if stop():
            raise KeyboardInterrupt

    file = library.files["zero_shot"]
    folder = None if file.startswith("hub:") else file
    _use(decoder, cell, each, cell.config.train_length)
    more = {"described": described(decoder)}
    tokenizer = tokenizer_of(books.gpt2(), decoder.config.vocab_size)
    for row in rows:
        try:
            with _half(decoder.device, cell.config.precision):
                scores_ = harness.zero_shot(
                    decoder, tokenizer, [row.task], each.limit, folder, observe=observe
                )
        except (OSError, ImportError, *FAULTS) as error:
            yield Found(seed, row, None, error=first_line(error))
            continue
        found = next(score for score in scores_ if score.metric == row.metric)
        yield Found(seed, row, found.value, found.n, columns=more)


def _use(decoder: Decoder, cell: Cell, each: Evaluation, length: int) -> None:
    decoder.use(each.encoding or cell.encoding, factor=length / cell.config.train_length)


def _finite(seed: int, row: Wanted, value: float, n: int, more: dict[str, Any]) -> Found:
    if math.isfinite(value):
        return Found(seed, row, value, n, columns=more)
    return Found(seed, row, None, error=f"the loss is {value}")
