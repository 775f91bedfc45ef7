"""Triton's interpreter without its repeated work: the same numbers in about a third of the time.

A tile of a few hundred numbers costs NumPy microseconds; Triton spends the rest of the time on
describing it. Remembered here: that `triton.language` is patched already, once a launch and not at
every call of a device function; the shapes and types of tensors. And the check of 32-bit overflow,
which builds a dozen tensors an operation and then, without TRITON_DEBUG, throws them away, is one
comparison, made. Only of Triton 3.6, whose names these are: another release runs as it comes.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import numpy as np

OPERATIONS = {"add": np.add, "sub": np.subtract, "mul": np.multiply}


def quicken() -> None:
    """Replace the slow parts, once a process; does nothing where kernels are not interpreted."""
    if os.environ.get("TRITON_INTERPRET") != "1" or importlib.util.find_spec("triton") is None:
        return
    import triton
    from triton.language import core
    from triton.language.semantic import TritonSemantic
    from triton.runtime import interpreter

    if not triton.__version__.startswith("3.6.") or hasattr(interpreter, "quick"):
        return
    interpreter.quick = True
    _patch_once_a_launch(interpreter, core)
    _remember_types(interpreter, core)
    TritonSemantic.binary_op_sanitize_overflow_impl = _refuse_overflow


def _patch_once_a_launch(interpreter: Any, core: Any) -> None:
    """A device function's `triton.language` was patched with the kernel's, or by one before it."""
    import triton.language as tl

    patch, launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
    seen_by: dict[Any, frozenset[int]] = {}
    patched: set[frozenset[int]] = set()

    def patch_lang(fn: Any) -> Any:
        if fn not in seen_by:
            names = fn.__globals__.values()
            seen_by[fn] = frozenset(id(x) for x in names if x is tl or x is core)
        if seen_by[fn] in patched:
            return None  # asked for by the launch itself only, which is the first
        patched.add(seen_by[fn])
        return patch(fn)

    def call(self: Any, *arguments: Any, **options: Any) -> None:
        patched.clear()  # the end of a launch takes its patches back
        launch(self, *arguments, **options)

    interpreter._patch_lang = patch_lang
    interpreter.GridExecutor.__call__ = call


def _remember_types(interpreter: Any, core: Any) -> None:
    numpy_type, block, tensor = (
        interpreter._get_np_dtype, core.block_type.__init__, core.tensor.__init__,
    )  # fmt: skip
    numpy_types: dict[str, np.dtype[Any]] = {}
    blocks: dict[tuple[Any, ...], dict[str, Any]] = {}
    shapes: dict[tuple[int, ...], tuple[Any, Any]] = {}

    def get_np_dtype(kind: Any) -> np.dtype[Any]:
        element = kind.element_ty if type(kind) is core.block_type else kind
        if element.name not in numpy_types:
            numpy_types[element.name] = numpy_type(element)
        return numpy_types[element.name]

    def make_block(self: Any, element_ty: Any, shape: Any) -> None:
        sizes = shape.values if type(shape) is core.tuple else shape
        sizes = [size.value if type(size) is core.constexpr else size for size in sizes]
        key = (element_ty.name, *sizes)
        if key not in blocks:
            block(self, element_ty, sizes)  # raises what is wrong with the shape
            blocks[key] = dict(self.__dict__)
        self.__dict__.update(blocks[key], element_ty=element_ty)

    def make_tensor(self: Any, handle: Any, type: Any) -> None:
        key = tuple(type.shape.values) if type.is_block() else ()
        if key not in shapes:
            tensor(self, handle, type)
            shapes[key] = self.shape, self.numel
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.shape, self.numel = shapes[key]

    interpreter._get_np_dtype = get_np_dtype
    core.block_type.__init__, core.tensor.__init__ = make_block, make_tensor


def _refuse_overflow(self: Any, lhs: Any, rhs: Any, operation: Any) -> None:
    """What fits no 32 bits here wraps on a GPU: an address there is another one."""
    kind = lhs.type.scalar
    if kind.int_bitwidth >= 64:
        return
    exact = OPERATIONS[operation.__name__](lhs.handle.data, rhs.handle.data, dtype=np.int64)
    low, high = kind.get_int_min_value(), kind.get_int_max_value()
    if exact.min() < low or exact.max() > high:
        raise OverflowError(f"int{kind.int_bitwidth} overflow in {operation.__name__}")
