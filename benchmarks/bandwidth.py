"""The preparation kernels against a copy on the same device: bytes that must move over time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.cases import DEVICE, Case
from benchmarks.implementations import setup
from benchmarks.measure import milliseconds
from whatwhere.kernels import features, prep_launch
from whatwhere.kernels.prep_launch import Sizes

CASES = [Case(d, 4096, grouped) for grouped in (1, 4) for d in (64, 128)]
GRID = [
    Sizes(tile, warps, heads)
    for tile, warps in ((512, 2), (1024, 2), (1024, 4), (2048, 4), (2048, 8), (4096, 8))
    for heads in (4, 16, 64)
]


def copy_speed(count: int = 1 << 28) -> float:
    """Bytes read and written in a second by a copy of `count` bfloat16 values."""
    source = torch.randn(count, device=DEVICE, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    return 4.0 * count / (milliseconds(lambda: target.copy_(source)) * 1e-3)


def kernels(encoding: str, case: Case) -> dict[str, tuple[Callable[[], Any], int]]:
    """Forward and backward of q and k together, and the bytes that each must move."""
    b, n, d = case.batch, case.length, case.head_dim
    mapping = setup(encoding, case).rule().only.query
    q, k = (
        torch.randn(b, n, h, d, device=DEVICE, dtype=torch.bfloat16).transpose(1, 2)
        for h in (case.heads, case.kv_heads)
    )
    positions = torch.arange(n, device=DEVICE)[None]
    offset = getattr(mapping, "offset", None)
    offset = None if offset is None else offset.detach()
    rest = (positions, mapping.angles.turns, None, offset, None, features._recipe(mapping))
    numbers = (1.0, 0, 1)
    q_out, k_out = features._prep(q, k, *rest, *numbers)
    grads = torch.randn_like(q_out), torch.randn_like(k_out)
    polar = encoding == "pope"
    raw = (q, k) if polar else (None, None)
    small, wide = ((x.numel() + y.numel()) * 2 for x, y in ((q, k), (q_out, k_out)))
    return {
        "forward": (lambda: features._prep(q, k, *rest, *numbers), small + wide),
        "backward": (
            lambda: features._prep_backward(*grads, *raw, *rest, *numbers, polar),
            small * (2 if polar else 1) + wide,
        ),
    }


def rows() -> Iterator[dict[str, Any]]:
    """The stored sizes at every case."""
    copied = copy_speed()
    yield {"copy_gb_s": round(copied / 1e9)}
    for case, encoding in itertools.product(CASES, ("rope", "pope")):
        for direction, (run, size) in kernels(encoding, case).items():
            yield _row(encoding, case, direction, prep_launch.SIZES[direction], run, size, copied)


def tuned() -> Iterator[dict[str, Any]]:
    """All sizes of the grid at the ungrouped cases, the best of each case first."""
    copied = copy_speed()
    stored = dict(prep_launch.SIZES)
    for case, encoding in itertools.product(CASES[:2], ("pope", "rope")):
        for direction, (run, size) in kernels(encoding, case).items():
            found = []
            for sizes in GRID:
                prep_launch.SIZES[direction] = sizes
                try:
                    found.append(_row(encoding, case, direction, sizes, run, size, copied))
                except Exception as error:  # noqa: BLE001 - a size that does not fit is no result
                    found.append({"prep": encoding, "error": str(error)[:200], "sizes": str(sizes)})
            prep_launch.SIZES[direction] = stored[direction]
            yield from sorted(found, key=lambda row: row.get("ms", 1e9))


def _row(
    encoding: str, case: Case, direction: str, sizes: Sizes, run: Callable[[], Any], size: int,
    copied: float,
) -> dict[str, Any]:  # fmt: skip
    ms = milliseconds(run, budget_ms=40.0)
    return {
        "prep": encoding,
        "direction": direction,
        "head_dim": case.head_dim,
        "heads": case.heads,
        "kv_heads": case.kv_heads,
        "ms": round(ms, 4),
        "gb_s": round(size / ms * 1e-6),
        "of_copy": round(size / (ms * 1e-3) / copied, 3),
        "sizes": f"{sizes.tile}/{sizes.warps}/{sizes.heads}",
    }
