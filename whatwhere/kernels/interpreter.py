"""Triton's interpreter (TRITON_INTERPRET=1) under today's NumPy.

Triton 3.6 turns a scalar into a loop bound by int() of a one-element array, which NumPy 2.4 made an
error: every loop whose bounds are known at run time only would raise. And a comparison of two
scalars keeps the scalars' type: spread over a tile it is an int32, which a mask may be in 3.6 and
not in 3.9. Both are replaced where they are installed; kernels need not know.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

__all__ = ["interpreted", "repair"]


def interpreted() -> bool:
    """Whether Triton runs kernels as Python on the CPU: decided when triton is first imported."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def repair() -> None:
    """Make run-time loop bounds and scalar conditions work in the interpreter, if that runs."""
    if not interpreted() or importlib.util.find_spec("triton") is None:
        return
    import triton.language as tl
    from triton.runtime import interpreter

    install = interpreter._patch_lang_tensor
    if getattr(install, "repaired", False):
        return

    def installed(tensor: Any, scope: Any) -> None:
        install(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    installed.repaired = True  # type: ignore[attr-defined]
    interpreter._patch_lang_tensor = installed
    spread = interpreter.InterpreterBuilder.create_splat

    def splat(self: Any, ret_ty: Any, arg: Any) -> Any:
        if arg.data.dtype == bool:
            arg = interpreter.TensorHandle(arg.data, tl.int1)
        return spread(self, ret_ty, arg)

    interpreter.InterpreterBuilder.create_splat = splat
