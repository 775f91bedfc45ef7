"""Launching the Hopper kernels: sizes per shape, descriptors, grids. Sizes are stored, not tuned.

The table holds what compiles without spills for sm_90a (a test compiles it offline) and measured
best; nothing is tried out at a user's first call.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as functional
import triton
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from whatwhere.kernels import delta, hopper, hopper_keys, hopper_keys_wide, hopper_queries
from whatwhere.kernels.hopper_common import BIASES
from whatwhere.kernels.pairs import Pairs, bounds

__all__ = [
    "SIZES",
    "Sizes",
    "backward",
    "forward",
    "grad_keys",
    "grad_queries",
    "tile_widths",
]


class Sizes(NamedTuple):
    """How a kernel that streams K and V is built; the kernels say what the flags do."""

    block: int  # keys of a tile
    stages: int  # of K
    v_stages: int
    consumers: int = 2
    hold_q: bool = False
    joint: bool = False
    ping_pong: bool = False
    persistent: bool = False
    ahead: bool = False  # of dQ only

    @property
    def form(self) -> tuple[int, bool, bool, bool, bool]:
        return self.consumers, self.hold_q, self.joint, self.ping_pong, self.persistent


class KeySizes(NamedTuple):
    """How a kernel of dK and dV is built: `hopper_keys.keys` or, if wide, `hopper_keys_wide`."""

    block: int  # queries of a tile
    stages: int  # of Q and dO
    held: int = 0
    late: bool = False
    spare: bool = False
    ahead: bool = False
    wide: bool = False

    @property
    def rows(self) -> int:
        """Keys of a CTA."""
        return 64 if self.wide else 128

    @property
    def form(self) -> tuple[int | bool, ...]:
        return (self.held, self.ahead) if self.wide else (self.held, self.late, self.spare)


#: (features, value width) of tiles -> sizes of forward, of dQ, of dK and dV.
SIZES: dict[tuple[int, int], tuple[Sizes, Sizes, KeySizes]] = {
    (64, 64): (Sizes(128, 3, 3), Sizes(128, 3, 3), KeySizes(64, 4)),
    (128, 64): (Sizes(128, 3, 3), Sizes(64, 4, 3, ahead=True), KeySizes(64, 4, held=1)),
    (128, 128): (Sizes(128, 2, 2), Sizes(64, 3, 3, ahead=True), KeySizes(64, 2, 1, True, True)),
    (256, 128): (
        Sizes(64, 3, 3), Sizes(64, 2, 2), KeySizes(64, 3, held=1, ahead=True, wide=True)
    ),
}  # fmt: skip
#: (features, value width) of tiles -> most keys at which a CTA had better take block after block:
#: of forward and of dQ. With few tiles a block, its beginning and end cost more than balance gains.
_PERSISTENT = {(64, 64): (4096, 1024), (128, 64): (4096, 1024), (256, 128): (1024, 0)}
_L2_BYTES = 24 << 20  # about half of the L2: what the K and V of the heads in flight may fill
_TYPES = {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16, torch.float32: gl.float32}


def _registers(consumers: int) -> dict[str, int]:
    """Registers of a thread before the consumers take the producer's: 65536 over all warps."""
    return {"num_warps": 4, "maxnreg": 168 if consumers == 2 else 128}


def tile_widths(features: int, values: int) -> tuple[int, int]:
    """The least widths of `SIZES` that hold these; ValueError if none do."""
    for width, value in SIZES:
        if features <= width and values <= value and features % 8 == values % 8 == 0:
            return width, value
    raise ValueError(
        f"features {features} and values {values}: the Hopper kernels take widths that are "
        "multiples of 8, at most 256 features and 128 values"
    )


@functools.cache
def _layout(shape: tuple[int, ...], dtype: torch.dtype) -> gl.NVMMASharedLayout:
    return gl.NVMMASharedLayout.get_default_for(list(shape), _TYPES[dtype])


def _lines(x: Tensor) -> Tensor:
    """(b, h, n) numbers with n made a multiple of 4: the copy engine begins at 16 bytes."""
    return functional.pad(x, (0, -x.shape[-1] % 4)).contiguous()


def _vector(x: Tensor, block: int) -> TensorDescriptor:
    """A contiguous tensor as one vector, in blocks."""
    # Not swizzled, as the default layout is: the engine permutes by address bits, which for rows of
    # 256 bytes count the stages of the ring.
    bits = x.element_size() * 8
    layout = gl.NVMMASharedLayout(swizzle_byte_width=0, element_bitwidth=bits, rank=1)
    return TensorDescriptor(x.view(-1), [x.numel()], [1], [block], layout)


