"""The preparation kernels against a copy on the same device: bytes that must move over time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from whatwhere.bench.cases import Case
from whatwhere.bench.measure import milliseconds
from whatwhere.bench.setting import DEVICE, setup
from whatwhere.kernels import features, prep_launch, twins
from whatwhere.kernels.prep_launch import Sizes

CASES = [Case(d, 4096, grouped) for grouped in (1, 4) for d in (64, 128)]
#: tile, warps, heads loaded ahead, cap on registers. Few values a thread leave room for many
#: threads; more loaded ahead wants more registers.
SHAPES = {
    "forward": [(1024, 4, 0, None), (1024, 4, 1, None), (1024, 4, 2, None), (1024, 4, 3, None),
                (2048, 8, 2, None), (512, 2, 1, None), (512, 2, 2, None), (2048, 4, 0, None),
                (2048, 4, 1, None)],
    "backward": [(1024, 4, 0, 80), (1024, 4, 0, 64), (1024, 4, 0, None), (1024, 4, 1, 96),
                 (2048, 8, 0, 80), (512, 2, 0, 80), (1024, 2, 0, 128), (512, 1, 0, 144),
                 (1024, 1, 0, None)],  # of a rotation; PoPE's is `benchmarks.delta_sums`
}  # fmt: skip
GRID = {
    direction: [Sizes(t, w, heads, ahead, cap) for t, w, ahead, cap in shapes
                for heads in (8, 16, 64)]
    for direction, shapes in SHAPES.items()
}  # fmt: skip


def copy_speed(count: int = 1 << 28) -> float:
    """Bytes read and written in a second by a copy of `count` bfloat16 values."""
    source = torch.randn(count, device=DEVICE, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    return 4.0 * count / (milliseconds(lambda: target.copy_(source)) * 1e-3)


def kernels(
    encoding: str, case: Case, by_heads: bool = False
) -> dict[str, tuple[Callable[[], Any], int]]:
    """Forward and backward of q and k together, and the bytes that each must move.

    Vectors are stored (b, n, h, d), features too or head after head (`by_heads`).
    """
    b, n, d = case.batch, case.length, case.head_dim
    mapping = setup(encoding, case).rule().only.query
    q, k = (
        torch.randn(b, n, h, d, device=DEVICE, dtype=torch.bfloat16).transpose(1, 2)
        for h in (case.heads, case.kv_heads)
    )
    positions = torch.arange(n, device=DEVICE)[None]
    offset = getattr(mapping, "offset", None)
    offset = None if offset is None else offset.detach()
    rest = (positions, mapping.angles.turns, None, offset, None, twins.recipe(mapping))
    numbers = (1.0, 0, 1, [])
    q_out, k_out = features._prep(q, k, *rest, *numbers, by_heads)
    grads = torch.randn_like(q_out), torch.randn_like(k_out)
    polar = encoding == "pope"
    raw = (q, k) if polar else (None, None)
    small, wide = ((x.numel() + y.numel()) * 2 for x, y in ((q, k), (q_out, k_out)))
    return {
        "forward": (lambda: features._prep(q, k, *rest, *numbers, by_heads), small + wide),
        "backward": (
            lambda: features._prep_backward(*grads, *raw, *rest, *numbers, True, polar),
            small * (2 if polar else 1) + wide,
        ),
    }


def rows() -> Iterator[dict[str, Any]]:
    """The stored sizes at every case."""
    copied = copy_speed()
    yield {"copy_gb_s": round(copied / 1e9)}
    for case, encoding, by_heads in itertools.product(CASES, ("rope", "pope"), (False, True)):
        for direction, (run, size) in kernels(encoding, case, by_heads).items():
            sums = (direction, encoding) == ("backward", "pope")
            sizes = prep_launch.SIZES["sums" if sums else direction, encoding == "rope"]
            row = _row(encoding, case, direction, sizes, run, size, copied)
            yield row | {"by_heads": by_heads}


def tuned() -> Iterator[dict[str, Any]]:
    """All sizes of the grid at the ungrouped cases, the best of each case first."""
    copied = copy_speed()
    stored = dict(prep_launch.SIZES)
    for case, encoding, by_heads in itertools.product(CASES[:2], ("pope", "rope"), (False, True)):
        for direction, (run, size) in kernels(encoding, case, by_heads).items():
            if (direction, encoding) == ("backward", "pope"):
                continue
            key, found = (direction, encoding == "rope"), []
            for sizes in GRID[direction]:
                prep_launch.SIZES[key] = sizes
                try:
                    row = _row(encoding, case, direction, sizes, run, size, copied)
                except Exception as error:  # noqa: BLE001 - a size that does not fit is no result
                    row = {"prep": encoding, "error": str(error)[:200], "sizes": str(sizes)}
                found.append(row | {"by_heads": by_heads})
            prep_launch.SIZES[key] = stored[key]
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
        "sizes": "/".join(str(x) for x in vars(sizes).values()),
    }
