"""Compile what a launcher launches, for sm_90a, on a machine without a GPU.

Nothing of a launcher is repeated here: it is called with meta tensors under a driver that only
says "compute capability 9.0", and Triton's own path from arguments to a compiled kernel does the
rest (`JITFunction.run`, told to warm up instead of running). So sizes, options, divisibility and
argument lists are those of a real call, whatever they are changed to.
"""

from __future__ import annotations

import io
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import triton
from kernels.offline import TOOLS
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.runtime.jit import JITFunction

TARGET = GPUTarget("cuda", 90, 32)
#: Shared memory of one block on sm_90, bytes.
MOST_SHARED = 232448
#: Of all blocks on one multiprocessor, each with a kilobyte of its own.
ALL_SHARED = 233472


@dataclass(frozen=True)
class Launched:
    """One kernel as it was launched, compiled: what the assembler says of it."""

    name: str
    constants: dict[str, Any]
    shared: int
    warps: int
    registers: int
    spills: int
    warnings: tuple[str, ...]
    sass: str

    @property
    def programs(self) -> int:
        """How many of its programs a multiprocessor holds at once."""
        by_registers = 65536 // (-(-self.registers // 8) * 8 * 32 * self.warps)
        return min(by_registers, ALL_SHARED // (self.shared + 1024), 64 // self.warps)

    def count(self, instruction: str) -> int:
        """How many SASS instructions start with this name."""
        return len(
            re.findall(rf"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\d+ )?{instruction}\b", self.sass, re.M)
        )

    def __str__(self) -> str:
        constants = " ".join(f"{key}={value}" for key, value in self.constants.items())
        return (
            f"{self.name}({constants}): {self.registers} registers, {self.spills} B spilled, "
            f"{self.shared} B shared, {self.warps} warps, {self.count('HGMMA')} HGMMA"
        )


#: What ptxas said when a kernel was compiled; nothing of one that lay in Triton's cache.
_SAID: dict[str, str] = {}


class _Driver:
    """As much of Triton's driver as compiling asks for."""

    def get_current_target(self) -> GPUTarget:
        return TARGET

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("meta")


@contextmanager
def _hopper() -> Iterator[list[tuple[JITFunction[Any], Any]]]:
    """Inside, a launch compiles for sm_90a and runs nothing; yields what was launched."""
    launched: list[tuple[JITFunction[Any], Any]] = []
    run = JITFunction.run

    def compiled(
        self: JITFunction[Any], *args: Any, grid: Any, warmup: bool, **options: Any
    ) -> Any:
        # Of its own: a machine with a GPU has caches for it under the same number.
        self.device_caches.pop(0, None)
        log = io.StringIO()
        with redirect_stdout(log):
            kernel = run(self, *args, grid=grid, warmup=True, **options)
        _SAID.setdefault(kernel.hash, log.getvalue())
        launched.append((self, kernel))
        self.device_caches.pop(0, None)
        return kernel

    properties = SimpleNamespace(
        multi_processor_count=132, major=9, minor=0, L2_cache_size=50 << 20, name="sm_90a"
    )
    driver = triton.runtime.driver
    with (
        mock.patch.object(JITFunction, "run", compiled),
        mock.patch.object(type(driver), "active", _Driver()),
        mock.patch.object(torch.cuda, "get_device_properties", return_value=properties),
        mock.patch.object(torch.cuda, "get_device_capability", return_value=(9, 0)),
        mock.patch.object(torch.cuda, "current_device", return_value=0),
        mock.patch.object(type(knobs.nvidia), "dump_ptxas_log", True),
    ):
        yield launched


def launches(launcher: Callable[[], Any]) -> list[Launched]:
    """Every kernel that `launcher` (over meta tensors) starts, in order, compiled and examined."""
    with _hopper() as found:
        launcher()
    return [_examined(function, kernel) for function, kernel in found]


def hashes(launcher: Callable[[], Any]) -> set[str]:
    """Of source, signature and options of every kernel that `launcher` starts: one hash is compiled
    once."""
    with _hopper() as found:
        launcher()
    return {kernel.hash for _, kernel in found}


_EXAMINED: dict[str, Launched] = {}


def _examined(function: JITFunction[Any], kernel: Any) -> Launched:
    """Each kernel once: a backward pass launches some of the forward's again."""
    if kernel.hash not in _EXAMINED:
        _EXAMINED[kernel.hash] = _examine(function, kernel)
    return _EXAMINED[kernel.hash]


def _examine(function: JITFunction[Any], kernel: Any) -> Launched:
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(kernel.asm["ptx"])
        binary.write_bytes(kernel.asm["cubin"])
        said = _SAID[kernel.hash]
        if "Used" not in said:
            said = _run(
                get_ptxas(90).path, "-v", "-arch=sm_90a", str(source), "-o", f"{folder}/again"
            ).stderr
        sass = _run("nvdisasm", "-c", str(binary)).stdout
    spills = [int(size) for size in re.findall(r"(\d+) bytes spill (?:stores|loads)", said)]
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", said)]
    assert spills, said
    assert registers, said
    names = function.arg_names
    constants = {
        names[path[0]]: value
        for path, value in kernel.src.constants.items()
        if len(path) == 1 and isinstance(value, int | bool)
    }
    return Launched(
        name=function.__name__,
        constants=constants,
        shared=kernel.metadata.shared,
        warps=kernel.metadata.num_warps,
        registers=max(registers),
        spills=sum(spills),
        warnings=tuple(line for line in said.splitlines() if _suspicious(line)),
        sass=sass,
    )


def _suspicious(line: str) -> bool:
    """C7510 to C7512 say "wgmma serialized": the tensor cores then wait at every step."""
    return bool(re.search(r"C75\d\d|serializ|warning", line, re.I))


def _run(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(TOOLS / tool), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done
