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
from whatwhere.kernels import prep_sums

__all__ = [
    "PROGRAMS",
    "RECIPES",
    "SIZES",
    "Inputs",
    "Plan",
    "Recipe",
    "Sizes",
    "empty",
    "launch",
    "plan",
    "tokens_first",
    "total",
]

#: Programs that fill a large GPU several times over: heads are split until there are as many.
PROGRAMS = 2048


@dataclass(frozen=True)
class Sizes:
    """What a program holds: a tile of positions times frequencies, by how many warps, for how many
    heads at most (more share the cosines better, fewer balance the load), how many heads are loaded
    ahead of the one that is computed, a cap on the registers of a thread of 16-bit vectors. In
    "sums" also: how many positions it takes at most, one block after the other (as many at every
    width were the fastest), and whether keys come after all queries; loads are at most `heads`
    ahead."""

    tile: int
    warps: int
    heads: int
    depth: int = 1
    registers: int | None = None
    span: int = 8
    apart: bool = False


#: (direction, whether pairs of channels turn) -> sizes. Chosen here once, on Hopper. "sums" is the
#: backward pass with the gradient of δ.
SIZES = {
    ("forward", False): Sizes(1024, 4, 16, 2),
    ("forward", True): Sizes(1024, 4, 16, 1),
    ("backward", False): Sizes(1024, 2, 8, 0, 128),
    ("backward", True): Sizes(1024, 4, 16, 1),
    ("sums", False): Sizes(512, 2, 4, 2, 128, 32),
}


@dataclass(frozen=True)
class Recipe:
    """How the templates compute a map: its functions, and where its channels stand."""

    map: Callable[..., Any]
    back: Callable[..., Any]
    turned: Callable[..., Any]
    learned: Callable[..., Any]
    paired: bool = False
    interleaved: bool = False

    def channels(self, frequencies: int) -> int:
        """How many raw channels the frequencies take; features are 2 · frequencies."""
        return 2 * frequencies if self.paired else frequencies

    def functions(self, direction: str) -> dict[str, Any]:
        """The compile-time functions of a template."""
        if direction == "forward":
            return {"MAP": self.map}
        if direction == "sums":
            return {"BACK": self.back, "LEARNED": self.learned}
        return {"BACK": self.back}


_NOWHERE = contextlib.nullcontext()
_KERNELS = {
    "forward": kernels.forward, "backward": kernels.backward, "sums": prep_sums.backward,
}  # fmt: skip


def _functions(name: str) -> tuple[Callable[..., Any], ...]:
    return tuple(getattr(jitted, name + suffix) for suffix in ("", "_back", "_turned", "_learned"))


RECIPES = {
    "half": Recipe(*_functions("rotate"), paired=True),
    "interleaved": Recipe(*_functions("rotate"), paired=True, interleaved=True),
    "softplus": Recipe(*_functions("softplus_polar")),
    "relu": Recipe(*_functions("relu_polar")),
    "identity": Recipe(*_functions("identity_polar")),
}


@dataclass(frozen=True)
class Inputs:
    """What the kernels read besides vectors.

    decay is () or xPos's (gamma, side / span, centre) of the queries; keys get the reciprocal.
    """

    positions: Tensor
    turns: Tensor
    early_turns: Tensor | None
    offset: Tensor | None
    temperature: Tensor | None
    start: int
    direction: int
    amplitude: float
    decay: tuple[float, ...] = ()


def tokens_first(x: Tensor) -> bool:
    """Whether (b, h, n, d) is stored as (b, n, h, d), as a projection leaves it."""
    return bool(x.stride(1) < x.stride(2))


def empty(x: Tensor, width: int, by_tokens: bool) -> Tensor:
    """An empty (b, h, n, width) of x's sizes, stored (b, n, h, width) if `by_tokens`.

    Gradients in the order of the vectors flow on into the projection without a copy.
    """
    b, h, n, _ = x.shape
    if by_tokens:
        return x.new_empty((b, n, h, width)).transpose(1, 2)
    return x.new_empty((b, h, n, width))


@dataclass(frozen=True)
class Plan:
    """How a launch divides its work: blocks of positions, chunks of blocks, groups of heads."""

    block: int
    blocks: int
    span: int
    groups: int

    @property
    def chunks(self) -> int:
        """Chunks of blocks of one batch element."""
        return triton.cdiv(self.blocks, self.span)


