"""Launching the decode kernels: what they compute, sizes per shape, how keys are split.

Sizes are a function of the shape, not tuned at a call: the ones that compile for sm_90a without
spilling in the loop (tests/kernels/test_decode.py compiles them offline).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from whatwhere.kernels import decode as kernels
from whatwhere.kernels.interpreter import interpreted
from whatwhere.maps import Map, Plain, Polar, Rotate

__all__ = ["Keys", "Sizes", "attend", "sizes", "splits"]

_FAR = 2**31 - 1  # "no limit" for a distance; positions of one sequence are closer than this
_PROGRAMS_PER_SM = 2  # as many as registers and shared memory allow: one wave of equal programs
_MAGNITUDES = {
    "softplus": kernels.softplus,
    "relu": kernels.relu,
    "identity": kernels.identity,
}


@dataclass(frozen=True)
class Keys:
    """What is known of the cached keys beside the vectors; every field may be left out.

    positions (1 or b, n) int64, None: 0, 1, …; valid (1 or b, n) bool, False at padding;
    lengths (b,) int32, how many keys of each row count, read on the device; table (b, pages) int32,
    the page of each run of `page` keys — k and v are then (pages, g, page, d) and (…, dv).
    """

    positions: Tensor | None = None
    valid: Tensor | None = None
    lengths: Tensor | None = None
    table: Tensor | None = None


@dataclass(frozen=True)
class Sizes:
    """Keys a block, warps a program, stages of the pipeline."""

    block: int
    warps: int = 4
    stages: int = 3


def sizes(head_dim: int, value_dim: int, rows: int, dtype: torch.dtype) -> Sizes:
    """Block sizes for widths, query rows a KV head, and dtype: 64 elements of K a thread."""
    width = triton.next_power_of_2(max(head_dim, value_dim))
    elements = 8192 if rows <= 16 and width <= 128 else 4096
    if dtype == torch.float32:
        elements //= 2
    return Sizes(min(128, max(16, elements // width)))


def splits(programs: int, blocks: int, slots: int) -> int:
    """Ranges of keys a KV head: as many as fill `slots` programs once, at most one a block."""
    return max(1, min(blocks, slots // programs))


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    query: Map,
    keys: Keys,
    *,
    scale: float,
    causal: bool = True,
    window: int | None = None,
    temperature: Tensor | None = None,
    slopes: Tensor | None = None,
    split: int | None = None,
) -> Tensor:
    """Attention of q (b, h, nq, d) at positions (1 or b, nq) over k (b, g, n, d), v (b, g, n, dv).

    `query` is the query's map; the key's is the same without its offset. temperature (1 or b, nq)
    multiplies scores, slopes (h,) subtract slope · |i - j| (ALiBi). Nothing synchronises with the
    host: with `keys.lengths` a captured CUDA graph is good for any length up to n. A row that sees
    no key is 0. bfloat16 and float16 keys are multiplied in float16: beyond ±65504 they are NaN.
    """
    (b, h, nq, d), g, dv = q.shape, k.shape[1], v.shape[-1]
    page = k.shape[2]
    n = page if keys.table is None else page * keys.table.shape[1]
    rows = max(16, triton.next_power_of_2(nq * (h // g)))
    size = sizes(d, dv, rows, k.dtype)
    if keys.table is not None and page % size.block:
        raise ValueError(f"a page holds {page} keys; it must be a multiple of {size.block}")
    if split is None:
        split = splits(b * g, triton.cdiv(n, size.block), _slots(q.device))
    parts = torch.empty((b, h, nq, split, dv), dtype=torch.float32, device=q.device)
    lse = torch.empty((b, h, nq, split), dtype=torch.float32, device=q.device)
    out = q.new_empty((b, h, nq, dv))
    far = _FAR if window is None else window
    rotation = not isinstance(query, Polar)
    magnitude = _MAGNITUDES["identity" if rotation else query.magnitude]  # type: ignore
    angles = None if isinstance(query, Plain) else query.angles  # type: ignore[attr-defined]
    offset = query.offset if isinstance(query, Polar) else None
    kernels.partial[(b * g * split,)](
        *(_described(q), _described(k), _described(v), parts, lse),
        *(_row_major(x) for x in (positions, keys.positions, keys.valid)),
        *(keys.lengths, _row_major(keys.table), None if angles is None else angles.turns),
        None if offset is None else offset.detach().float().contiguous(),
        None if temperature is None else _row_major(temperature.float()),
        *(None if slopes is None else slopes.float(), n, h // g, nq, g, split),
        *(_step(x) for x in (positions, keys.positions, keys.valid, keys.table, temperature)),
        *(page, far, 1 if causal else far, getattr(query, "direction", 1), scale),
        1.0 if angles is None else float(angles.amplitude),
        SIZE=magnitude,
        PAIRED=isinstance(query, Rotate),
        INTERLEAVED=isinstance(query, Rotate) and query.layout == "interleaved",
        F=0 if angles is None else angles.count,
        D=d,
        DV=dv,
        ROWS=rows,
        BLOCK_N=size.block,
        BLOCK_D=max(16, triton.next_power_of_2(d)),
        BLOCK_V=max(16, triton.next_power_of_2(dv)),
        STAGES=size.stages,
        PRECISION="ieee" if k.dtype == torch.float32 else "tf32",
        KIND=tl.float32 if k.dtype == torch.float32 else tl.float16,
        num_warps=size.warps,
    )
    kernels.combine[(b * h * nq,)](
        parts, lse, out, split, DV=dv, BLOCK_S=16, BLOCK_V=triton.next_power_of_2(dv), num_warps=2
    )
    return out


@functools.cache
def _multiprocessors(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


def _slots(device: torch.device) -> int:
    if device.type != "cuda":
        return 4 if interpreted() else 1
    index = torch.cuda.current_device() if device.index is None else device.index
    return _PROGRAMS_PER_SM * _multiprocessors(index)


def _described(x: Tensor) -> tuple[Any, ...]:
    # Copying a cache at each step would hide as slowness: what a cache hands out needs no copy.
    if x.stride(3) != 1:
        raise ValueError(f"channels must be contiguous, and their stride is {x.stride(3)}")
    return x, x.stride(0), x.stride(1), x.stride(2)


def _row_major(x: Tensor | None) -> Tensor | None:
    return x if x is None or x.stride(-1) == 1 else x.contiguous()


def _step(x: Tensor | None) -> int:
    if x is None or x.shape[0] == 1:
        return 0
    return x.stride(0) if x.stride(-1) == 1 else x.shape[1]
