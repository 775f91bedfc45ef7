"""Interpreted tests (TRITON_INTERPRET=1, see test_interpreter.py) run on the quick interpreter."""

import importlib.util

from whatwhere.kernels.interpreter import interpreted

if interpreted() and importlib.util.find_spec("triton") is not None:
    from kernels.quick_interpreter import quicken

    quicken()
