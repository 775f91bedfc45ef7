"""Triton kernels: they know maps, not encodings; only `attention.fused` imports them, lazily."""

from whatwhere.kernels.interpreter import repair

repair()
