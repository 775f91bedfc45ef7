"""Decoding one token against a long cache: the time it takes to read the keys and values.

    PYTHONPATH=. python -m benchmarks.decode --out benchmarks/rows/decode.jsonl --budget 110

RoPE reads keys that were turned when they were stored, through whichever of torch's kernels is
fastest; PoPE either does the same with keys twice as wide, or runs in our kernel on un-rotated
keys, as RoPE can too: their content, as `KVCache` holds it, or raw ones. Each implementation must
agree with the float64 definition on every sequence's last query before it is timed: a CUDA graph
that goes through several caches, so that none is in L2.
`tb_per_s` counts the bytes of raw keys and values, the least that any of them must read.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.decode_inputs import CASES, DEVICE, ROTATING, Inputs
from whatwhere.kernels import decode_launch
from whatwhere.kernels.decode_launch import Keys
from whatwhere.kernels.decode_sizes import VARIANTS

LIMIT = 2e-2  # relative error, three times what bfloat16 gives
#: (head dim, length) at which `--tune` tries all sizes: one range of keys a program, and several.
TUNED = ((128, 32768), (64, 32768), (64, 4096))
SDPA = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
}

Step = Callable[[int], Tensor]  # number of the cache -> (b, h, 1, dv)


def sdpa(inputs: Inputs, encoding: str, kernel: str) -> Step:
    """torch's kernel on turned keys; the query's own turning is not counted."""
    q, caches = inputs.turned(encoding)
    grouped = inputs.case.heads != inputs.case.kv_heads

    def step(index: int) -> Tensor:
        with sdpa_kernel(SDPA[kernel]):
            return F.scaled_dot_product_attention(
                q, caches[index], inputs.values[index], scale=inputs.scale, enable_gqa=grouped
            )

    return step


def ours(
    inputs: Inputs, encoding: str, told: str, content: bool = True, variant: str | None = None
) -> Step:
    """Our kernel; positions are implied (0, 1, …), told by their first one, or one by one."""
    keys = Keys(
        positions=inputs.positions if told == "each" else None,
        first=inputs.positions[0, :1] if told == "first" else None,
        content=content,
    )
    query = inputs.rules[encoding].only.query
    caches = inputs.contents(encoding) if content else inputs.keys

    def step(index: int) -> Tensor:
        return decode_launch.attend(
            inputs.q, caches[index], inputs.values[index], inputs.at, query, keys,
            scale=inputs.scale, variant=variant,
        )  # fmt: skip

    return step


IMPLEMENTATIONS: dict[str, tuple[str, Callable[[Inputs], Step]]] = {
    "cudnn": ("rope", lambda x: sdpa(x, "rope", "cudnn")),
    "flash": ("rope", lambda x: sdpa(x, "rope", "flash")),
    "ours pope": ("pope", lambda x: ours(x, "pope", "first")),
    "ours pope, positions": ("pope", lambda x: ours(x, "pope", "each")),
    "ours pope, raw keys": ("pope", lambda x: ours(x, "pope", "first", content=False)),
    "ours rope": ("rope", lambda x: ours(x, "rope", "first")),
    "ours rope, positions": ("rope", lambda x: ours(x, "rope", "each")),
    "2d cache, cudnn": ("pope", lambda x: sdpa(x, "pope", "cudnn")),
}


def error(inputs: Inputs, encoding: str, step: Step) -> float:
    """Largest relative error of the first and the last sequence, outputs poisoned before."""
    torch.full((1 << 28,), float("nan"), device=DEVICE)
    got = step(0)
    rows = {0, inputs.case.batch - 1}
    errors = [
        float((got[row].double() - truth).norm() / truth.norm())
        for row in rows
        for truth in [inputs.truth(encoding, row)]
    ]
    return max(x if x == x else math.inf for x in errors)


def milliseconds(step: Step) -> tuple[float, float]:
    """Median and spread (interquartile) of one step, by replays of a graph over all caches."""
    step(0)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(ROTATING):
            step(index)
    for _ in range(4):
        graph.replay()
    times = []
    for _ in range(25):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / ROTATING)
    times.sort()
    return times[12], times[18] - times[6]


def copy_tb_per_s() -> float:
    """Bytes read and written by a device-to-device copy of 2 GB."""
    source = torch.randn(1 << 29, device=DEVICE)
    target = torch.empty_like(source)
    ms = triton.testing.do_bench(lambda: target.copy_(source), return_mode="median")
    return 2 * source.numel() * 4 / ms / 1e9


def measured(name: str, inputs: Inputs, variant: str | None = None) -> dict[str, Any]:
    encoding, make = IMPLEMENTATIONS[name]
    row: dict[str, Any] = {"implementation": name, "encoding": encoding, **asdict(inputs.case)}
    row |= {"batch": inputs.case.batch, "bytes": inputs.case.bytes}
    try:
        step = make(inputs) if variant is None else ours(inputs, "pope", "first", variant=variant)
        row["relative_error"] = error(inputs, encoding, step)
        if not row["relative_error"] < LIMIT:
            return row | {"error": "wrong against float64: not timed"}
        row["ms"], row["spread_ms"] = milliseconds(step)
    except (RuntimeError, ValueError) as problem:
        return row | {"error": str(problem).strip().split("\n")[0][:200]}
    return row | {"tb_per_s": inputs.case.bytes / row["ms"] / 1e9}


def tuned(inputs: Inputs) -> Iterator[dict[str, Any]]:
    """Our PoPE by every kernel and size there is a name for."""
    for variant in VARIANTS:
        yield measured("ours pope", inputs, variant) | {"implementation": variant}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, required=True, help="rows are appended here")
    options.add_argument("--budget", type=float, default=1e9, help="seconds; drops what comes last")
    options.add_argument("--only", default="", help="implementations, separated by semicolons")
    options.add_argument("--tune", action="store_true", help="our PoPE at other sizes as well")
    chosen = options.parse_args()
    deadline = time.monotonic() + chosen.budget
    commit = os.environ.get("COMMIT") or _commit()
    shared = {
        "study": "decode",
        "device": torch.cuda.get_device_name(),
        "versions": {
            "torch": torch.__version__,
            "triton": triton.__version__,
            "cudnn": torch.backends.cudnn.version(),
        },
        "commit": commit,
        "copy_tb_per_s": round(copy_tb_per_s(), 3),
    }
    print(json.dumps(shared), flush=True)
    wanted = set(filter(None, chosen.only.split(";"))) or set(IMPLEMENTATIONS)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    with chosen.out.open("a") as file, torch.no_grad():
        for case in CASES:
            if time.monotonic() > deadline:
                break
            print(f"{case} batch {case.batch}, {case.bytes / 1e9:.2f} GB", flush=True)
            inputs, anchor = Inputs(case), math.inf
            for name in IMPLEMENTATIONS:
                if name not in wanted or time.monotonic() > deadline:
                    continue
                row = measured(name, inputs)
                if name in SDPA and "ms" in row:
                    anchor = min(anchor, row["ms"])
                if "ms" in row and anchor < math.inf:
                    row["ratio"] = row["ms"] / anchor
                file.write(json.dumps(row | shared) + "\n")
                file.flush()
                print(line(row), flush=True)
            tries = chosen.tune and (case.head_dim, case.length) in TUNED
            for row in tuned(inputs) if tries else ():
                row |= {"ratio": row.get("ms", math.nan) / anchor}
                file.write(json.dumps(row | shared) + "\n")
                print(line(row), flush=True)
            del inputs
            torch.cuda.empty_cache()


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"  {row['implementation']:22s} {row['error']}"
    return (
        f"  {row['implementation']:22s} {row['ms']:.4f} ms ± {row['spread_ms']:.4f}  "
        f"{row['tb_per_s']:.2f} TB/s  ratio {row.get('ratio', math.nan):.3f}  "
        f"error {row['relative_error']:.1e}"
    )


if __name__ == "__main__":
    main()
