"""What the assembler says of the preparation kernels for sm_90a: no GPU needed."""

import re
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from kernels.offline import SIZED, compile_for_hopper, length, spilled

from whatwhere.kernels import prep, prep_launch, prep_sums
from whatwhere.kernels.interpreter import interpreted

pytestmark = pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET=1: nothing is compiled")

NUMBERS = (
    "n", "blocks", "span", "chunks", "groups", "heads", "kv_heads", "position_step",
    "temperature_step", "start", "direction", "centre",
)  # fmt: skip
EVERYTHING = {"temperature": "*fp32", "early_turns": "*i64", "decay": ("fp32", "fp32")}


def compiled(
    direction: str, recipe: str, frequencies: int, rest: int = 0, dtype: str = "bf16", **more: Any
) -> Any:
    """The kernel as a layer calls it: q and k together, δ on the query for PoPE."""
    kernel = {"forward": prep.forward, "backward": prep.backward, "sums": prep_sums.backward}
    chosen = prep_launch.RECIPES[recipe]
    sizes = prep_launch.SIZES[direction, chosen.paired]
    polar, tensor = not chosen.paired, (f"*{dtype}", "i32", "i32", "i32")
    raw = tensor if polar or direction != "backward" else None
    arguments: dict[str, Any] = dict.fromkeys(NUMBERS, "i32") | {
        "q": raw, "k": raw, "q_grad": tensor, "k_grad": tensor, "q_out": tensor, "k_out": tensor,
        "positions": "*i64", "turns": "*i64", "early_turns": None, "temperature": None,
        "decay": None, "table": "*fp32" if polar else None,
        "partial": "*fp32",
        "amplitude": "fp32", **more,
    }  # fmt: skip
    block = 1 << (frequencies - 1).bit_length()
    rows = sizes.tile // block // (2 if (direction, dtype) == ("sums", "fp32") else 1)
    constants = {
        **chosen.functions(direction), "PAIRED": chosen.paired,
        "INTERLEAVED": chosen.interleaved, "F": frequencies, "REST": rest,
        "BLOCK_N": rows, "BLOCK_F": block, "BLOCK_R": max(rest, 1), "DEPTH": sizes.depth,
        "HEADS": sizes.heads, "APART": sizes.apart, "FULL": (True, True),
        "NEAR": (rows * block <= 128 * sizes.warps,) * 3,
    }  # fmt: skip
    cap = sizes.registers if dtype == "bf16" and rest == 0 and not more else None
    return compile_for_hopper(kernel[direction], arguments, constants, sizes.warps, registers=cap)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize(
    ("recipe", "frequencies"),
    [("softplus", 64), ("softplus", 128), ("half", 32), ("interleaved", 64)],
)
def test_no_spills_and_wide_accesses(
    direction: str, recipe: str, frequencies: int, record_property: Any
) -> None:
    built = compiled(direction, recipe, frequencies)
    record_property("registers", built.registers)
    print(f"{direction} {recipe} {frequencies}: {built.registers} registers")  # noqa: T201
    assert built.spill_bytes <= spilled()
    heavy = (direction, recipe) == ("backward", "softplus")
    # 64 registers leave room for 32 warps on a multiprocessor: they keep memory busy.
    assert built.registers <= (128 if heavy else 64 if direction == "forward" else 80)
    if recipe != "interleaved" and (direction == "forward" or recipe == "half"):
        assert built.count("BAR") == 0, "vectors stay in the layout that they are loaded in"
    narrow = built.count("STG") - built.count(r"STG\.E\.128")
    assert narrow == 0
    assert built.count("MUFU.SIN") > 0
    if (direction, recipe) == ("forward", "softplus"):
        assert built.count("PRMT") == 0, "16-bit values wait in pairs"


@pytest.mark.parametrize("frequencies", [64, pytest.param(96, marks=pytest.mark.slow)])
def test_sums_for_delta_stay_in_registers(frequencies: int) -> None:
    """Threads meet after the loop over positions, not in it."""
    built = compiled("sums", "softplus", frequencies)
    print(f"sums {frequencies}: {built.registers} registers")  # noqa: T201
    # Four numbers beside its 128 registers: 16 warps on a multiprocessor, not 14. With six it was a
    # twelfth faster on an H200 than 133 without a spill. A mask of channels takes six more.
    masked = frequencies == 96
    assert built.spill_bytes <= spilled(40 if masked else 16)
    assert built.registers <= 128
    assert "atom" not in built.ptx, "sums have a fixed order"
    loop = longest_loop(built.sass)
    for wanted in ("MUFU.SIN", "STG.E.128"):
        assert wanted in loop
    for unwanted in ("BAR", "SHFL", "STS", "STG.E "):
        assert unwanted not in loop
    # An element of a query: one exponential, one reciprocal; sine and cosine serve four heads.
    elements = 32
    assert loop.count("MUFU") == 2.5 * elements
    lines = re.findall(r"^\s+/\*[0-9a-f]+\*/", loop, re.M)
    assert len(lines) <= length((36 if masked else 33) * elements)


def test_the_sum_over_chunks_reads_16_bytes_a_thread() -> None:
    arguments = {"partial": "*fp32", "out": "*fp32", "chunks": "i32", "count": "i32"}
    built = compile_for_hopper(
        prep_sums.total, arguments, {"ROWS": 512, "COLUMNS": 16}, 8, divisible=("count",)
    )
    assert built.spill_bytes <= spilled()
    assert built.count("LDG") == built.count(r"LDG\.E\.128") > 0


def longest_loop(sass: str) -> str:
    """The instructions between a label and the last jump back to it."""
    lines = sass.splitlines()
    labels = {line.strip()[:-1]: at for at, line in enumerate(lines) if line.startswith(".L")}
    loops = [""]
    for at, line in enumerate(lines):
        found = re.search(r"BRA.*(\.L_x_\d+)", line)
        if found and labels[found[1]] < at:
            loops.append("\n".join(lines[labels[found[1]] : at + 1]))
    return max(loops, key=len)


@pytest.mark.parametrize(
    ("recipe", "dtype", "more", "direction"),
    [
        (*option, direction)
        for option in (("softplus", "fp16", EVERYTHING), ("half", "fp16", EVERYTHING),
                       ("softplus", "fp32", {}))
        for direction in ("forward", "backward")
    ]
    + [("softplus", "fp32", {}, "sums"),
       pytest.param("softplus", "fp16", EVERYTHING, "sums", marks=pytest.mark.slow)],
)  # fmt: skip
def test_every_option_compiles_without_spills(
    recipe: str, dtype: str, more: dict[str, Any], direction: str
) -> None:
    built = compiled(direction, recipe, 64, 64, dtype, **more)
    # ptxas may put two numbers aside that only the beginning and the end of a program need.
    assert built.spill_bytes <= spilled(8 if direction == "sums" else 0)
    assert not SIZED or "LDL" not in longest_loop(built.sass)
