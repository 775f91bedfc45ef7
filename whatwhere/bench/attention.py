"""Rows of attention: forward, backward and peak memory, the encoding included.

Every implementation must agree with the float64 definition (values and all gradients) on a slice
of the very call that is timed, or its row has an error instead of times.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import torch
from torch import Tensor

from whatwhere.bench import truth
from whatwhere.bench.cases import Case, Job
from whatwhere.bench.implementations import TABLE
from whatwhere.bench.ledger import Ledger, Row
from whatwhere.bench.measure import milliseconds, peak_mib, poison
from whatwhere.bench.setting import Vectors, setup

__all__ = ["key", "measured", "missing", "run"]


def key(job: Job) -> Row:
    """The columns that name a job's row."""
    encoding = TABLE[job.name].encoding
    row = {"study": "attention", "implementation": job.name, "encoding": encoding}
    return row | job.case.key()


def missing(jobs: list[Job], ledger: Ledger) -> list[Job]:
    """The jobs that have no row yet."""
    return [job for job in jobs if not ledger.has(key(job))]


def run(jobs: list[Job], ledger: Ledger, budget: float = float("inf")) -> Iterator[tuple[Job, Row]]:
    """Measure the jobs, most important first, each row written before it is given out.

    A job whose estimate does not fit into what is left of the budget (seconds) is left out: a
    shorter one behind it may still fit.
    """
    deadline = time.monotonic() + budget
    for job in jobs:
        if time.monotonic() + job.seconds <= deadline:
            yield job, ledger.add(measured(job))


def measured(job: Job) -> Row:
    """One row: the gate, then times and memory; or the error."""
    row, began = key(job), time.monotonic()
    try:
        with _mode(TABLE[job.name].fast):
            row |= _times(job.name, job.case)
    except Exception as error:  # noqa: BLE001 - any failure of any library is a row
        row["error"] = f"{type(error).__name__}: {error}"[:500]
    row["seconds"] = round(time.monotonic() - began, 1)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return row


class _Everything(frozenset[Any]):
    def __contains__(self, item: object) -> bool:
        return True


@contextlib.contextmanager
def _mode(fast: bool) -> Generator[None]:
    """Inside, our own backward passes add dq by atomics wherever they can, if `fast`."""
    if not fast:
        yield
        return
    from whatwhere.kernels import attention

    before, attention.FAST = attention.FAST, _Everything()
    try:
        yield
    finally:
        attention.FAST = before


def _times(name: str, case: Case) -> Row:
    """Forward and backward apart, memory of both together."""
    implementation = TABLE[name]
    placed = setup(implementation.encoding, case)
    attention = implementation.build(placed)
    x = Vectors(case, implementation.by_heads)
    leaves, views = [*x.leaves, *placed.learned], x.views

    def forward() -> Tensor:
        return attention(*views)

    def backward(out: Tensor) -> Any:
        return torch.autograd.grad(out, leaves, x.grad)

    poison()
    row: Row = {"error_of": truth.errors(placed, forward, x)}
    worst = max(row["error_of"].values(), default=float("nan"))
    # Not max() alone: a NaN that is not the first is not its maximum.
    if not all(value <= truth.LIMIT for value in row["error_of"].values()):
        wrong = {name: str(value) for name, value in row.pop("error_of").items()}
        return row | {"error": f"disagrees with float64 (worst {worst}): {wrong}"}
    return row | _timed(case, forward, backward)


def _timed(case: Case, forward: Callable[[], Tensor], backward: Callable[[Tensor], Any]) -> Row:
    row: Row = {
        "peak_mib": round(peak_mib(lambda: backward(forward())), 1),
        "forward_ms": round(milliseconds(forward), 4),
        "backward_ms": round(milliseconds(backward, before=forward), 4),
    }
    if case.features:
        for which in ("forward", "backward"):
            rate = case.flops(which == "backward") / row[f"{which}_ms"] * 1e-9
            row[f"{which}_tflops"] = round(rate, 1)
    return row
