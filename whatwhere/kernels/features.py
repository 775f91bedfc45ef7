"""Raw queries and keys -> features, as torch operators over the kernels of `prep`.

`whatwhere::prep` and `whatwhere::prep_backward` are custom operators: torch.compile keeps them
whole, autograd knows them, and only raw vectors are saved for the backward pass (a rotation needs
none of them). What autograd saves *of the features* is the next operator's business: our own
attention has one that keeps none (`fused_op`).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Optional

import torch
from torch import Tensor

from whatwhere.kernels import prep_calls, twins
from whatwhere.kernels.prep_launch import RECIPES, Inputs, empty, tokens_first
from whatwhere.maps import Map, Polar, Rotate

__all__ = ["alike", "alone", "described", "joined", "part_of", "prepare", "seen", "shared"]


def alike(query: Map, key: Map) -> bool:
    """Whether both are the same map at whatever positions: of the same angles, read the same way.

    xPos's decay of keys has to be the reciprocal of the queries'.
    """
    if type(query) is not type(key) or twins.recipe(query) != twins.recipe(key):
        return False
    if _direction(query) != _direction(key) or getattr(key, "offset", None) is not None:
        return False
    a, b = query.angles, key.angles  # type: ignore[attr-defined]
    same = a.turns is b.turns and a.start_turns is b.start_turns
    here, there = getattr(query, "decay", None), getattr(key, "decay", None)
    matched = there == (None if here is None else replace(here, side=-here.side))
    return same and matched and (a.amplitude, a.start) == (b.amplitude, b.start)


def shared(query: Map, key: Map) -> bool:
    """Whether one launch can serve both at the same positions."""
    return alike(query, key) and query.reindex == key.reindex  # type: ignore[attr-defined]


def seen(mapping: Map, positions: Tensor) -> Tensor:
    """The positions as the map reads them."""
    reindex = mapping.reindex  # type: ignore[attr-defined]
    return positions if reindex is None else reindex(positions)


def described(mapping: Map, positions: Tensor, temperature: Tensor | None) -> tuple[Any, ...]:
    """A map at positions as tensors and numbers, in the order of the operators' arguments:

    positions (1 or b, n) int64, turns, early_turns, offset, temperature, recipe, amplitude, start,
    direction, decay.
    """
    angles = mapping.angles  # type: ignore[attr-defined]
    offset = mapping.offset if isinstance(mapping, Polar) else None
    return (
        seen(mapping, positions),
        angles.turns,
        angles.start_turns if angles.start > 0 else None,
        None if offset is None else offset.float().contiguous(),
        None if temperature is None else temperature.float(),
        twins.recipe(mapping),
        angles.amplitude,
        angles.start,
        _direction(mapping),
        _decay(mapping),
    )


def alone(mapping: Map) -> list[Map]:
    """The maps of models that stand side by side in one, each with δ (h, F), or the map itself."""
    offset = getattr(mapping, "offset", None)
    if offset is None or offset.dim() == 2:
        return [mapping]
    return [replace(mapping, offset=each) for each in offset.unbind(0)]  # type: ignore[type-var]


def part_of(x: Tensor | None, index: int, sets: int) -> Tensor | None:
    """The part of a batch that belongs to one of `sets` models; what all share stays whole."""
    return x if x is None or len(x) == 1 else x.unflatten(0, (sets, -1))[index]


def prepare(
    mapping: Map,
    q: Tensor,
    positions: Tensor,
    k: Tensor | None = None,
    temperature: Tensor | None = None,
    by_heads: bool = False,
) -> tuple[Tensor, Tensor]:
    """Features of q, and of k by the same map without its offset (empty if k is None).

    Shapes: q (b, h, n, d), k (b, g, n, d), positions (1 or b, n) int64, temperature (1 or b, n), a
    factor on q's features -> (b, h, n, f), (b, g, n, f), stored in the order that q and k are, or
    head after head (`by_heads`: whole blocks of rows for the copy engine).
    Dtypes: float32, bfloat16 or float16 in and out; products in float32, rounded once.
    """
    each = alone(mapping)
    if len(each) == 1:
        return _prep(q, k, *described(each[0], positions, temperature), by_heads)
    q_outs = []
    for index, single in enumerate(each):
        own = [part_of(x, index, len(each)) for x in (q, positions, temperature)]
        q_outs.append(prepare(single, own[0], own[1], None, own[2], by_heads)[0])  # type: ignore[arg-type]
    # `torch.cat` gives its result head after head, whatever the order of its parts.
    by_tokens = tokens_first(q_outs[0])
    q_out = joined(q_outs) if by_tokens else torch.cat(q_outs)
    without = replace(mapping, offset=None)  # type: ignore[type-var]
    k_out = q.new_empty(0) if k is None else prepare(without, k, positions, None, None, by_heads)[0]
    return q_out, k_out


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Parts (b, h, n, f) of a batch as one, stored (b, n, h, f)."""
    return torch.cat([part.transpose(1, 2) for part in parts]).transpose(1, 2)


