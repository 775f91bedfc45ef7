"""What Gluon calls differently from Triton to Triton: 3.6 first, then the newest (3.9).

viewed(memory, dtype, shape, layout)            the same shared memory, otherwise divided
load_rows(memory, pointers, mask)               cp.async
load_block(descriptor, place, barrier, memory)  the bulk copy engine
together()                                      all threads of a program wait for one another
"""

import triton.experimental.gluon.language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import tma

__all__ = ["load_block", "load_rows", "together", "viewed"]

if hasattr(gl.shared_memory_descriptor, "_reinterpret"):
    viewed = gl.shared_memory_descriptor._reinterpret
    load_rows = async_copy.async_copy_global_to_shared
    load_block = tma.async_copy_global_to_shared
    together = gl.thread_barrier
else:
    viewed = gl.shared_memory_descriptor.reinterpret
    load_rows, load_block = async_copy.async_load, tma.async_load
    together = gl.barrier
