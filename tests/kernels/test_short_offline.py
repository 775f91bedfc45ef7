"""What the assembler says of the kernels for short sequences, at the stored sizes: no GPU."""

from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from kernels.offline import Compiled, compile_for_hopper, spilled

from whatwhere.kernels import pairs, prep_launch, short, short_launch
from whatwhere.kernels.interpreter import interpreted
from whatwhere.kernels.short_sizes import TABLE
from whatwhere.kernels.tiled_sizes import padded

pytestmark = pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET=1: nothing is compiled")

#: Compute capability that a kind of GPU is compiled for, shared memory of one block, of all blocks.
GPUS = {"hopper": (90, 232448, 233472), "ampere": (80, 101376, 102400)}
NUMBERS = (
    "position_step", "k_position_step", "temperature_step", "q_place_step", "k_place_step", "start",
    "direction", "centre", "window", "n", "m", "heads",
)  # fmt: skip


def compiled(
    gpu: str, name: str, tokens: int, width: int, recipe: str, kind: str = "bf16",
    values: int | None = None, everything: bool = False,
) -> Compiled:  # fmt: skip
    """A kernel as its launcher starts it, over places (packed or padded sequences), as many query
    heads as KV heads; everything: temperature, window, ALiBi and a start rule besides."""
    sizes = TABLE[gpu, 4 if kind == "fp32" else 2][tokens, width][name == "backward"]
    how = prep_launch.RECIPES[recipe] if recipe else short_launch.PLAIN
    frequencies = width // 2 if how.paired else width
    values = values or min(width, 128)
    tensor, polar = (f"*{kind}", "i32", "i32", "i32"), recipe == "softplus"
    arguments: dict[str, Any] = dict.fromkeys(NUMBERS, "i32") | dict.fromkeys(
        ("q", "k", "v", "out", "grad", "dq", "dk", "dv"), tensor
    )
    arguments |= {
        "lse": "*fp32", "scale": "fp32", "partial": "*fp32" if polar else None,
        "positions": "*i64" if recipe else None, "k_positions": None,
        "turns": "*i64" if recipe else None, "early_turns": "*i64" if everything else None,
        "offset": "*fp32" if polar else None, "temperature": "*fp32" if everything else None,
        "q_place": "*i32", "k_place": "*i32", "slopes": "*fp32" if everything else None,
        "per_set": "i32" if everything else None, "amplitude": "fp32" if everything else None,
        "decay": None,
    }  # fmt: skip
    constants = {
        "MAP": how.map, "BACK": how.back, "TURNED": how.turned, "PAIRED": how.paired,
        "INTERLEAVED": how.interleaved, "F": frequencies,
        "REST": width - how.channels(frequencies), "DV": values, "BLOCK": tokens,
        "WIDTH": min(padded(frequencies), sizes.width), "BLOCK_R": 16, "BLOCK_DV": padded(values),
        "GROUP": 1, "SEEN": pairs.seen, "BIAS": pairs.alibi if everything else None,
        "CAUSAL": True, "WINDOWED": everything, "PLACED": True,
    }  # fmt: skip
    kernel = getattr(short, name)
    arguments = {key: arguments[key] for key in kernel.arg_names if key in arguments}
    return compile_for_hopper(
        kernel, arguments, constants, sizes.warps, 1, sizes.registers, GPUS[gpu][0]
    )


def programs(gpu: str, built: Compiled, warps: int) -> int:
    """How many programs a multiprocessor holds at once."""
    by_registers = 65536 // (-(-built.registers // 8) * 8 * 32 * warps)
    return min(by_registers, GPUS[gpu][2] // (built.shared_bytes + 1024), 64 // warps)


def report(gpu: str, name: str, tokens: int, width: int, recipe: str, built: Compiled) -> int:
    warps = TABLE[gpu, 2][tokens, width][name == "backward"].warps
    held = programs(gpu, built, warps)
    print(  # noqa: T201
        f"{gpu} {name} {tokens}x{width} {recipe or 'plain'}: {built.registers} registers, "
        f"{built.spill_bytes} B spilled, {built.shared_bytes} B, {built.count('')} instructions, "
        f"{held} programs of {warps} warps"
    )
    return held


#: What the studies' smallest models train with: 48 tokens, heads of 64 channels.
@pytest.mark.parametrize(("name", "recipe"), [("forward", "softplus"), ("backward", "softplus")])
def test_tiles_of_indirect_indexing(name: str, recipe: str) -> None:
    built = compiled("hopper", name, 64, 64, recipe)
    held = report("hopper", name, 64, 64, recipe, built)
    # Six numbers beside the backward's 168 registers: with them three programs are held, not two.
    assert built.spill_bytes <= spilled(24 if name == "backward" else 0)
    assert held >= (3 if name == "backward" else 4), "a program waits for memory, others compute"
    assert built.count("HGMMA") > 0
    assert built.count("MUFU.SIN") > 0
    assert "atom" not in built.ptx, "sums have a fixed order"
    narrow = built.count("STG") - built.count(r"STG\.E\.128")
    assert narrow <= 6, "stores of whole vectors, but those of δ's sums and of the log-sum-exp"


CASES = [
    (gpu, name, tokens, width, recipe)
    for (gpu, itemsize), lines in TABLE.items() if gpu in GPUS and itemsize == 2
    for tokens, width in lines for name in ("forward", "backward")
    for recipe in (("",) if width > 128 else ("softplus", "half", "interleaved", ""))
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("gpu", "name", "tokens", "width", "recipe"), CASES)
def test_every_stored_size(gpu: str, name: str, tokens: int, width: int, recipe: str) -> None:
    built = compiled(gpu, name, tokens, width, recipe)
    report(gpu, name, tokens, width, recipe, built)
    assert built.spill_bytes <= spilled(64)
    assert built.shared_bytes <= GPUS[gpu][1]
    assert built.count("HGMMA") + built.count("HMMA") > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["forward", "backward"])
@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_every_option_at_once(name: str, kind: str) -> None:
    built = compiled("hopper", name, 64, 64, "softplus", kind, everything=True)
    assert built.spill_bytes <= spilled(96)  # three programs at once stay worth two dozen numbers
