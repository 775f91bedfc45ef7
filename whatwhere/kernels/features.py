"""Raw queries and keys -> features, as torch operators over the kernels of `prep`.

`whatwhere::prep` and `whatwhere::prep_backward` are custom operators: torch.compile keeps them
whole, autograd knows them, and only raw vectors are saved for the backward pass (a rotation needs
none of them). Block sizes are fixed here; nothing is tuned at a user's first call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Optional

import torch
import triton
from torch import Tensor

from whatwhere.kernels import maps as jitted
from whatwhere.kernels import prep as kernels
from whatwhere.maps import Map, Polar, Rotate

__all__ = ["RECIPES", "Recipe", "prepare", "shared", "why_not"]

#: Elements of one feature half that a program holds: block of positions times frequencies.
TILE = 2048
WARPS = 4
#: Programs that fill a large GPU several times over: heads are split until there are as many.
PROGRAMS = 2048
#: More heads a program share the cosines better, fewer balance the load: never more than these.
MOST_HEADS = 16


@dataclass(frozen=True)
class Recipe:
    """How the templates compute a map: its functions, and where its channels stand."""

    map: Callable[..., Any]
    back: Callable[..., Any]
    paired: bool = False
    interleaved: bool = False

    def channels(self, frequencies: int) -> int:
        """How many raw channels the frequencies take; features are 2 · frequencies."""
        return 2 * frequencies if self.paired else frequencies


RECIPES = {
    "half": Recipe(jitted.rotate, jitted.rotate_back, paired=True),
    "interleaved": Recipe(jitted.rotate, jitted.rotate_back, paired=True, interleaved=True),
    "softplus": Recipe(jitted.softplus_polar, jitted.softplus_polar_back),
    "relu": Recipe(jitted.relu_polar, jitted.relu_polar_back),
    "identity": Recipe(jitted.identity_polar, jitted.identity_polar_back),
}


def why_not(mapping: Map) -> str | None:
    """None if the kernels compute this map, else a sentence."""
    if isinstance(mapping, Polar):
        return None
    if not isinstance(mapping, Rotate):
        return f"the preparation kernel has no twin of the map {type(mapping).__name__}"
    if mapping.decay is not None:
        return "the preparation kernel has no decay (xPos)"
    return None


def shared(query: Map, key: Map) -> bool:
    """Whether one launch can serve both: the same angles, read the same way."""
    if type(query) is not type(key) or _recipe(query) != _recipe(key):
        return False
    if query.reindex != key.reindex or _direction(query) != _direction(key):  # type: ignore[attr-defined]
        return False
    a, b = query.angles, key.angles  # type: ignore[attr-defined]
    same = a.turns is b.turns and a.start_turns is b.start_turns
    return same and (a.amplitude, a.start) == (b.amplitude, b.start)


def prepare(
    mapping: Map,
    q: Tensor,
    positions: Tensor,
    k: Tensor | None = None,
    temperature: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Features of q, and of k by the same map without its offset (empty if k is None).

    Shapes: q (b, h, n, d), k (b, g, n, d), positions (1 or b, n) int64, temperature (1 or b, n), a
    factor on q's features -> (b, h, n, f), (b, g, n, f), stored in the order that q and k are.
    Dtypes: float32, bfloat16 or float16 in and out; products in float32, rounded once.
    """
    angles = mapping.angles  # type: ignore[attr-defined]
    if mapping.reindex is not None:  # type: ignore[attr-defined]
        positions = mapping.reindex(positions)  # type: ignore[attr-defined]
    offset = mapping.offset if isinstance(mapping, Polar) else None
    early = angles.start_turns if angles.start > 0 else None
    return _prep(
        q,
        k,
        positions,
        angles.turns,
        early,
        None if offset is None else offset.float(),
        None if temperature is None else temperature.float(),
        _recipe(mapping),
        angles.amplitude,
        angles.start,
        _direction(mapping),
    )


def _recipe(mapping: Map) -> str:
    return mapping.layout if isinstance(mapping, Rotate) else mapping.magnitude  # type: ignore


