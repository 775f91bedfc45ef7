"""What Gluon calls differently from Triton to Triton: 3.6 first, 3.7 to the newest (3.9) as well.

viewed(memory, dtype, shape, layout)            the same shared memory, otherwise divided
load_rows(memory, pointers, mask)               cp.async
load_block(descriptor, place, barrier, memory)  the bulk copy engine
together()                                      all threads of a program wait for one another

Each is looked up alone: `thread_barrier` went in 3.7, copies were renamed in 3.8, `_reinterpret`
went in 3.9.
"""

from typing import Any

import triton.experimental.gluon.language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import tma

__all__ = ["load_block", "load_rows", "together", "viewed"]


def _either(owner: Any, new: str, old: str) -> Any:
    # The new name first: 3.9 still has the old ones of copies, and they only raise.
    return getattr(owner, new) if hasattr(owner, new) else getattr(owner, old)


viewed = _either(gl.shared_memory_descriptor, "reinterpret", "_reinterpret")
load_rows = _either(async_copy, "async_load", "async_copy_global_to_shared")
load_block = _either(tma, "async_load", "async_copy_global_to_shared")
together = _either(gl, "barrier", "thread_barrier")