def _bundle(bytes_per_head: int, heads: int, step: int = 1) -> int:
    return min(heads, max(1, _L2_BYTES // bytes_per_head) * step)


class _Operand:
    """A (b, h, n, f) tensor for the copy engine: descriptors in blocks of any number of rows."""

    def __init__(self, x: Tensor, width: int) -> None:
        # A dimension of one element has no stride to speak of; the engine wants one all the same.
        strides = [s if n > 1 else 8 for n, s in zip(x.shape, x.stride(), strict=True)]
        fits = all(s > 0 and s * x.element_size() % 16 == 0 for s in strides[:-1])
        if x.stride(-1) != 1 or not fits or x.data_ptr() % 16:
            # Not contiguous(): a tensor that begins anywhere may be contiguous where it is.
            x = x.clone(memory_format=torch.contiguous_format)
            strides = list(x.stride())
        self.tensor, self.strides, self.width = x, [*strides[:-1], 1], width

    def tiles(self, rows: int) -> TensorDescriptor:
        block = (1, 1, rows, self.width)
        layout = _layout(block, self.tensor.dtype)
        shape = list(self.tensor.shape)
        return TensorDescriptor(self.tensor, shape, self.strides, list(block), layout)


def _sight(pairs: Pairs, q_rows: int, k_rows: int, flip: bool = False) -> tuple[Any, ...]:
    """What kernels read of `pairs`: places and their step per batch, bounds, slopes, window."""
    q, k = pairs.q_place, pairs.k_place
    ranges = bounds(pairs, q_rows, k_rows, flip)
    places: list[Tensor | int | None] = []
    for x in (q, k, ranges):
        places += [x, 0 if x is None or len(x) == 1 else x.stride(0)]
    return (*places, pairs.slopes, pairs.window)


def _options(pairs: Pairs) -> dict[str, Any]:
    """What a template's code depends on (`hopper.forward`)."""
    of = pairs.options
    return {"MODE": (of["CAUSAL"], of["WINDOWED"], of["PLACED"]), "BIAS": BIASES[of["BIAS"]]}


def _check(q: Tensor, k: Tensor, pairs: Pairs) -> None:
    if pairs.causal and not pairs.placed and q.shape[2] != k.shape[2]:
        raise ValueError(
            f"causal by index takes as many queries as keys, and these are {q.shape[2]} and "
            f"{k.shape[2]}: give the places of both"
        )


def _grid(tasks: int, sizes: Sizes, device: torch.device) -> tuple[int]:
    if not sizes.persistent or device.type != "cuda":
        return (tasks,)
    return (min(tasks, torch.cuda.get_device_properties(device).multi_processor_count),)


def _fitted(width: int, value: int, which: int, keys: int, pairs: Pairs) -> Sizes:
    """Sizes of forward (0) or dQ (1): smaller tiles where places of 128 columns do not fit into the
    registers beside scores, persistent CTAs where rows of tiles are short."""
    sizes = SIZES[width, value][which]
    assert isinstance(sizes, Sizes)
    biased = pairs.slopes is not None
    short = keys <= _PERSISTENT.get((width, value), (0, 0))[which]
    persistent = short and not pairs.placed and not biased
    sizes = sizes._replace(ahead=sizes.ahead and not pairs.placed, persistent=persistent)
    if sizes.block == 128 and (pairs.placed + biased + (value > 64)) > 1:
        return sizes._replace(block=64, stages=2 * sizes.stages, v_stages=2 * sizes.v_stages)
    return sizes


def forward(
    q: Tensor, k: Tensor, v: Tensor, scale: float, pairs: Pairs, sizes: Sizes | None = None
) -> tuple[Tensor, Tensor]:
    """Output (b, h, n, dv), stored as (b, n, h, dv), and log-sum-exp (b, h, n) float32.

    A row that sees no key gives 0 and +inf. sizes: instead of those of `SIZES`, for trials.
    """
    _check(q, k, pairs)
    (b, h, n, f), (g, m), dv = q.shape, k.shape[1:3], v.shape[-1]
    width, value = tile_widths(f, dv)
    sizes = sizes or _fitted(width, value, 0, m, pairs)
    rows = 64 * sizes.consumers
    out = q.new_empty(b, n, h, dv).transpose(1, 2)
    lse = q.new_empty(b, h, n, dtype=torch.float32)
    Q, K, V = _Operand(q, width), _Operand(k, width), _Operand(v, value)
    hopper.forward[_grid(triton.cdiv(n, rows) * b * h, sizes, q.device)](
        Q.tiles(64), K.tiles(sizes.block), V.tiles(sizes.block), out, out.stride()[:3], lse,
        *_sight(pairs, rows, sizes.block), n, m, h, b * h, h // g,
        _bundle(m * (f + dv) * 2, b * h, h // g), scale * math.log2(math.e),
        WIDTH=dv, K_STAGES=sizes.stages, V_STAGES=sizes.v_stages, FORM=sizes.form,
        **_options(pairs), **_registers(sizes.consumers),
    )  # fmt: skip
    return out, lse


def _deltas(grad: Tensor, out: Tensor) -> Tensor:
    """Row sums of out · grad, float32 (b, h, n)."""
    b, h, n, dv = out.shape
    deltas = out.new_empty(b, h, n, dtype=torch.float32)
    delta.delta[(triton.cdiv(n, 64), b * h)](
        out, grad, out.stride()[:3], grad.stride()[:3], deltas, n, h, dv,
        WIDTH=triton.next_power_of_2(dv), BLOCK=64,
    )  # fmt: skip
    return deltas


def grad_queries(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, deltas: Tensor, scale: float,
    pairs: Pairs, sizes: Sizes | None = None,
) -> Tensor:  # fmt: skip
    """Gradient of q, stored as q is. sizes: instead of those of `SIZES`, for trials."""
    (b, h, n, f), (g, m), dv = q.shape, k.shape[1:3], v.shape[-1]
    width, value = tile_widths(f, dv)
    sizes = sizes or _fitted(width, value, 1, m, pairs)
    grad_q = torch.empty_like(q)
    Q, G = _Operand(q, width).tiles(64), _Operand(grad, value).tiles(64)
    K, V = _Operand(k, width).tiles(sizes.block), _Operand(v, value).tiles(sizes.block)
    hopper_queries.queries[_grid(triton.cdiv(n, 128) * b * h, sizes, q.device)](
        Q, G, K, V, grad_q, grad_q.stride()[:3], lse, deltas, *_sight(pairs, 128, sizes.block),
        n, m, h, b * h, h // g, _bundle(m * (f + dv) * 2, b * h, h // g), scale,
        WIDTH=f, K_STAGES=sizes.stages, V_STAGES=sizes.v_stages, AHEAD=sizes.ahead,
        PERSISTENT=sizes.persistent, **_options(pairs), **_registers(2),
    )  # fmt: skip
    return grad_q


def _key_sizes(width: int, value: int, pairs: Pairs) -> KeySizes:
    sizes = SIZES[width, value][2]
    if pairs.placed or pairs.slopes is not None:
        # Places of a block of queries beside its products need the registers.
        return sizes._replace(held=0, late=True, spare=True, ahead=False)
    return sizes


def grad_keys(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, deltas: Tensor, scale: float,
    pairs: Pairs, sizes: KeySizes | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of k and v, stored as these are. sizes: instead of those of `SIZES`, for trials."""
    (b, h, n, f), (g, m), dv = q.shape, k.shape[1:3], v.shape[-1]
    width, value = tile_widths(f, dv)
    sizes = sizes or _key_sizes(width, value, pairs)
    kernel = hopper_keys_wide.keys_wide if sizes.wide else hopper_keys.keys
    block = sizes.block
    grad_k, grad_v = torch.empty_like(k), torch.empty_like(v)
    Q, G = _Operand(q, width).tiles(block), _Operand(grad, value).tiles(block)
    K, V = _Operand(k, width).tiles(64), _Operand(v, value).tiles(64)
    lse, deltas = _lines(lse), _lines(deltas)
    kernel[(triton.cdiv(m, sizes.rows) * b * g,)](
        Q, G, K, V, _vector(lse, block), _vector(deltas, block), grad_k, grad_k.stride()[:3],
        grad_v, grad_v.stride()[:3], *_sight(pairs, block, sizes.rows, True), n, m, h, h // g,
        _bundle(n * (f + dv) * 2 * (h // g), b * g), lse.shape[-1], scale,
        WIDTHS=(f, dv), STAGES=sizes.stages, FORM=sizes.form, **_options(pairs), **_registers(2),
    )  # fmt: skip
    return grad_k, grad_v


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float,
    pairs: Pairs,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k, v, stored as these are; the same bits on every run."""
    _check(q, k, pairs)
    grad = grad if grad.stride(-1) == 1 else grad.contiguous()
    deltas = _deltas(grad, out)
    grad_q = grad_queries(grad, q, k, v, lse, deltas, scale, pairs)
    return grad_q, *grad_keys(grad, q, k, v, lse, deltas, scale, pairs)
