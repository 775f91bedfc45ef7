"""What the quick interpreter must still refuse, and leave as it was. Run by test_interpreter.py."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.errors import InterpreterError


@triton.jit
def _twice(x, count, BLOCK: tl.constexpr):
    # Triton's own device functions see triton.language.core, not triton.language.
    return tl.sum(tl.ravel(tl.arange(0, BLOCK)[None, :] * 2), 0) + x * count


@triton.jit
def _kernel(out, x, count, BLOCK: tl.constexpr):
    tl.store(out, _twice(x, count, BLOCK))


def run(x: int, count: int, block: int = 4) -> int:
    out = torch.zeros(1, dtype=torch.int64)
    _kernel[(1,)](out, x, count, block)
    return int(out)


def test_device_functions_run_one_launch_after_another() -> None:
    assert run(3, 5) == 27
    assert run(3, 5, 8) == 71


@pytest.mark.skipif(not hasattr(interpreter, "quick"), reason="not the Triton that is quickened")
def test_overflow_of_32_bits_is_refused() -> None:
    assert run(2**30, 1) == 2**30 + 12
    with pytest.raises(InterpreterError, match="int32 overflow in mul"):
        run(2**30, 2)
    assert run(2**40, 2) == 2**41 + 12, "64 bits hold it"


def test_a_shape_that_is_none_is_refused_each_time() -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="must be a power of 2"):
            tl.block_type(tl.int32, [3])
        with pytest.raises(InterpreterError, match="power of 2"):
            run(1, 1, 3)
    assert run(3, 5) == 27, "a launch after one that broke"


def test_outside_kernels_the_language_is_what_it_was() -> None:
    run(3, 5)
    with pytest.raises(ValueError, match=r"forget to add @triton\.jit"):
        tl.arange(0, 4)
