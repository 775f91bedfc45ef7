"""Launching the kernels for short sequences: features made inside, or made elsewhere."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import triton
from torch import Tensor

from whatwhere.kernels import pairs as looks
from whatwhere.kernels import short
from whatwhere.kernels.pairs import Pairs
from whatwhere.kernels.prep_launch import RECIPES, Inputs, Recipe, empty, tokens_first
from whatwhere.kernels.short_features import plain, plain_back
from whatwhere.kernels.short_sizes import LONGEST, Sizes, sizes_for
from whatwhere.kernels.tiled_launch import like
from whatwhere.kernels.tiled_sizes import of_device, padded

__all__ = ["PLAIN", "backward", "forward", "mapped", "mapped_backward"]

_NOWHERE = contextlib.nullcontext()
_CONTIGUOUS = torch.contiguous_format
#: Features that were made elsewhere: the map that changes nothing, in two halves.
PLAIN = Recipe(plain, plain_back, plain_back, plain_back, paired=True)


def forward(q: Tensor, k: Tensor, v: Tensor, scale: float, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """As `tiled_launch.forward`, of features; at most `LONGEST` queries and keys."""
    return mapped(q, k, v, None, None, "", scale, pairs)


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float,
    pairs: Pairs,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """As `tiled_launch.backward`, of features; the same bits on every run. `out` is not read."""
    return mapped_backward(grad, q, k, v, lse, None, None, "", scale, pairs, False)[:3]


def mapped(
    q: Tensor, k: Tensor, v: Tensor, inputs: Inputs | None, k_positions: Tensor | None,
    recipe: str, scale: float, pairs: Pairs,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Output and log-sum-exp from raw q, k, v; inputs None: these are features already.

    Shapes: q (b, h, n, d), k (b, g, m, d), v (b, g, m, dv) -> (b, h, n, dv), stored (b, n, h, dv),
    and (b, h, n) float32. δ may be (h, F), or (sets, h, F): then the batch is so many equal parts,
    each with its own. Raises ValueError if sequences or channels do not fit into one tile.
    """
    (b, h, n, _), dv = q.shape, v.shape[-1]
    out = q.new_empty(b, n, h, dv).transpose(1, 2)
    lse = q.new_empty(b, h, n, dtype=torch.float32)
    block, sizes, _ = _sizes(q, k, v)
    how = RECIPES[recipe] if recipe else PLAIN
    with _on_device(q):
        short.forward[(b * h,)](
            *map(_described, (q, k, v, out)), lse,
            *_arguments(q, k, inputs, k_positions, scale, pairs),
            **_options(q, k, v, inputs, how, block, sizes, pairs),
        )  # fmt: skip
    return out, lse


