"""Launching the preparation kernels: recipes, block sizes, grids, output layouts.

Sizes are fixed here; nothing is tuned at a user's first call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from whatwhere.kernels import maps as jitted
from whatwhere.kernels import prep as kernels

__all__ = [
    "PROGRAMS",
    "RECIPES",
    "SIZES",
    "Inputs",
    "Recipe",
    "Sizes",
    "empty_like",
    "launch",
    "rows",
]

#: Programs that fill a large GPU several times over: heads are split until there are as many.
PROGRAMS = 2048


@dataclass(frozen=True)
class Sizes:
    """What a program holds: a tile of positions times frequencies, by how many warps, and for how
    many heads at most (more share the cosines better, fewer balance the load)."""

    tile: int
    warps: int
    heads: int


#: Measured best on Hopper; chosen here once.
SIZES = {"forward": Sizes(2048, 4, 16), "backward": Sizes(1024, 4, 16)}


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


_NOWHERE = contextlib.nullcontext()
_KERNELS = {"forward": kernels.forward, "backward": kernels.backward}
RECIPES = {
    "half": Recipe(jitted.rotate, jitted.rotate_back, paired=True),
    "interleaved": Recipe(jitted.rotate, jitted.rotate_back, paired=True, interleaved=True),
    "softplus": Recipe(jitted.softplus_polar, jitted.softplus_polar_back),
    "relu": Recipe(jitted.relu_polar, jitted.relu_polar_back),
    "identity": Recipe(jitted.identity_polar, jitted.identity_polar_back),
}


@dataclass(frozen=True)
class Inputs:
    """What the kernels read besides vectors, in the order of their arguments."""

    positions: Tensor
    turns: Tensor
    early_turns: Tensor | None
    offset: Tensor | None
    temperature: Tensor | None
    start: int
    direction: int
    amplitude: float


def empty_like(x: Tensor, width: int) -> Tensor:
    """An empty tensor of x's sizes but `width` channels, stored in x's order of axes.

    (batch, token, head) storage in gives the same out: after attention the output can then be
    flattened for its projection without a copy.
    """
    b, h, n, _ = x.shape
    if x.stride(1) < x.stride(2):
        return x.new_empty((b, n, h, width)).transpose(1, 2)
    return x.new_empty((b, h, n, width))


def rows(direction: str, frequencies: int) -> int:
    """How many positions a program holds."""
    return max(1, SIZES[direction].tile // triton.next_power_of_2(frequencies))


def launch(
    direction: str,
    tensors: tuple[Tensor | None, ...],
    extra: tuple[Tensor | None, ...],
    inputs: Inputs,
    functions: dict[str, Any],
    recipe: str,
    width: int,
) -> None:
    """Run a kernel over (batch · blocks of positions · groups of heads) programs."""
    shape = next(x for x in tensors if x is not None).shape
    out_k = tensors[-1]
    heads, kv_heads = shape[1], 0 if out_k is None else out_k.shape[1]
    frequencies = inputs.turns.shape[0]
    block = rows(direction, frequencies)
    blocks = triton.cdiv(shape[2], block)
    total = heads + kv_heads
    groups = max(
        triton.cdiv(PROGRAMS, blocks * shape[0]), triton.cdiv(total, SIZES[direction].heads)
    )
    groups = min(groups, total)
    rest = width - RECIPES[recipe].channels(frequencies)
    on_device = torch.cuda.device(inputs.turns.device) if inputs.turns.is_cuda else _NOWHERE
    with on_device:
        _KERNELS[direction][(shape[0] * blocks * groups,)](
            *(None if x is None else _described(x) for x in tensors),
            *extra,
            *(_row_major(inputs.positions), inputs.turns, inputs.early_turns, inputs.offset),
            None if inputs.temperature is None else _row_major(inputs.temperature),
            *(shape[2], blocks, groups, heads, kv_heads),
            _step(inputs.positions),
            0 if inputs.temperature is None else _step(inputs.temperature),
            *(inputs.start, inputs.direction, inputs.amplitude),
            **functions,
            PAIRED=RECIPES[recipe].paired,
            INTERLEAVED=RECIPES[recipe].interleaved,
            F=frequencies,
            REST=rest,
            BLOCK_N=block,
            BLOCK_F=triton.next_power_of_2(frequencies),
            BLOCK_R=triton.next_power_of_2(max(rest, 1)),
            num_warps=SIZES[direction].warps,
        )


def _described(x: Tensor) -> tuple[Any, ...]:
    if x.stride(3) != 1:
        x = x.contiguous()
    return x, x.stride(0), x.stride(1), x.stride(2)


def _row_major(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 else x.contiguous()


def _step(x: Tensor) -> int:
    return 0 if x.shape[0] == 1 else x.shape[1]
