"""Attention over short sequences, encoding included: our one-tile kernels beside every other path.

    python -m benchmarks.short --out rows.jsonl            # implementations, then sizes (--sweep)

Raw q, k, v of `heads` heads of 64 channels, bfloat16, causal; one row for each implementation,
encoding, length and number of sequences: first the largest error of output and gradients against
float64 (a row that is off has an error and no times), then median device milliseconds with an
emptied L2, and what share of the copy bandwidth that is if every tensor moved once. `--sweep` tries
other sizes of the one-tile kernels, from which `kernels.short_sizes.TABLE` and `probe.SHORT` are
to be corrected. Runs on one GPU of compute capability 8.0 or later.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whatwhere.attention import probe
from whatwhere.bench.ledger import provenance
from whatwhere.bench.measure import distance, milliseconds, poison
from whatwhere.kernels import features, short_sizes
from whatwhere.kernels.fused_op import fused
from whatwhere.kernels.pairs import Pairs
from whatwhere.kernels.short_sizes import Sizes
from whatwhere.kernels.tiled_sizes import of_device
from whatwhere.maps import Map, Polar, Rotate
from whatwhere.phases import Angles, to_turns

HEADS, WIDTH, SCALE = 8, 64, 0.125
LIMIT = 2e-2  # bfloat16 against float64, relative; sound kernels are at a third of it
COPY_BYTES = 1 << 30
IMPLEMENTATIONS = ("short", "hopper", "tiled", "cudnn", "flash", "efficient")
#: Warps, frequencies at a time, cap on registers.
FORWARD = ((4, 32, None), (4, 64, 128), (4, 16, None), (8, 32, None), (2, 32, None), (4, 32, 80))
BACKWARD = ((4, 32, 168), (4, 32, None), (4, 16, None), (4, 32, 128), (8, 32, None), (8, 32, 128))


def maps(encoding: str) -> tuple[Map, Map, list[Tensor]]:
    """Maps of queries and keys, and what is learned in them."""
    count = WIDTH // 2 if encoding == "rope" else WIDTH
    exponents = [10000.0 ** (-c / count) for c in range(count)]
    angles = Angles(torch.tensor(to_turns(exponents), device="cuda"))
    if encoding == "rope":
        return Rotate(angles), Rotate(angles), []
    offset = (-6.28 * torch.rand(HEADS, WIDTH, device="cuda")).requires_grad_()
    return Polar(angles, "softplus", offset), Polar(angles), [offset]


def attention(name: str, encoding: str, n: int) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """Raw q, k, v -> output, and the parameters."""
    query, key, learned = maps(encoding)
    if encoding == "rope":
        key = query
    else:
        key = replace(query, offset=None)  # type: ignore[type-var]
    at = torch.arange(n, device="cuda")[None]
    if name in probe.OWN:
        return lambda q, k, v: fused(query, key, q, k, v, at, None, SCALE, Pairs(), name), learned

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return probe.run(name, *features.prepare(query, q, at, k), v, True, SCALE)

    return run, learned


def definition(encoding: str, n: int, learned: list[Tensor]) -> Callable[..., Tensor]:
    """The same by the reference maps, any dtype."""
    query, _, _ = maps(encoding)
    if learned:
        query = replace(query, offset=learned[0])  # type: ignore[type-var]
    key = query if encoding == "rope" else replace(query, offset=None)  # type: ignore[type-var]
    at = torch.arange(n, device="cuda")[None]
    hidden = torch.ones(n, n, dtype=torch.bool, device="cuda").triu(1)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = query(q, at) @ key(k, at).mT * SCALE
        return scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v

    return run


def errors(run: Callable[..., Tensor], learned: list[Tensor], encoding: str, n: int) -> float:
    """The largest error of output and gradients against float64, over a few sequences."""
    leaves = vectors(3, n)
    grad = torch.randn(3, n, HEADS, WIDTH, device="cuda").bfloat16().transpose(1, 2)
    exact = [x.detach().double().requires_grad_() for x in leaves]
    true = definition(encoding, n, learned)(*exact)
    wanted = [true, *torch.autograd.grad(true, [*exact, *learned], grad.double())]
    poison()
    out = run(*leaves)
    poison()
    found = [out, *torch.autograd.grad(out, [*leaves, *learned], grad)]
    gaps = [distance(a, b.detach().double()) for a, b in zip(found, wanted, strict=True)]
    return max(gaps) if all(gap == gap for gap in gaps) else float("nan")


def vectors(batch: int, n: int) -> list[Tensor]:
    """q, k, v (b, h, n, d) in (b, n, h, d) storage."""
    made = (torch.randn(batch, n, HEADS, WIDTH, device="cuda").bfloat16() for _ in range(3))
    return [x.transpose(1, 2).requires_grad_() for x in made]


def row_of(name: str, encoding: str, n: int, batch: int, bandwidth: float) -> dict[str, Any]:
    """One measurement, or its error."""
    row: dict[str, Any] = {
        "study": "short", "implementation": name, "encoding": encoding, "head_dim": WIDTH,
        "heads": HEADS, "batch": batch, "length": n,
    }  # fmt: skip
    try:
        run, learned = attention(name, encoding, n)
        row["error_of"] = errors(run, learned, encoding, n)
        if not row["error_of"] <= LIMIT:
            return row | {"error": "disagrees with float64"}
        leaves = vectors(batch, n)
        grad = torch.randn_like(leaves[0])
        back = lambda out: torch.autograd.grad(out, [*leaves, *learned], grad)  # noqa: E731
        row["forward_ms"] = milliseconds(lambda: run(*leaves))
        row["backward_ms"] = milliseconds(back, before=lambda: run(*leaves))
    except Exception as error:  # noqa: BLE001 - any failure of any library is a row
        return row | {"error": f"{type(error).__name__}: {error}"[:300]}
    size = 2 * leaves[0].numel()
    for which, tensors in (("forward", 4), ("backward", 7)):
        least = tensors * size / bandwidth * 1e3
        row[f"{which}_of_bandwidth"] = round(least / row[f"{which}_ms"], 3)
    return row


def copy_bandwidth() -> float:
    """Bytes read and written a second by a large copy."""
    a = torch.empty(COPY_BYTES, dtype=torch.int8, device="cuda")
    b = torch.empty_like(a)
    return 2 * COPY_BYTES / milliseconds(lambda: b.copy_(a)) * 1e3


def implementations(bandwidth: float) -> Iterator[dict[str, Any]]:
    """Every path at every size, those of indirect indexing first."""
    for n, batch in itertools.product((48, 64, 128), (64, 128, 256, 512)):
        for encoding, name in itertools.product(("pope", "rope"), IMPLEMENTATIONS):
            yield row_of(name, encoding, n, batch, bandwidth)


def sweep(bandwidth: float) -> Iterator[dict[str, Any]]:
    """Other sizes of the one-tile kernels at 48 tokens: 2,048 programs of forward."""
    lines = short_sizes.TABLE[of_device(torch.device("cuda")), 2]
    kept = lines[64, 64]
    for encoding in ("pope", "rope"):
        for which, choices in enumerate((FORWARD, BACKWARD)):
            for choice in choices:
                pair = [Sizes(*choice) if side == which else kept[side] for side in (0, 1)]
                lines[64, 64] = (pair[0], pair[1])
                size = {"sizes": choice, "varied": ("forward", "backward")[which]}
                yield row_of("short", encoding, 48, 256, bandwidth) | size
    lines[64, 64] = kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sweep", action="store_true", help="other sizes, after all else")
    options = parser.parse_args()
    bandwidth = copy_bandwidth()
    shared = provenance() | {"copy_tb_s": round(bandwidth / 1e12, 3)}
    measured = implementations(bandwidth)
    for row in itertools.chain(measured, sweep(bandwidth) if options.sweep else ()):
        print(json.dumps(row), flush=True)
        with options.out.open("a") as file:
            file.write(json.dumps(row | shared) + "\n")


if __name__ == "__main__":
    main()
