"""Interpreted tests (TRITON_INTERPRET=1, see test_interpreter.py) run on the quick interpreter."""

from kernels.quick_interpreter import quicken

quicken()
