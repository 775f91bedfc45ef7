"""Device time and memory of one callable on the GPU."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["distance", "milliseconds", "peak_mib", "poison"]

BUSY_CYCLES = 2_000_000
FLUSH_BYTES = 256 << 20  # several times the L2, which otherwise would answer instead of the memory


@functools.cache
def _flush() -> Tensor:
    return torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")


def milliseconds(
    run: Callable[..., Any], before: Callable[[], Any] | None = None, budget_ms: float = 150.0
) -> float:
    """Median device time of a call (given what `before` returns, if there is one, untimed).

    Ahead of each call the L2 is emptied and the device kept busy for about a millisecond: the
    host enqueues the call meanwhile, so that launching does not count.
    """

    def once() -> tuple[torch.cuda.Event, torch.cuda.Event]:
        given = () if before is None else (before(),)
        _flush().zero_()
        torch.cuda._sleep(BUSY_CYCLES)  # pyright: ignore[reportPrivateUsage]
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run(*given)
        stop.record()
        return start, stop

    once()
    warm = [once() for _ in range(2)][-1]
    torch.cuda.synchronize()
    each = max(warm[0].elapsed_time(warm[1]), 0.02)
    count = int(min(max(budget_ms / each, 3), 50))
    pairs = [once() for _ in range(count)]
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(stop) for start, stop in pairs)


def peak_mib(run: Callable[[], Any]) -> float:
    """Most memory allocated during a call, above what was allocated before it."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def poison() -> None:
    """Fill the allocator's free blocks with NaN: an unwritten output shows."""
    if not torch.cuda.is_available():
        return
    torch.cuda.empty_cache()
    for mib in (4, 64, 512, 2048):
        torch.full((mib << 18,), float("nan"), device="cuda")


def distance(got: Tensor, wanted: Tensor) -> float:
    """Relative error in the Frobenius norm; NaN stays NaN."""
    return float((got.detach().double() - wanted).norm() / wanted.norm())