def _direction(mapping: Map) -> int:
    return mapping.direction if isinstance(mapping, Rotate) else 1


@torch.library.custom_op("whatwhere::prep", mutates_args=())
def _prep(
    q: Tensor,
    k: Optional[Tensor],  # noqa: UP045 - the schema is read from the annotation
    positions: Tensor,
    turns: Tensor,
    early_turns: Optional[Tensor],  # noqa: UP045
    offset: Optional[Tensor],  # noqa: UP045
    temperature: Optional[Tensor],  # noqa: UP045
    recipe: str,
    amplitude: float,
    start: int,
    direction: int,
) -> tuple[Tensor, Tensor]:
    q_out, k_out = _prep_shapes(
        q, k, positions, turns, early_turns, offset, temperature, recipe, amplitude, start,
        direction,
    )  # fmt: skip
    _launch(
        kernels.forward,
        (q, k, q_out, None if k is None else k_out),
        (),
        _Angles(positions, turns, early_turns, offset, temperature, start, direction, amplitude),
        {"MAP": RECIPES[recipe].map},
        recipe,
        q.shape[-1],
    )
    return q_out, k_out


@_prep.register_fake
def _prep_shapes(  # type: ignore[no-untyped-def]
    q, k, positions, turns, early_turns, offset, temperature, recipe, amplitude, start, direction
):
    extra = 2 * turns.shape[0] - RECIPES[recipe].channels(turns.shape[0])
    width = q.shape[-1] + extra
    return _like(q, width), q.new_empty(0) if k is None else _like(k, width)


