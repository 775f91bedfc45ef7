"""Attention with its encoding: forward, backward, peak memory, against what others offer.

    PYTHONPATH=. python -m benchmarks.attention --out benchmarks/rows/attention.jsonl --budget 240

Every implementation must agree with the float64 definition (values and all gradients) on a slice of
the very call that is timed, or it gets a row with an error instead of times. The anchor is RoPE
with cuDNN, by the faster of two rotations. A table of ratios is printed last.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton

from benchmarks import bandwidth, truth
from benchmarks.cases import DEVICE, PLAN, Case
from benchmarks.implementations import TABLE, setup
from benchmarks.measure import milliseconds, peak_mib, poison
from benchmarks.summary import table

Row = dict[str, Any]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, required=True, help="rows are appended here")
    options.add_argument("--budget", type=float, default=1e9, help="seconds; drops what comes last")
    options.add_argument("--only", default="", help="implementations, separated by commas")
    options.add_argument("--prep", action="store_true", help="the preparation kernels' bandwidth")
    options.add_argument("--tune", action="store_true", help="try block sizes of these kernels")
    chosen = options.parse_args()
    deadline = time.monotonic() + chosen.budget
    shared = provenance()
    print(json.dumps(shared), flush=True)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    with chosen.out.open("a") as file:
        for row in all_rows(chosen, deadline):
            rows.append(row | shared)
            file.write(json.dumps(rows[-1]) + "\n")
            file.flush()
            print(line(row), flush=True)
    print(table(rows))


def all_rows(chosen: argparse.Namespace, deadline: float) -> Iterator[Row]:
    """Bandwidth first, then the plan until the time is over."""
    if chosen.prep:
        yield from bandwidth.rows()
    if chosen.tune:
        yield from bandwidth.tuned()
    wanted = set(filter(None, chosen.only.split(","))) or set(TABLE)
    for names, cases in PLAN:
        for case in cases:
            for name in names:
                if name in wanted and time.monotonic() < deadline:
                    yield measured(name, case)


def measured(name: str, case: Case) -> Row:
    """One row: the gate, then times and memory; or the error."""
    row: Row = {
        "implementation": name,
        "encoding": TABLE[name][0],
        "head_dim": case.head_dim,
        "heads": case.heads,
        "kv_heads": case.kv_heads,
        "length": case.length,
        "tokens": case.batch * case.length,
    }
    began = time.monotonic()
    try:
        row |= times(name, case)
    except Exception as error:  # noqa: BLE001 - any failure of any library is a row
        row["error"] = f"{type(error).__name__}: {error}"[:500]
    row["seconds"] = round(time.monotonic() - began, 1)
    torch.cuda.empty_cache()
    return row


def times(name: str, case: Case) -> Row:
    """Forward and backward apart, memory of both together."""
    encoding, build = TABLE[name]
    placed = setup(encoding, case)
    attention = build(placed)
    q, k, v, grad = inputs(case)
    leaves = [q, k, v, *placed.encoding.parameters()]
    views = [x.transpose(1, 2) for x in (q, k, v)]

    def forward() -> torch.Tensor:
        return attention(*views)

    def both() -> None:
        torch.autograd.grad(forward(), leaves, grad)

    poison()
    row: Row = {"error_of": truth.errors(placed, forward, views, leaves, grad)}
    worst = max(row["error_of"].values(), default=float("nan"))
    if not worst <= truth.LIMIT:
        return row | {"error": f"disagrees with float64: {row['error_of']}"}
    row["peak_mib"] = round(peak_mib(both), 1)
    row["forward_ms"] = round(milliseconds(forward), 4)
    backward = lambda out: torch.autograd.grad(out, leaves, grad)  # noqa: E731
    row["backward_ms"] = round(milliseconds(backward, before=forward), 4)
    return row


def inputs(case: Case) -> list[torch.Tensor]:
    """Random q, k, v as projections give them, and a gradient of the output, fresh per call."""
    b, n, d = case.batch, case.length, case.head_dim
    heads = (case.heads, case.kv_heads, case.kv_heads)
    vectors = [
        torch.randn(b, n, h, d, device=DEVICE, dtype=torch.bfloat16).requires_grad_() for h in heads
    ]
    grad = torch.randn(b, n, case.heads, d, device=DEVICE, dtype=torch.bfloat16)
    return [*vectors, grad.transpose(1, 2)]


def provenance() -> Row:
    """What every row carries."""
    commit = os.environ.get("COMMIT") or _output("git", "rev-parse", "--short", "HEAD")
    return {
        "device": torch.cuda.get_device_name(),
        "versions": {
            "torch": torch.__version__,
            "triton": triton.__version__,
            "cudnn": torch.backends.cudnn.version(),
        },
        "commit": commit,
    }


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def line(row: Row) -> str:
    """One row for the log."""
    if "implementation" not in row:
        return json.dumps(row)
    case = Case(row["head_dim"], row["length"], row["heads"] // row["kv_heads"])
    shown = {key: row[key] for key in ("forward_ms", "backward_ms", "peak_mib") if key in row}
    return (
        f"{row['implementation']:20s} {case!s:16s} {shown or row.get('error')}  {row['seconds']}s"
    )


if __name__ == "__main__":
    main()
