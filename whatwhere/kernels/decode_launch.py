"""Launching the decode kernels: what they compute, which of them, how keys are split.

`attend` is one operator to torch.compile, `whatwhere::decode`: a compiled step keeps it whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import index
from typing import Any, Optional

import torch
import triton
import triton.language as tl
from torch import Tensor

from whatwhere.kernels import decode as kernels
from whatwhere.kernels import decode_content, twins
from whatwhere.kernels.decode_sizes import (
    VARIANTS,
    Sizes,
    sizes,
    slots,
    splits,
    why_not_operands,
)
from whatwhere.maps import Map, Plain, Polar

__all__ = ["Keys", "attend", "block_of"]

_FAR = 2**31 - 1  # "no limit" for a distance; positions of one sequence are closer than this
_MAGNITUDES = {
    "softplus": decode_content.softplus,
    "relu": decode_content.relu,
    "identity": decode_content.identity,
}


@dataclass(frozen=True)
class Keys:
    """What is known of the cached keys beside the vectors; every field may be left out.

    positions (1 or b, n) int64, None: 0, 1, …; first (1 or b,) int64 instead: first, first + 1, …,
    where keys before position 0 are padding; valid (1 or b, n) bool, False at padding;
    lengths (b,) int32, how many keys of each row count, read on the device; table (b, pages) int32,
    the page of each run of `page` keys — k and v are then (pages, g, page, d) and (…, dv).
    content: the keys are magnitudes already (`rule.content` of the key's map), else raw.
    """

    positions: Tensor | None = None
    valid: Tensor | None = None
    lengths: Tensor | None = None
    table: Tensor | None = None
    first: Tensor | None = None
    content: bool = False


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
    variant: str | None = None,
) -> Tensor:
    """Attention of q (b, h, nq, d) at positions (1 or b, nq) over k (b, g, n, d), v (b, g, n, dv).

    `query` is the query's map; the key's is the same without its offset. temperature (1 or b, nq)
    multiplies scores, slopes (h,) subtract slope · |i - j| (ALiBi). Nothing synchronises with the
    host: with `keys.lengths` a captured CUDA graph is good for any length up to n. A row that sees
    no key is 0. float16 keys, and bfloat16 ones where float16 features are used, must be within
    ±65504, else they are NaN. `variant` names a line of `VARIANTS`, for measurements.
    """
    if keys.first is not None and keys.positions is not None:
        raise ValueError("first and positions both say where keys are: give one of them")
    if variant is not None and variant not in VARIANTS:
        raise ValueError(f"variant is {variant!r}; one of {', '.join(VARIANTS)}")
    for name, x in (("q", q), ("k", k), ("v", v)):
        # Copying a cache at each step would hide as slowness: what a cache hands out needs no copy.
        if x.stride(3) != 1:
            raise ValueError(f"{name}: channels must be contiguous, their stride is {x.stride(3)}")
    polar = isinstance(query, Polar)
    angles = None if isinstance(query, Plain) else query.angles  # type: ignore[attr-defined]
    recipe = twins.recipe(query)
    offset = query.offset if polar else None  # type: ignore[attr-defined]
    # Compiled, one operator; else without the operator's dispatch, which costs as much as a launch.
    launch = _decode if torch.compiler.is_compiling() else _launched
    return launch(
        q, k, v, positions, keys.positions, keys.first, keys.valid, keys.lengths, keys.table,
        None if angles is None else angles.turns,
        None if offset is None else offset.detach().float().contiguous(),
        None if temperature is None else temperature.float(),
        None if slopes is None else slopes.float().contiguous(),
        recipe, keys.content, 1.0 if angles is None else float(angles.amplitude),
        getattr(query, "direction", 1), scale, causal, window, split, variant,
    )  # fmt: skip


def block_of(q: Tensor, k: Tensor, v: Tensor, query: Map, content: bool) -> int:
    """How many keys the kernel that takes pages k (pages, g, page, d) and v reads at a time: a page
    must hold a multiple of them."""
    rows = index(q.shape[2] * (q.shape[1] // k.shape[1]))
    rows = 1 << (rows - 1).bit_length()
    turns = None if isinstance(query, Plain) else query.angles.turns  # type: ignore[attr-defined]
    return _chosen(q, k, v, None, turns, twins.recipe(query), content, rows, None).block


def _launched(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    key_positions: Optional[Tensor],  # noqa: UP045 - the schema is read from the annotation
    first: Optional[Tensor],  # noqa: UP045
    valid: Optional[Tensor],  # noqa: UP045
    lengths: Optional[Tensor],  # noqa: UP045
    table: Optional[Tensor],  # noqa: UP045
    turns: Optional[Tensor],  # noqa: UP045
    offset: Optional[Tensor],  # noqa: UP045
    temperature: Optional[Tensor],  # noqa: UP045
    slopes: Optional[Tensor],  # noqa: UP045
    recipe: str,
    content: bool,
    amplitude: float,
    direction: int,
    scale: float,
    causal: bool,
    window: Optional[int],  # noqa: UP045
    split: Optional[int],  # noqa: UP045
    variant: Optional[str],  # noqa: UP045
) -> Tensor:
    (b, h, nq, d), g, dv = q.shape, k.shape[1], v.shape[-1]
    rows = triton.next_power_of_2(nq * (h // g))
    size = _chosen(q, k, v, key_positions, turns, recipe, content, rows, variant)
    page = k.shape[2]
    n = page if table is None else page * table.shape[1]
    if table is not None and page % size.block:
        raise ValueError(f"a page holds {page} keys; it must be a multiple of {size.block}")
    if split is None:
        split = splits(b * g, triton.cdiv(n, size.block), slots(q.device, size.programs))
    out = q.new_empty((b, h, nq, dv))
    # One range of keys is the whole row already: nothing to join, and a launch less.
    parts = out if split == 1 else q.new_empty((b, h, nq, split, dv), dtype=torch.float32)
    lse = torch.empty((b, h, nq, split), dtype=torch.float32, device=q.device)
    far = _FAR if window is None else window
    tensors = [_row_major(x) for x in (key_positions, first, valid, lengths, table)]
    steps = [_step(x) for x in (positions, key_positions, valid, table, temperature)]
    if first is not None and first.shape[0] != b:
        tensors[1] = first.expand(b).contiguous()
    if size.kernel == "operands":
        del tensors[0], steps[1]  # positions of keys: it computes them
    paired = recipe in ("half", "interleaved")
    arguments = (
        *(_described(q), _described(k), _described(v), parts, lse, _row_major(positions)),
        *(*tensors, turns, offset, _row_major(temperature), slopes, n, h // g, nq, g, split),
        *(*steps, page, far, 1 if causal else far, direction, scale, amplitude),
    )
    shape = {
        "PAIRED": paired and turns is not None,
        "INTERLEAVED": recipe == "interleaved",
        "F": 0 if turns is None else turns.shape[0],
        "D": d,
        "DV": dv,
        "STAGES": size.stages,
    }
    magnitude = "identity" if paired else recipe
    run = _operands if size.kernel == "operands" else _tiles
    run(arguments, shape, (b * g * split,), size, k, v, rows, magnitude, content)
    if split > 1:
        wide = triton.next_power_of_2(dv)
        kernels.combine[(b * h * nq,)](
            parts, lse, out, split, DV=dv, BLOCK_S=16, BLOCK_V=wide, num_warps=2
        )
    return out


_decode = torch.library.custom_op("whatwhere::decode", _launched, mutates_args=())


@_decode.register_fake
def _decode_shape(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
    return q.new_empty((*q.shape[:3], v.shape[-1]))


def _chosen(
    q: Tensor, k: Tensor, v: Tensor, positions: Tensor | None, turns: Tensor | None, recipe: str,
    content: bool, rows: int, variant: str | None,
) -> Sizes:  # fmt: skip
    """The named variant, or the first that takes the call."""
    d, dv = index(k.shape[-1]), index(v.shape[-1])  # in a dynamic graph, no symbols
    own = sizes(d, dv, max(16, rows), k.dtype)
    chosen = VARIANTS["operands" if variant is None else variant]
    if chosen is None:
        return own
    reason = why_not_operands(d, dv, rows, k.dtype, q.device)
    raw = not content and recipe in ("softplus", "relu")
    if positions is not None:
        reason = "keys have positions of their own"
    elif raw and turns is not None and turns.shape[0] < d:
        reason = "raw keys have channels without a magnitude"
    elif any(x.stride(axis) % 8 for x in (k, v) for axis in range(3)) or any(
        # Where a graph is traced there is no memory yet: the launch itself asks again.
        x.device.type == "cuda" and not torch.compiler.is_compiling() and x.data_ptr() % 16
        for x in (k, v)
    ):
        reason = "rows of keys or values do not begin at multiples of 16 bytes"
    if reason is None:
        return chosen
    if variant is not None:
        raise ValueError(f"variant {variant!r} can not compute this: {reason}")
    return own


def _operands(
    arguments: tuple[Any, ...], shape: dict[str, Any], grid: tuple[int], size: Sizes, k: Tensor,
    v: Tensor, rows: int, magnitude: str, content: bool,
) -> None:  # fmt: skip
    from whatwhere.kernels import decode_mma

    key = "identity" if content else magnitude
    # Softplus of raw keys ends in float16; magnitudes that are given stay what they are.
    half = size.half or key == "softplus" or k.dtype == torch.float16
    decode_mma.partial[grid](
        *arguments,
        QUERY=magnitude,
        KEY=key,
        **shape,
        RR=rows,
        K_ROW=k.stride(2),
        V_ROW=v.stride(2),
        KIND=tl.float16 if half else tl.bfloat16,
        WARPS=size.warps,
        num_warps=size.warps,
        maxnreg=size.registers(shape["D"], shape["DV"], rows),
    )


def _tiles(
    arguments: tuple[Any, ...], shape: dict[str, Any], grid: tuple[int], size: Sizes, k: Tensor,
    v: Tensor, rows: int, magnitude: str, content: bool,
) -> None:  # fmt: skip
    wide = k.dtype == torch.float32
    kernels.partial[grid](
        *arguments,
        QUERY_SIZE=_MAGNITUDES[magnitude],
        SIZE=_MAGNITUDES["identity" if content else magnitude],
        **shape,
        ROWS=max(16, rows),
        BLOCK_N=size.block,
        BLOCK_D=max(16, triton.next_power_of_2(shape["D"])),
        BLOCK_V=max(16, triton.next_power_of_2(shape["DV"])),
        PRECISION="ieee" if wide else "tf32",
        KIND=tl.float32 if wide else tl.float16,
        num_warps=size.warps,
    )


def _described(x: Tensor) -> tuple[Any, ...]:
    return x, x.stride(0), x.stride(1), x.stride(2)


def _row_major(x: Tensor | None) -> Tensor | None:
    return x if x is None or x.stride(-1) == 1 else x.contiguous()


def _step(x: Tensor | None) -> int:
    if x is None or x.shape[0] == 1:
        return 0
    return x.stride(0) if x.stride(-1) == 1 else x.shape[1]