@torch.library.custom_op("whatwhere::prep_backward", mutates_args=())
def _prep_backward(
    q_grad: Tensor,
    k_grad: Optional[Tensor],  # noqa: UP045
    q: Optional[Tensor],  # noqa: UP045
    k: Optional[Tensor],  # noqa: UP045
    positions: Tensor,
    turns: Tensor,
    early_turns: Optional[Tensor],  # noqa: UP045
    offset: Optional[Tensor],  # noqa: UP045
    temperature: Optional[Tensor],  # noqa: UP045
    recipe: str,
    amplitude: float,
    start: int,
    direction: int,
    wants_offset: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    q_out, k_out, offset_grad = _prep_backward_shapes(
        q_grad, k_grad, q, k, positions, turns, early_turns, offset, temperature, recipe,
        amplitude, start, direction, wants_offset,
    )  # fmt: skip
    partial = None
    if wants_offset:
        blocks = q_grad.shape[0] * triton.cdiv(q_grad.shape[2], _block(turns.shape[0]))
        partial = q_grad.new_empty((blocks, *offset_grad.shape), dtype=torch.float32)
    _launch(
        kernels.backward,
        (q, k, q_grad, k_grad, q_out, None if k_grad is None else k_out),
        (partial,),
        _Angles(positions, turns, early_turns, offset, temperature, start, direction, amplitude),
        {"MAP": RECIPES[recipe].map, "BACK": RECIPES[recipe].back},
        recipe,
        q_out.shape[-1],
    )
    return q_out, k_out, offset_grad if partial is None else partial.sum(dim=0)


@_prep_backward.register_fake
def _prep_backward_shapes(  # type: ignore[no-untyped-def]
    q_grad, k_grad, q, k, positions, turns, early_turns, offset, temperature, recipe, amplitude,
    start, direction, wants_offset,
):  # fmt: skip
    width = q_grad.shape[-1] - 2 * turns.shape[0] + RECIPES[recipe].channels(turns.shape[0])
    count = (q_grad.shape[1], turns.shape[0]) if wants_offset else (0,)
    return (
        _like(q_grad, width),
        q_grad.new_empty(0) if k_grad is None else _like(k_grad, width),
        q_grad.new_empty(count, dtype=torch.float32),
    )


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, positions, turns, early_turns, offset, temperature, *rest = inputs
    # A rotation's gradient needs no raw vectors: RoPE keeps as little as it does elsewhere.
    raw = not RECIPES[rest[0]].paired or (offset is not None and ctx.needs_input_grad[5])
    kept = (q, k) if raw else (None, None)
    ctx.save_for_backward(*kept, positions, turns, early_turns, offset, temperature)
    ctx.rest, ctx.has_key = rest, k is not None


def _gradients(ctx: Any, q_grad: Tensor, k_grad: Tensor) -> tuple[Tensor | None, ...]:
    if ctx.needs_input_grad[6]:
        raise NotImplementedError("the preparation kernel has no gradient of the temperature")
    wants_offset = ctx.needs_input_grad[5]
    dq, dk, d_offset = _prep_backward(
        q_grad, k_grad if ctx.has_key else None, *ctx.saved_tensors, *ctx.rest, wants_offset
    )
    nothing = (None,) * 5
    return (
        dq,
        dk if ctx.has_key else None,
        *(None, None, None),
        d_offset if wants_offset else None,
        *nothing,
    )


_prep.register_autograd(_gradients, setup_context=_remember)


@dataclass(frozen=True)
class _Angles:
    """What the kernels read besides vectors, in the order of their arguments."""

    positions: Tensor
    turns: Tensor
    early_turns: Tensor | None
    offset: Tensor | None
    temperature: Tensor | None
    start: int
    direction: int
    amplitude: float


def _like(x: Tensor, width: int) -> Tensor:
    """An empty tensor of x's sizes but `width` channels, stored in x's order of axes.

    (batch, token, head) storage in gives the same out: after attention the output can then be
    flattened for its projection without a copy.
    """
    b, h, n, _ = x.shape
    if x.stride(1) < x.stride(2):
        return x.new_empty((b, n, h, width)).transpose(1, 2)
    return x.new_empty((b, h, n, width))


def _block(frequencies: int) -> int:
    return max(1, TILE // triton.next_power_of_2(frequencies))


def _launch(
    kernel: Any,
    tensors: tuple[Tensor | None, ...],
    extra: tuple[Tensor | None, ...],
    angles: _Angles,
    functions: dict[str, Any],
    recipe: str,
    width: int,
) -> None:
    """Run a kernel over (batch · blocks of positions · groups of heads) programs."""
    shape = next(x for x in tensors if x is not None).shape
    out_k = tensors[-1]
    heads, kv_heads = shape[1], 0 if out_k is None else out_k.shape[1]
    frequencies = angles.turns.shape[0]
    block = _block(frequencies)
    blocks = triton.cdiv(shape[2], block)
    total = heads + kv_heads
    groups = max(triton.cdiv(PROGRAMS, blocks * shape[0]), triton.cdiv(total, MOST_HEADS))
    groups = min(groups, total)
    rest = width - RECIPES[recipe].channels(frequencies)
    kernel[(shape[0] * blocks * groups,)](
        *(None if x is None else _described(x) for x in tensors),
        *extra,
        *(_row_major(angles.positions), angles.turns, angles.early_turns, angles.offset),
        None if angles.temperature is None else _row_major(angles.temperature),
        *(shape[2], blocks, groups, heads, kv_heads),
        _step(angles.positions),
        0 if angles.temperature is None else _step(angles.temperature),
        *(angles.start, angles.direction, angles.amplitude),
        **functions,
        PAIRED=RECIPES[recipe].paired,
        INTERLEAVED=RECIPES[recipe].interleaved,
        F=frequencies,
        REST=rest,
        BLOCK_N=block,
        BLOCK_F=triton.next_power_of_2(frequencies),
        BLOCK_R=triton.next_power_of_2(max(rest, 1)),
        num_warps=WARPS,
    )


def _described(x: Tensor) -> tuple[Any, ...]:
    if x.stride(3) != 1:
        x = x.contiguous()
    return x, x.stride(0), x.stride(1), x.stride(2)


def _row_major(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 else x.contiguous()


def _step(x: Tensor) -> int:
    return 0 if x.shape[0] == 1 else x.shape[1]
