"""PoPE's preparation backwards at every size on the list: first right, then how fast of a copy.

`python -m benchmarks.delta_sums` on a GPU, about two minutes: kernels are compiled by processes of
their own, compared with the definition in float64, then measured side by side, the best few again
turn about. The last lines name what `prep_launch.SIZES["sums", False]` should be, and what the sum
over chunks is worth beside torch's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.bandwidth import CASES, copy_speed, kernels
from whatwhere.bench.cases import Case
from whatwhere.bench.measure import distance, milliseconds, poison
from whatwhere.bench.setting import DEVICE
from whatwhere.kernels import features, prep_calls, prep_launch
from whatwhere.kernels.prep_launch import Sizes
from whatwhere.maps import Polar
from whatwhere.phases import Angles, to_turns
from whatwhere.study.rows import commit, device_name, versions

KEY = ("sums", False)
#: tile, warps, heads, heads loaded ahead, cap on registers, span (any: see SPANS), keys last.
#: Eight values a thread (tile / (32 warps)), as measured first, and four: half the registers for
#: sums, so more threads, and all of the next block in flight.
SHAPES = [
    Sizes(512, 2, 4, 2, 128),
    Sizes(512, 2, 4, 2, 128, apart=True),
    Sizes(512, 2, 4, 1, 128),
    Sizes(512, 2, 2, 2, 112),
    Sizes(512, 2, 2, 2, 96),
    Sizes(256, 2, 4, 4, 96),
    Sizes(256, 2, 4, 4, 96, apart=True),
    Sizes(256, 2, 4, 4, 88),
    Sizes(256, 2, 4, 4, 80),
    Sizes(256, 2, 2, 2, 64),
    Sizes(128, 1, 4, 4, 96),
    Sizes(128, 1, 4, 4, 96, apart=True),
    Sizes(128, 1, 4, 4, 80),
    Sizes(512, 4, 4, 4, 96),
]
SPANS = (16, 32, 64, 128)
CHECKED = ((8, 8, 1000), (6, 3, 333), (5, 5, 1))  # heads, KV heads, positions
GROUPED_FIRST = sorted(CASES, key=lambda case: -case.grouped)


def choose(sizes: Sizes) -> None:
    """The next backward pass is of these sizes."""
    prep_launch.SIZES[KEY] = sizes


def named(sizes: Sizes) -> str:
    """As one word."""
    return "/".join(str(x) for x in vars(sizes).values())


def backward(
    width: int, heads: int, kv_heads: int, length: int, by_heads: bool = False
) -> tuple[Callable[[], tuple[Tensor, ...]], list[Tensor], Polar, list[Tensor]]:
    """A pass over random vectors, stored (b, n, h, d), and gradients of features, stored so or
    head after head; all of these, and the map."""
    torch.manual_seed(length)
    turns = torch.tensor(to_turns([10000.0 ** (-c / width) for c in range(width)]), device=DEVICE)
    offset = -2 * math.pi * torch.rand(heads, width, device=DEVICE)
    mapping = Polar(Angles(turns), "softplus", offset)

    def draw(count: int, channels: int) -> Tensor:
        x = torch.randn(2, length, count, channels, device=DEVICE, dtype=torch.bfloat16)
        return x.transpose(1, 2)

    vectors = [draw(heads, width), draw(kv_heads, width)]
    grads = [draw(heads, 2 * width), draw(kv_heads, 2 * width)]
    if by_heads:
        grads = [x.contiguous() for x in grads]
    positions = torch.arange(length, device=DEVICE)[None]
    rest = (positions, turns, None, offset, None, "softplus", 1.0, 0, 1, [], True, True)
    return lambda: features._prep_backward(*grads, *vectors, *rest), vectors, mapping, grads


def compile_one(job: tuple[int, Sizes, bool]) -> None:
    """Compile into the cache on disk, in a process of its own; what fails, fails again later."""
    width, sizes, by_heads = job
    choose(sizes)
    counts = {(case.heads, case.kv_heads) for case in CASES if case.head_dim == width}
    counts |= {(heads, kv_heads) for heads, kv_heads, _ in CHECKED}
    for heads, kv_heads in sorted(counts):
        with contextlib.suppress(Exception):
            backward(width, heads, kv_heads, 64, by_heads)[0]()
    torch.cuda.synchronize()


def compile_all(shapes: list[Sizes], by_heads: bool = False) -> None:
    """All of them, side by side."""
    widths = sorted({case.head_dim for case in CASES})
    jobs = [(width, sizes, by_heads) for sizes in shapes for width in widths]
    with ProcessPoolExecutor(14, mp_context=get_context("spawn")) as pool:
        list(pool.map(compile_one, jobs))


def faults(width: int, sizes: Sizes) -> list[str]:
    """What is wrong: gradients against float64, dδ the same at every run."""
    choose(sizes)
    found = []
    for heads, kv_heads, length in CHECKED:
        run, vectors, mapping, grads = backward(width, heads, kv_heads, length)
        leaves = [x.double().requires_grad_() for x in vectors]
        offset = mapping.offset.clone().requires_grad_()  # type: ignore[union-attr]
        at = torch.arange(length, device=DEVICE)[None]
        maps = replace(mapping, offset=offset), replace(mapping, offset=None)
        out = [each(x, at) for each, x in zip(maps, leaves, strict=True)]
        true = torch.autograd.grad(out, [*leaves, offset], [x.double() for x in grads])
        poison()
        try:
            got = run()
        except Exception as error:  # noqa: BLE001 - a size that does not fit is no result
            return [str(error).splitlines()[0][:200]]
        for name, mine, exact in zip(("dq", "dk", "dδ"), got, true, strict=True):
            # One rounding of vectors; sums are float32 over terms of bfloat16 gradients.
            error = distance(mine, exact.double())
            if not error < 2.0**-9:
                found.append(f"{heads}/{kv_heads}, {length}: {name} {error:.1e}")
    run = backward(width, 32, 8, 4096)[0]
    first = [x.clone() for x in run()]
    if not all(torch.equal(a, b) for _ in range(3) for a, b in zip(first, run(), strict=True)):
        found.append("differs from run to run")
    return found


def parts(sizes: Sizes, run: Callable[[], Any]) -> str:
    """Microseconds of each kernel of a call."""
    choose(sizes)
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        for _ in range(5):
            run()
        torch.cuda.synchronize()
    return ", ".join(
        f"{each.key[:28]} {each.device_time_total / 5:.1f}" for each in seen.key_averages()
    )


def label(case: Case) -> str:
    """d64 4:1."""
    return f"d{case.head_dim} {case.grouped}:1"


def main() -> None:
    """Compile, check, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="rows of JSON, besides")
    out = parser.parse_args().out
    begun = time.perf_counter()
    widths = sorted({case.head_dim for case in CASES})
    compile_all(SHAPES)
    print(f"compiled after {time.perf_counter() - begun:.0f} s", flush=True)
    right = []
    for sizes in SHAPES:
        wrong = [f"d {width}: {fault}" for width in widths for fault in faults(width, sizes)]
        print(f"{named(sizes):42}", "; ".join(wrong) or "right", flush=True)
        if not wrong:
            right.append(sizes)
    print(f"checked after {time.perf_counter() - begun:.0f} s", flush=True)
    rows = measured([x for sizes in right for x in spread(sizes)])
    print(f"measured after {time.perf_counter() - begun:.0f} s")
    if out is not None:
        made = {"device": device_name("cuda"), "versions": versions(), "commit": commit()}
        lines = (json.dumps(row | made) + "\n" for row in rows)
        out.write_text("".join(lines), encoding="utf-8")


