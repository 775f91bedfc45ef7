"""What an encoding costs: tokens per second of training, evaluation and decoding, and memory."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whatwhere.nn import Decoder
from whatwhere.study.config import Config
from whatwhere.study.observer import Observer
from whatwhere.study.training import Training
from whatwhere.tasks import Drawn

__all__ = ["speeds"]

WARM, TIMED = 10, 60
"""Training steps before the clock starts, and under it."""

PASSES = 9
"""Evaluation passes under the clock; their median counts."""

NEW = 64
"""Tokens that are decoded, after half a training window."""

Speeds = dict[str, tuple[float, int]]
"""Metric -> value and what it was measured on: tokens, or steps."""


def speeds(
    model: Decoder,
    data: Drawn,
    config: Config,
    encoding: str,
    stop: Callable[[], bool] = lambda: False,
) -> Speeds:
    """Measure a training of its own, passes of `model` over a batch, and greedy decoding of one.

    train_tokens_per_second and, on a GPU, train_peak_mib: `TIMED` steps of the training engine
    after `WARM`, evaluation left out; the peak is what torch allocated beyond what was there.
    eval_tokens_per_second, eval_peak_mib: the median of forward passes over one batch of training
    windows. decode_tokens_per_second: `NEW` tokens one by one behind half a window, batch 1.
    """
    found = _trained(data, config, encoding, stop)
    inputs, _ = data.batch(0, 0, config.batch_size, model.device)
    found |= _passes(model, inputs, config)
    return found | _decoded(model, inputs, config)


class _Clock(Observer):
    """When each step was known to be done: on a GPU several become known at once."""

    def __init__(self, stop: Callable[[], bool]) -> None:
        self.seen: list[tuple[float, int]] = []
        self._stop = stop

    def step(self, step: int, loss: float, work: float) -> None:
        now = time.perf_counter()
        if self.seen and now - self.seen[-1][0] < 1e-4:
            self.seen.pop()
        self.seen.append((now, step))

    def stop(self) -> bool:
        return self._stop()

    def pace(self) -> tuple[float, int]:
        """Steps per second after at least `WARM` steps (all but the last news, where that is all
        that came), and how many were counted."""
        warm = next(n for n, (_, step) in enumerate(self.seen) if step >= WARM)
        began, first = self.seen[min(warm, len(self.seen) - 2)]
        ended, last = self.seen[-1]
        return (last - first) / (ended - began), last - first


def _trained(data: Drawn, config: Config, encoding: str, stop: Callable[[], bool]) -> Speeds:
    short = replace(
        config, steps=WARM + TIMED, warmup=1, valid_points=1, valid_tokens=config.train_length
    )
    clock, base = _Clock(stop), _reset(config)
    with tempfile.TemporaryDirectory() as folder:
        Training(short, data, encoding, (0,), Path(folder) / "speed.pt").run(clock, 0.0, 1e9)
    pace, steps = clock.pace()
    rate = pace * config.batch_size * config.train_length
    found: Speeds = {"train_tokens_per_second": (rate, steps)}
    return found | _peak("train_peak_mib", base, config, steps)


@torch.no_grad()
def _passes(model: Decoder, inputs: Tensor, config: Config) -> Speeds:
    model.eval()
    seconds: list[float] = []
    base = _reset(config)
    for _ in range(PASSES + 2):
        _wait(model.device)
        began = time.perf_counter()
        with _half(model, config):
            model(inputs)
        _wait(model.device)
        seconds.append(time.perf_counter() - began)
    rate = inputs.numel() / statistics.median(seconds[2:])
    found: Speeds = {"eval_tokens_per_second": (rate, PASSES * inputs.numel())}
    return found | _peak("eval_peak_mib", base, config, PASSES)


@torch.no_grad()
def _decoded(model: Decoder, inputs: Tensor, config: Config) -> Speeds:
    half = inputs.shape[1] // 2
    prompt, new = inputs[:1, : max(1, half)], min(NEW, max(1, half))
    seconds: list[float] = []
    for count in (1, new, 1, new):  # the first of each pair is the prompt's pass and one token
        _wait(model.device)
        began = time.perf_counter()
        with _half(model, config):
            model.generate(prompt, max_new_tokens=count, temperature=0)
        _wait(model.device)
        seconds.append(time.perf_counter() - began)
    spent = seconds[3] - seconds[2] if new > 1 else seconds[3]
    return {"decode_tokens_per_second": ((new - 1 or 1) / max(spent, 1e-9), new - 1 or 1)}


def _half(model: Decoder, config: Config) -> AbstractContextManager[Any]:
    if config.precision != "bfloat16":
        return nullcontext()
    return torch.autocast(model.device.type, torch.bfloat16)


def _reset(config: Config) -> int:
    if not config.device.startswith("cuda"):
        return 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _peak(name: str, base: int, config: Config, n: int) -> Speeds:
    if not config.device.startswith("cuda"):
        return {}
    return {name: ((torch.cuda.max_memory_allocated() - base) / 2**20, n)}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
