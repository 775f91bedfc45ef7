"""Compile a kernel for sm_90a on a machine without a GPU, and read what the assembler says."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
INTEGERS = {"int": "i32", "float": "fp32"}

SIZED = triton.__version__.startswith("3.6.")
"""Whether this is the Triton that the stored sizes were chosen and measured with."""


def spilled(most: int = 0) -> int:
    """Bytes that may spill: what is said with Triton 3.6. Newer ones, seen up to 3.9, put up to 540
    aside in places (LOG.md): slower, not wrong."""
    return most if SIZED else 640


def length(most: float) -> float:
    """Instructions that a loop may have: newer Tritons than 3.6 write up to 3 % more."""
    return most if SIZED else 1.1 * most


@dataclass(frozen=True)
class Compiled:
    """What one compiled kernel uses."""

    registers: int
    spill_bytes: int
    shared_bytes: int
    ptx: str
    sass: str

    def count(self, instruction: str) -> int:
        """How many SASS instructions start with this name."""
        return len(
            re.findall(rf"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\d+ )?{instruction}", self.sass, re.M)
        )


def compile_for_hopper(
    kernel: Any, arguments: dict[str, Any], constants: dict[str, Any], warps: int, stages: int = 3,
    registers: int | None = None, capability: int = 90, divisible: tuple[str, ...] = (),
) -> Compiled:  # fmt: skip
    """Compile with a signature such as {"q": ("*bf16", "i64", "i64", "i64"), "n": "i32"}.

    Pointers and the members of tuples count as multiples of 16, as they are in a real call; None
    is an absent argument; top-level integers are left general (do_not_specialize) but for those
    named `divisible`. For another GPU than Hopper give its compute capability, 80 for 8.0.
    """
    signature: dict[str, Any] = {}
    values: dict[Any, Any] = {}
    attributes: dict[Any, Any] = {}
    for index, name in enumerate(kernel.arg_names):
        kind = arguments.get(name, "constexpr")
        signature[name] = kind if kind is not None else "constexpr"
        if kind is None or kind == "constexpr":
            values[(index,)] = None if kind is None else constants[name]
        elif isinstance(kind, tuple):
            for member in range(len(kind)):
                attributes[(index, member)] = [["tt.divisibility", 16]]
        elif kind.startswith("*") or name in divisible:
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, values, attributes)
    built = triton.compile(
        source,
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps, "num_stages": stages, "maxnreg": registers},
    )
    return _examined(built)


def _examined(built: Any) -> Compiled:
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(built.asm["cubin"])
        usage = _run("cuobjdump", "-res-usage", str(cubin))
        sass = _run("nvdisasm", "-c", str(cubin))
    registers = int(re.search(r"REG:(\d+)", usage).group(1))  # type: ignore[union-attr]
    local = int(re.search(r"LOCAL:(\d+)", usage).group(1))  # type: ignore[union-attr]
    stack = int(re.search(r"STACK:(\d+)", usage).group(1))  # type: ignore[union-attr]
    return Compiled(registers, local + stack, built.metadata.shared, built.asm["ptx"], sass)


def _run(tool: str, *arguments: str) -> str:
    done = subprocess.run(
        [str(TOOLS / tool), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