def spread(sizes: Sizes) -> list[Sizes]:
    """At every span: nothing is compiled again for it."""
    return [replace(sizes, span=span) for span in SPANS]


def measured(candidates: list[Sizes]) -> list[dict[str, Any]]:
    """The table of all, the best again turn about, where their time goes."""
    copied = copy_speed()
    print(f"copy {copied * 1e-9:.0f} GB/s; shares of it, backward, bfloat16, 32,768 tokens")
    made = {label(case): kernels("pope", case) for case in GROUPED_FIRST}
    by_heads = {f"{label(case)} heads": kernels("pope", case, True) for case in GROUPED_FIRST}
    for name, run in (made | by_heads).items():
        ms = milliseconds(run["forward"][0], budget_ms=20.0)
        print(f"forward {name}: {run['forward'][1] / (ms * 1e-3) / copied:.3f}")
    rows = table(candidates, made, copied)
    best = sorted(rows, key=lambda row: -row["least"])[:4]
    print("the best four in turn, medians of three; also features head by head")
    again = [row["sizes"] for row in best]
    compile_all(list({spread(sizes)[0]: None for sizes in again}), by_heads=True)
    both = made | by_heads
    rounds = [table(again, both, copied, False) for _ in range(3)]
    final = []
    for each in zip(*rounds, strict=True):
        shares = {name: statistics.median(row[name] for row in each) for name in both}
        final.append({"sizes": each[0]["sizes"], **shares, "least": min(shares.values())})
    show(final, list(both))
    winner = max(final, key=lambda row: row["least"])["sizes"]
    print(f'winner: SIZES["sums", False] = {winner}', flush=True)
    own, prep_calls.total = prep_calls.total, lambda partial: partial.sum(dim=0)
    print("the same with torch's sum over chunks")
    show(table([winner], made, copied, False), list(made))
    prep_calls.total = own
    for name, run in made.items():
        print(f"{named(winner)} {name}, us: {parts(winner, run['backward'][0])}", flush=True)
    return [row | {"sizes": named(row["sizes"])} for row in (*rows, *final)]


def table(
    candidates: list[Sizes], made: dict[str, Any], copied: float, printed: bool = True
) -> list[dict[str, Any]]:
    """Shares of each size at each case; `least` is that of the worst."""
    rows = []
    for sizes in candidates:
        shares: dict[str, Any] = {}
        for name, run in made.items():
            choose(sizes)
            size, ms = run["backward"][1], milliseconds(run["backward"][0], budget_ms=20.0)
            shares[name] = round(size / (ms * 1e-3) / copied, 3)
        rows.append({"sizes": sizes, **shares, "least": min(shares.values())})
    if printed:
        show(sorted(rows, key=lambda row: -row["least"]), list(made))
    return rows


def show(rows: list[dict[str, Any]], names: list[str]) -> None:
    """One line each."""
    print(f"{'tile/warps/heads/ahead/cap/span/keys last':42}", *(f"{name:>14}" for name in names))
    for row in rows:
        print(f"{named(row['sizes']):42}", *(f"{row[name]:14.3f}" for name in names), flush=True)


if __name__ == "__main__":
    main()
