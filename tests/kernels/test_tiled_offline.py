"""What the assembler says of the plain Triton attention kernels, at the stored sizes: no GPU."""

from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from kernels.offline import Compiled, compile_for_hopper, spilled

from whatwhere.kernels import pairs, tiled, tiled_backward
from whatwhere.kernels.interpreter import interpreted
from whatwhere.kernels.tiled_sizes import TABLE, Tile, kind_of_gpu, padded

pytestmark = pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET=1: nothing is compiled")

#: Compute capability that a kind of GPU is compiled for, and shared memory of one block there.
GPUS = {"hopper": (90, 232448), "ampere": (80, 101376)}
KERNELS = {
    "forward": tiled.forward,
    "queries": tiled_backward.queries,
    "both": tiled_backward.keys,
    "fast": tiled_backward.keys,
}


def compiled(gpu: str, kind: str, f: int, dv: int, name: str, whole: bool) -> Compiled:
    """A kernel as its launcher starts it: whole sequences under causality, or everything at once
    (places, window, ALiBi), which takes the most registers."""
    kernel = KERNELS[name]
    tile: Tile = getattr(TABLE[gpu, 4 if kind == "fp32" else 2][f, dv], name)
    tensor, number = (f"*{kind}", "i32", "i32", "i32"), "i32"
    arguments: dict[str, Any] = {
        "q": tensor, "k": tensor, "v": tensor, "out": tensor, "grad": tensor, "dk": tensor,
        "dv": tensor, "dq": {"queries": tensor, "fast": "*fp32"}.get(name), "lse": "*fp32",
        "deltas": "*fp32", "scale": "fp32", "scale_log2": "fp32",
        "slopes": None if whole else "*fp32",
    }  # fmt: skip
    arguments |= dict.fromkeys(("q_place", "k_place", "bounds"), None if whole else "*i32")
    arguments |= dict.fromkeys(
        ("q_place_step", "k_place_step", "bounds_step", "window", "queries", "keys", "n", "m",
         "heads", "group"), number,
    )  # fmt: skip
    constants = {
        "F": f, "DV": dv, "BLOCK_Q": tile.queries, "BLOCK_K": tile.keys, "BLOCK_F": padded(f),
        "BLOCK_DV": padded(dv), "SEEN": pairs.seen, "BIAS": None if whole else pairs.alibi,
        "CAUSAL": True, "WINDOWED": not whole, "PLACED": not whole, "FAST": name == "fast",
    }  # fmt: skip
    arguments = {key: arguments[key] for key in kernel.arg_names if key in arguments}
    return compile_for_hopper(
        kernel, arguments, constants, tile.warps, tile.stages, capability=GPUS[gpu][0]
    )


CASES = [
    pytest.param(
        gpu, f, dv, name, whole,
        marks=() if (f, dv) == (128, 64) and not whole else pytest.mark.slow,
    )
    for gpu in GPUS for f, dv in TABLE[gpu, 2] for name in KERNELS for whole in (False, True)
]  # fmt: skip


@pytest.mark.parametrize(("gpu", "f", "dv", "name", "whole"), CASES)
def test_no_spills_and_room_for_every_tile(
    gpu: str, f: int, dv: int, name: str, whole: bool
) -> None:
    built = compiled(gpu, "bf16", f, dv, name, whole)
    print(f"{gpu} {f}/{dv} {name}: {built.registers} registers, {built.shared_bytes} B")  # noqa: T201
    assert built.spill_bytes <= spilled()
    assert built.shared_bytes <= GPUS[gpu][1]
    assert built.count("HGMMA" if gpu == "hopper" and _rows(gpu, f, dv, name) else "HMMA") > 0


def _rows(gpu: str, f: int, dv: int, name: str) -> bool:
    """Whether a tile has the 64 rows that Hopper's own products want."""
    tile: Tile = getattr(TABLE[gpu, 2][f, dv], name)
    return (tile.keys if name in ("both", "fast") else tile.queries) >= 64


def test_every_gpu_that_triton_knows_has_a_line() -> None:
    found = {kind_of_gpu(*each) for each in ((8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))}
    assert found == set(GPUS) == {gpu for gpu, _ in TABLE}
    for lines in TABLE.values():
        assert list(lines) == sorted(lines, key=lambda widths: (widths[1], widths[0]))
        assert max(lines) == (512, 256)
