"""Block sizes of the kernels for short sequences: stored by kind of GPU, dtype, length and width.

Every entry compiles for its GPU, nearly without spills (tests/kernels/test_short_offline.py).
Registers and shared memory decide, but for 64 tokens of 64 channels on Hopper, whose sizes are the
fastest of those tried on an H200 (benchmarks/rows/short-h200.jsonl): no other entry was timed.
"""

from __future__ import annotations

from dataclasses import dataclass

from whatwhere.kernels.tiled_sizes import padded

__all__ = ["LONGEST", "TABLE", "WIDEST", "Sizes", "sizes_for", "why_not"]

#: Tokens of the longest sequence that is ever one tile.
LONGEST = 128
#: Features (made elsewhere) and values.
WIDEST = (256, 128)


@dataclass(frozen=True)
class Sizes:
    """Warps of a program, frequencies computed at a time, a cap on the registers of a thread."""

    warps: int
    width: int = 64
    registers: int | None = None


#: (kind of GPU, bytes of a number) -> (tokens, channels) of a tile -> sizes forward, backward.
#: The first line that is large enough is taken.
TABLE: dict[tuple[str, int], dict[tuple[int, int], tuple[Sizes, Sizes]]] = {
    ("interpreter", 2): {(128, 256): (Sizes(1), Sizes(1))},
    ("interpreter", 4): {(128, 256): (Sizes(1), Sizes(1))},
    ("hopper", 2): {
        (16, 64): (Sizes(1, 32), Sizes(2, 32)),
        (32, 64): (Sizes(2, 32), Sizes(2, 32)),
        (64, 64): (Sizes(4, 64, 128), Sizes(4, 32, 168)),
        (128, 64): (Sizes(8, 32), Sizes(8, 32)),
        (16, 128): (Sizes(2, 32), Sizes(2, 32)),
        (32, 128): (Sizes(4, 32), Sizes(4, 32)),
        (64, 128): (Sizes(4, 32), Sizes(8, 32)),
        (64, 256): (Sizes(4, 64), Sizes(8, 64)),
    },
    ("ampere", 2): {
        (16, 64): (Sizes(1, 32), Sizes(2, 32)),
        (32, 64): (Sizes(2, 32), Sizes(2, 32)),
        (64, 64): (Sizes(4, 32), Sizes(4, 16)),
        # Not 64 tokens: the backward of features of 128 channels spills 0.9 to 7 KB at any sizes.
        (32, 128): (Sizes(4, 32), Sizes(4, 32)),
    },
}
# Float32 with all its digits has no tensor cores, and a thread holds the rows that it multiplies.
for _kind in ("hopper", "ampere"):
    TABLE[_kind, 4] = {
        (16, 64): (Sizes(4, 32), Sizes(4, 32)),
        (32, 64): (Sizes(4, 32), Sizes(8, 16)),
    }


def sizes_for(kind: str, itemsize: int, tokens: int, width: int) -> tuple[int, Sizes, Sizes] | None:
    """Rows of a tile that holds so many tokens, and the stored sizes, or None if there are none."""
    block = padded(tokens)
    for (most, widest), (forward, backward) in TABLE.get((kind, itemsize), {}).items():
        if block <= most and padded(width) <= widest:
            return block, forward, backward
    return None


def why_not(kind: str, itemsize: int, width: int, tokens: int = 1) -> str | None:
    """None if sequences of up to so many tokens have sizes at this width, else a sentence."""
    if sizes_for(kind, itemsize, tokens, width) is None:
        of = f"{tokens} tokens of {width} channels" if tokens > 1 else f"{width} channels"
        return f"it has no sizes for GPUs of kind {kind!r}, {itemsize} bytes, {of}"
    return None