def mapped_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, inputs: Inputs | None,
    k_positions: Tensor | None, recipe: str, scale: float, pairs: Pairs, wants_offset: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Gradients of raw q, k, v, stored as these are, and of δ; the same bits on every run."""
    b, h = q.shape[:2]
    dq, dk = (empty(x, x.shape[-1], tokens_first(x)) for x in (q, k))
    dv = like(v)
    partial = None
    if wants_offset:
        assert inputs is not None
        partial = q.new_empty(b, h, len(inputs.turns), dtype=torch.float32)
    block, _, sizes = _sizes(q, k, v)
    how = RECIPES[recipe] if recipe else PLAIN
    with _on_device(q):
        short.backward[(b * k.shape[1],)](
            *map(_described, (q, k, v, grad)), lse, *map(_described, (dq, dk, dv)), partial,
            *_arguments(q, k, inputs, k_positions, scale, pairs),
            **_options(q, k, v, inputs, how, block, sizes, pairs), BACK=how.back,
            TURNED=how.turned,
        )  # fmt: skip
    return dq, dk, dv, None if partial is None else _summed(partial, inputs)


def _summed(partial: Tensor, inputs: Inputs | None) -> Tensor:
    """δ's gradient from that of every batch element, in a fixed order, in δ's shape."""
    assert inputs is not None
    assert inputs.offset is not None
    out = torch.empty_like(inputs.offset, dtype=torch.float32, memory_format=_CONTIGUOUS)
    sets, width = len(out) if out.dim() == 3 else 1, partial[0].numel()
    with _on_device(partial):
        short.total[(sets * triton.cdiv(width, 64),)](
            partial, out, len(partial) // sets, width, ROWS=64, BLOCK=64, num_warps=4
        )
    return out


def _sizes(q: Tensor, k: Tensor, v: Tensor) -> tuple[int, Sizes, Sizes]:
    tokens, width = max(q.shape[2], k.shape[2]), max(q.shape[-1], v.shape[-1])
    found = sizes_for(of_device(q.device), q.element_size(), tokens, width)
    if found is None:
        raise ValueError(
            f"the kernels for short sequences hold all of one in a tile of at most {LONGEST} "
            f"tokens, fewer where channels are many: not {q.shape[2]} queries and {k.shape[2]} "
            f"keys of {width} channels; kernel='tiled' takes any"
        )
    return found


def _arguments(
    q: Tensor, k: Tensor, inputs: Inputs | None, k_positions: Tensor | None, scale: float,
    pairs: Pairs,
) -> tuple[Any, ...]:  # fmt: skip
    """What both kernels take between tensors and compile-time options."""
    numbers = (pairs.window, q.shape[2], k.shape[2], q.shape[1])
    places = (pairs.q_place, pairs.k_place, pairs.slopes)
    steps = [0 if x is None or len(x) == 1 else x.stride(0) for x in places[:2]]
    if inputs is None:
        return (*(None,) * 6, *places, 0, 0, 0, *steps, 0, 1, 0, *numbers, *(None,) * 3, scale)
    positions, k_positions, temperature = map(
        _row_major, (inputs.positions, k_positions, inputs.temperature)
    )
    offset = None if inputs.offset is None else inputs.offset.contiguous()
    gamma, rate, centre = inputs.decay or (0.0, 0.0, 0)
    sets = len(offset) if offset is not None and offset.dim() == 3 else 1
    if q.shape[0] % sets:
        raise ValueError(f"offset is of {sets} models, which can not share a batch of {len(q)}")
    return (
        positions, k_positions, inputs.turns, inputs.early_turns, offset, temperature, *places,
        *(_step(x) for x in (positions, k_positions, temperature)), *steps,
        inputs.start, inputs.direction, int(centre), *numbers,
        q.shape[0] // sets if sets > 1 else None,
        None if inputs.amplitude == 1.0 else inputs.amplitude,
        (gamma, rate) if inputs.decay else None, scale,
    )  # fmt: skip


def _options(
    q: Tensor, k: Tensor, v: Tensor, inputs: Inputs | None, how: Recipe, block: int, sizes: Sizes,
    pairs: Pairs,
) -> dict[str, Any]:  # fmt: skip
    """The compile-time arguments of both kernels."""
    frequencies = q.shape[-1] // 2 if inputs is None else len(inputs.turns)
    rest, group = q.shape[-1] - how.channels(frequencies), q.shape[1] // k.shape[1]
    return {
        "MAP": how.map,
        "PAIRED": how.paired,
        "INTERLEAVED": how.interleaved,
        "F": frequencies,
        "REST": rest,
        "DV": v.shape[-1],
        "BLOCK": block,
        "WIDTH": min(padded(frequencies), sizes.width),
        "BLOCK_R": padded(max(rest, 1)),
        "BLOCK_DV": padded(v.shape[-1]),
        "GROUP": group,
        "SEEN": looks.seen,
        **pairs.options,
        "BIAS": looks.BIASES[pairs.options["BIAS"]],
        "num_warps": sizes.warps,
        "num_stages": 1,
        # Sums that a loop over query heads carries want more than the cap was chosen for.
        "maxnreg": sizes.registers if group == 1 else None,
    }


def _on_device(x: Tensor) -> Any:
    return torch.cuda.device(x.device) if x.is_cuda else _NOWHERE


def _described(x: Tensor) -> tuple[Any, ...]:
    x = x if x.stride(3) == 1 else x.contiguous()
    return x, x.stride(0), x.stride(1), x.stride(2)


def _row_major(x: Tensor | None) -> Tensor | None:
    return x if x is None or x.stride(-1) == 1 else x.contiguous()


def _step(x: Tensor | None) -> int:
    return 0 if x is None or len(x) == 1 else x.stride(0)