def _direction(mapping: Map) -> int:
    return mapping.direction if isinstance(mapping, Rotate) else 1


def _decay(mapping: Map) -> list[float]:
    decay = mapping.decay if isinstance(mapping, Rotate) else None
    return [] if decay is None else [decay.gamma, decay.side / decay.span, float(decay.centre)]


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
    decay: Sequence[float],
    by_heads: bool = False,
) -> tuple[Tensor, Tensor]:
    inputs = Inputs(
        positions, turns, early_turns, offset, temperature, start, direction, amplitude,
        tuple(decay),
    )  # fmt: skip
    q_out, k_out = prep_calls.forward(q, k, inputs, recipe, by_heads)
    return q_out, q.new_empty(0) if k_out is None else k_out


@_prep.register_fake
def _prep_shapes(  # type: ignore[no-untyped-def]
    q, k, positions, turns, early_turns, offset, temperature, recipe, amplitude, start, direction,
    decay, by_heads=False,
):  # fmt: skip
    extra = 2 * turns.shape[0] - RECIPES[recipe].channels(turns.shape[0])
    width = q.shape[-1] + extra
    q_out = empty(q, width, not by_heads and tokens_first(q))
    if k is None:
        return q_out, q.new_empty(0)
    return q_out, empty(k, width, not by_heads and tokens_first(k))


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
    decay: Sequence[float],
    by_tokens: bool,
    wants_offset: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = Inputs(
        positions, turns, early_turns, offset, temperature, start, direction, amplitude,
        tuple(decay),
    )  # fmt: skip
    dq, dk, d_offset = prep_calls.backward(
        (q_grad, k_grad), (q, k), inputs, recipe, by_tokens, wants_offset
    )
    return (
        dq,
        q_grad.new_empty(0) if dk is None else dk,
        q_grad.new_empty(0, dtype=torch.float32) if d_offset is None else d_offset,
    )


@_prep_backward.register_fake
def _prep_backward_shapes(  # type: ignore[no-untyped-def]
    q_grad, k_grad, q, k, positions, turns, early_turns, offset, temperature, recipe, amplitude,
    start, direction, decay, by_tokens, wants_offset,
):  # fmt: skip
    width = q_grad.shape[-1] - 2 * turns.shape[0] + RECIPES[recipe].channels(turns.shape[0])
    count = offset.shape if wants_offset else (0,)
    return (
        empty(q_grad, width, by_tokens),
        q_grad.new_empty(0) if k_grad is None else empty(k_grad, width, by_tokens),
        q_grad.new_empty(count, dtype=torch.float32),
    )


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, positions, turns, early_turns, offset, temperature, *rest = inputs
    # A rotation's gradient needs no raw vectors: RoPE keeps as little as it does elsewhere.
    raw = prep_calls.needs_raw(rest[0], offset is not None and ctx.needs_input_grad[5])
    kept = (q, k) if raw else (None, None)
    ctx.save_for_backward(*kept, positions, turns, early_turns, offset, temperature)
    ctx.rest, ctx.has_key, ctx.inputs = (*rest[:5], tokens_first(q)), k is not None, len(inputs)


def _gradients(ctx: Any, q_grad: Tensor, k_grad: Tensor) -> tuple[Tensor | None, ...]:
    if ctx.needs_input_grad[6]:
        raise NotImplementedError("the preparation kernel has no gradient of the temperature")
    wants_offset = ctx.needs_input_grad[5]
    dq, dk, d_offset = _prep_backward(
        q_grad, k_grad if ctx.has_key else None, *ctx.saved_tensors, *ctx.rest, wants_offset
    )
    nothing = (None,) * (ctx.inputs - 6)
    return (
        dq,
        dk if ctx.has_key else None,
        *(None, None, None),
        d_offset if wants_offset else None,
        *nothing,
    )


_prep.register_autograd(_gradients, setup_context=_remember)
