"""Triton's interpreter (TRITON_INTERPRET=1) under today's NumPy.

Triton 3.6 turns a scalar into a loop bound by int() of a one-element array, which NumPy 2.4 made an
error: every loop whose bounds are known at run time only would raise. The conversion is replaced
where it is installed; kernels need not know.
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
    """Make run-time loop bounds work in the interpreter. Does nothing when compiling."""
    if not interpreted() or importlib.util.find_spec("triton") is None:
        return
    from triton.runtime import interpreter

    install = interpreter._patch_lang_tensor
    if getattr(install, "repaired", False):
        return

    def installed(tensor: Any, scope: Any) -> None:
        install(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    installed.repaired = True  # type: ignore[attr-defined]
    interpreter._patch_lang_tensor = installed
