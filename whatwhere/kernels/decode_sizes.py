"""Which decode kernel, and of what sizes, for a shape: a table, nothing is tuned at a call.

Every variant compiles for sm_90a without spilling in its loop (tests/kernels/test_decode.py).
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import Literal

import torch
import triton

from whatwhere.kernels.interpreter import interpreted
from whatwhere.tracing import constant

__all__ = ["VARIANTS", "Sizes", "sizes", "slots", "splits", "why_not_operands"]


@dataclass(frozen=True)
class Sizes:
    """Keys a block, warps a program, stages of the pipeline, programs on a multiprocessor.

    kernel "operands" is `decode_mma` (its block is 16 keys a warp), "tiles" is `decode`; `half`
    keeps the former's features in float16 also for bfloat16 keys. narrow: most registers of a
    thread of the former where keys and values have 64 channels and up to 4 rows read a KV head.
    """

    block: int
    warps: int = 4
    stages: int = 3
    programs: int = 2
    kernel: Literal["operands", "tiles"] = "tiles"
    half: bool = False
    narrow: int | None = None

    def registers(self, head_dim: int, value_dim: int, rows: int) -> int | None:
        """The cap on a thread's registers at these widths and rows a KV head."""
        return self.narrow if head_dim == value_dim == 64 and rows <= 4 else None


def _operands(
    warps: int, stages: int, programs: int, half: bool = False, narrow: int | None = 128
) -> Sizes:
    # At 64 channels shared memory has room for four programs of 4 warps on a multiprocessor, and
    # so have registers, if a thread takes 128. PoPE's table is twice a rotation's, in which two
    # channels share an angle: left alone it takes 161, three programs. An H200 then needs a second
    # turn, a third full, for the 512 heads of 16 sequences, where RoPE needs one.
    return Sizes(16 * warps, warps, stages, programs, "operands", half, narrow)


#: By name, to be compared on a device; None stands for `decode`'s own sizes.
VARIANTS: dict[str, Sizes | None] = {
    "operands": _operands(4, 3, 2),
    "operands, two stages": _operands(4, 2, 2),
    "operands, 8 warps": _operands(8, 3, 1, narrow=None),
    "operands, half": _operands(4, 3, 2, half=True),
    "operands, narrow": _operands(4, 3, 3),
    "operands, many": _operands(4, 3, 4),
    "operands, no cap": _operands(4, 3, 2, narrow=None),
    "tiles": None,
}


@constant
def sizes(head_dim: int, value_dim: int, rows: int, dtype: torch.dtype) -> Sizes:
    """Block sizes of `decode` for widths, query rows a KV head, and dtype: 64 elements a thread."""
    width = triton.next_power_of_2(max(head_dim, value_dim))
    elements = 8192 if rows <= 16 and width <= 128 else 4096
    if dtype == torch.float32:
        elements //= 2
    return Sizes(min(128, max(16, elements // width)))


@constant
def why_not_operands(
    head_dim: int, value_dim: int, rows: int, dtype: torch.dtype, device: torch.device
) -> str | None:
    """None if `decode_mma` takes these widths, rows (a power of two) and dtype, else a sentence."""
    if interpreted():
        return "Gluon has no interpreter"
    reason = _why_not_gluon()
    if reason is not None:
        return reason
    if head_dim not in (64, 128) or value_dim not in (64, 128):
        return f"widths are {head_dim} and {value_dim}: it takes 64 and 128"
    if rows > 8:
        return f"{rows} rows a KV head: it takes 8"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"it takes 16 bits, not {dtype}"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (9, 0):
        return "it multiplies pairs of bfloat16, which needs compute capability 9.0"
    return None


@functools.cache
def _why_not_gluon() -> str | None:
    # Gluon is experimental: another Triton may lack a name or a module of it.
    try:
        importlib.import_module("whatwhere.kernels.decode_mma")
    except (ImportError, AttributeError, TypeError) as error:
        return f"this Triton has no Gluon as the kernel knows it ({error})"
    return None


def splits(programs: int, blocks: int, slots: int) -> int:
    """Ranges of keys a KV head: as many as fill `slots` programs once, at most one a block."""
    return max(1, min(blocks, slots // programs))


def slots(device: torch.device, programs: int) -> int:
    """How many programs run at once."""
    if device.type == "cpu":
        return 4 if interpreted() else 1
    index = torch.cuda.current_device() if device.index is None else device.index
    return programs * _multiprocessors(index)


@functools.cache
def _multiprocessors(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count
