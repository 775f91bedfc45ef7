"""Block sizes of the plain Triton kernels, by kind of GPU, dtype and widths: stored, not tuned.

Every entry of 16 bits compiles without spills for its GPU (tests/kernels/test_tiled_offline.py).
They are chosen by that and by shared memory, and were not timed against one another yet.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from whatwhere.kernels.interpreter import interpreted

__all__ = ["TABLE", "WIDEST", "Sizes", "Tile", "kind_of_gpu", "of_device", "padded", "sizes_for"]


@dataclass(frozen=True)
class Tile:
    """Queries and keys of one step, warps of a program, loads in flight."""

    queries: int
    keys: int
    warps: int = 4
    stages: int = 2


@dataclass(frozen=True)
class Sizes:
    """One tile for each kernel: forward, dq, dk and dv, all three gradients at once."""

    forward: Tile
    queries: Tile
    both: Tile
    fast: Tile


def _same(tile: Tile) -> Sizes:
    return Sizes(tile, tile, tile, tile)


#: (kind of GPU, bytes of a number) -> (padded features, padded values) -> sizes: forward, dq,
#: dk and dv, all three gradients. The first line that is wide enough is taken.
TABLE: dict[tuple[str, int], dict[tuple[int, int], Sizes]] = {
    ("hopper", 2): {
        (64, 64): Sizes(Tile(128, 64, 8, 3), Tile(128, 64, 8), Tile(64, 128, 8), Tile(64, 128, 8)),
        (128, 64): Sizes(Tile(128, 64, 8, 3), Tile(128, 64, 8), Tile(64, 128, 8), Tile(64, 128, 8)),
        (128, 128): Sizes(Tile(128, 64, 8, 3), Tile(128, 64, 8), Tile(32, 64, 8), Tile(32, 64, 8)),
        (256, 128): Sizes(
            Tile(128, 64, 8, 3), Tile(128, 32, 8), Tile(32, 32, 8, 1), Tile(32, 32, 8, 1)
        ),
        (256, 256): Sizes(
            Tile(64, 32, 8, 1), Tile(32, 32, 8, 1), Tile(16, 32, 8, 1), Tile(16, 32, 8, 1)
        ),
        (512, 256): _same(Tile(16, 16, 8, 1)),
    },
    ("ampere", 2): {
        (64, 64): Sizes(Tile(64, 32), Tile(64, 32), Tile(32, 64), Tile(32, 64)),
        (128, 64): Sizes(Tile(64, 64), Tile(64, 32), Tile(32, 64, 8), Tile(32, 64, 8)),
        (128, 128): Sizes(Tile(64, 64), Tile(64, 32), Tile(32, 64, 8), Tile(32, 64, 8)),
        (256, 128): Sizes(Tile(64, 32), Tile(64, 32, 8, 1), Tile(32, 32, 8, 1), Tile(32, 32, 8, 1)),
        (256, 256): Sizes(
            Tile(64, 32, 8, 1), Tile(32, 32, 8, 1), Tile(16, 32, 8, 1), Tile(16, 32, 8, 1)
        ),
        (512, 256): Sizes(
            Tile(32, 32, 8, 1), Tile(32, 16, 8, 1), Tile(16, 16, 8, 1), Tile(16, 16, 8, 1)
        ),
    },
}
# Float32 with all its digits has no tensor cores: its tiles are small on every GPU.
for _kind in ("hopper", "ampere"):
    TABLE[_kind, 4] = {
        (128, 128): _same(Tile(32, 32, 8, 1)),
        (512, 256): _same(Tile(16, 16, 8, 1)),
    }
#: Its time goes by operations, not by numbers: few and large tiles.
_INTERPRETED = _same(Tile(64, 32, 1, 1))
WIDEST = (512, 256)


def padded(width: int) -> int:
    """The width of a tile that holds `width` channels: a power of two, at least 16."""
    return max(16, 1 << (width - 1).bit_length())


def kind_of_gpu(major: int, minor: int) -> str:
    """hopper: 227 KB of shared memory a block; ampere, and all that came after: 99 KB.

    Triton compiles for compute capability 8.0 and later.
    """
    return "hopper" if (major, minor) == (9, 0) else "ampere"


def of_device(device: torch.device) -> str:
    """The kind of GPU that a tensor is on."""
    if interpreted():
        return "interpreter"
    return _of_index(-1 if device.index is None else device.index)


@functools.cache
def _of_index(index: int) -> str:
    return kind_of_gpu(*torch.cuda.get_device_capability(None if index < 0 else index))


@functools.cache
def sizes_for(kind: str, dtype: torch.dtype, features: int, values: int) -> Sizes:
    """The stored sizes. Raises ValueError if the widths are beyond `WIDEST`."""
    if kind == "interpreter":
        return _INTERPRETED
    f, dv = padded(features), padded(values)
    for (most_f, most_dv), sizes in TABLE[kind, dtype.itemsize].items():
        if f <= most_f and dv <= most_dv:
            return sizes
    raise ValueError(f"widths {features}/{values} are beyond {WIDEST[0]}/{WIDEST[1]}")