def plan(direction: str, recipe: str, frequencies: int, x: Tensor, kv_heads: int) -> Plan:
    """The division of positions, heads of queries (those of `x`) and heads of keys."""
    batch, heads, length, _ = x.shape
    sizes = SIZES[direction, RECIPES[recipe].paired]
    block = max(1, sizes.tile // triton.next_power_of_2(frequencies))
    if direction == "sums" and x.element_size() == 4 and sizes.tile > 128 * sizes.warps:
        block = max(1, block // 2)  # 16 bytes a thread, whatever a value takes: else it spills
    blocks = triton.cdiv(length, block)
    if direction == "sums":
        groups = triton.cdiv(heads, sizes.heads) + triton.cdiv(kv_heads, sizes.heads)
        span = batch * blocks * groups // PROGRAMS
        return Plan(block, blocks, max(1, min(span, sizes.span // block)), groups)
    both = heads + kv_heads
    groups = max(triton.cdiv(PROGRAMS, blocks * batch), triton.cdiv(both, sizes.heads))
    groups = min(groups, both)
    return Plan(block, blocks, 1, groups)


def launch(
    direction: str,
    tensors: tuple[Tensor | None, ...],
    extra: tuple[Tensor | None, ...],
    inputs: Inputs,
    recipe: str,
    width: int,
) -> None:
    """Run a kernel over (batch · blocks of positions · groups of heads) programs."""
    first = next(x for x in tensors if x is not None)
    shape, out_k = first.shape, tensors[-1]
    heads, kv_heads = shape[1], 0 if out_k is None else out_k.shape[1]
    frequencies, how = inputs.turns.shape[0], RECIPES[recipe]
    sizes = SIZES[direction, how.paired]
    how_many = plan(direction, recipe, frequencies, first, kv_heads)
    rest = width - how.channels(frequencies)
    # Wider vectors and further options need more registers than the cap was chosen for.
    capped = all(x is None or x.element_size() == 2 for x in tensors)
    capped = capped and rest == 0 and inputs.early_turns is None and inputs.temperature is None
    gamma, rate, centre = inputs.decay or (0.0, 0.0, 0)
    positions, temperature = _row_major(inputs.positions), _row_major(inputs.temperature)
    on_device = torch.cuda.device(inputs.turns.device) if inputs.turns.is_cuda else _NOWHERE
    described = tuple(None if x is None else _described(x, how_many.block) for x in tensors)
    count, own = (how_many.blocks, how_many.groups), {}
    if direction == "sums":
        count = (how_many.blocks, how_many.span, how_many.chunks, how_many.groups)
        widths = width, width + 2 * frequencies - how.channels(frequencies), width
        own = {"HEADS": sizes.heads, "APART": sizes.apart}
        few = how_many.block * triton.next_power_of_2(frequencies) <= 128 * sizes.warps
        own |= _flags(described, widths, sizes.heads, few)
    with on_device:
        _KERNELS[direction][(shape[0] * how_many.chunks * how_many.groups,)](
            *described,
            *extra,
            *(positions, inputs.turns, inputs.early_turns),
            None if inputs.offset is None else _turned(inputs.offset, sizes.heads * frequencies),
            temperature,
            *(shape[2], *count, heads, kv_heads),
            *(_step(positions), _step(temperature)),
            *(inputs.start, inputs.direction, inputs.amplitude),
            *((gamma, rate) if inputs.decay else None, int(centre)),
            **how.functions(direction),
            PAIRED=how.paired,
            INTERLEAVED=how.interleaved,
            F=frequencies,
            REST=rest,
            BLOCK_N=how_many.block,
            BLOCK_F=triton.next_power_of_2(frequencies),
            BLOCK_R=triton.next_power_of_2(max(rest, 1)),
            DEPTH=sizes.depth,
            **own,
            num_warps=sizes.warps,
            maxnreg=sizes.registers if capped else None,
        )


def total(partial: Tensor) -> Tensor:
    """The sum over chunks, in an order that depends on their number only: (c, h, F) -> (h, F)."""
    count = partial[0].numel()
    out = partial.new_empty(partial.shape[1:])
    on_device = torch.cuda.device(partial.device) if partial.is_cuda else _NOWHERE
    with on_device:
        prep_sums.total[(triton.cdiv(count, 16),)](
            partial, out, len(partial), count, ROWS=512, COLUMNS=16, num_warps=8
        )
    return out


def _flags(
    described: tuple[tuple[Any, ...] | None, ...], widths: tuple[int, ...], heads: int, few: bool
) -> dict[str, tuple[bool, ...]]:
    """NEAR (where a thread has few values) and FULL of `prep_sums.backward`.

    A single head tells nothing of where the next one would stand: it counts as standing apart.
    """

    def near(x: tuple[Any, ...] | None, width: int) -> bool:
        return few and (x is None or x[2] == width < x[3])

    roles = zip(described[::2], described[1::2], widths, strict=True)
    counts = (0 if x is None else x[0].shape[1] for x in described[-2:])
    return {
        "NEAR": tuple(near(q, width) and near(k, width) for q, k, width in roles),
        "FULL": tuple(count % heads == 0 for count in counts),
    }


def _turned(offset: Tensor, spare: int) -> Tensor:
    """(2, heads, frequencies) in a row, cosine and sine of every head's own angles, and `spare`
    values beyond them that kernels may read and do not use.

    ValueError for those of several models side by side: the kernel has one table for the batch.
    """
    if offset.dim() == 3 and len(offset) > 1:
        raise ValueError(f"offset is of {len(offset)} models; prepare features of one at a time")
    count = offset.numel()
    table = offset.new_empty(2 * count + spare, dtype=torch.float32)
    kernels.turn_table[(triton.cdiv(count, 256),)](offset, table, count, BLOCK=256, num_warps=4)
    return table


def _described(x: Tensor, block: int) -> tuple[Any, ...]:
    # Offsets within a block of positions are 32-bit numbers.
    if x.stride(3) != 1 or x.stride(2) * block >= 2**31:
        x = x.contiguous()
    return x, x.stride(0), x.stride(1), x.stride(2)


def _row_major(x: Tensor | None) -> Tensor | None:
    return x if x is None or x.stride(1) == 1 else x.contiguous()


def _step(x: Tensor | None) -> int:
    """From one row to the next: a slice of longer rows keeps their step."""
    return 0 if x is None or len(x) == 1 else x.stride(0)
