"""Features of queries, keys and values: by the preparation kernel on a GPU, else by the map itself.

Every fast backend prepares here. The kernel reads raw vectors once and writes features once —
softplus, δ, phases exact at any position, temperature, amplitude — where a map makes a dozen passes
over float32 temporaries. The reference does not: it is the definition.
`why_not` is the one place that decides. Triton is imported inside functions only.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whatwhere.attention.where import Where
from whatwhere.maps import Map, Plain, Rotate
from whatwhere.tracing import constant, transformed

__all__ = ["features", "mapped", "why_no_triton", "why_not", "why_not_here"]

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def why_not_here(device: torch.device, dtype: torch.dtype, interpreter: bool = False) -> str | None:
    """None if our kernels can run on the device in the dtype, else a sentence; Triton aside.

    interpreter: whether kernels run as Python (TRITON_INTERPRET=1, tests) will do on a CPU.
    """
    if device.type != "cuda" and not (interpreter and os.environ.get("TRITON_INTERPRET") == "1"):
        return f"it needs a CUDA device, and q is on {device.type}"
    if torch.version.hip is not None:
        return "its kernels are written for NVIDIA GPUs, and this torch is built for ROCm"
    if dtype not in _DTYPES:
        return f"its kernels take bfloat16, float16 and float32, and q is {dtype}"
    if transformed():
        return "its operators have no rules for torch.func's transforms or forward-mode derivatives"
    return None


@constant
def why_no_triton() -> str | None:
    """None if Triton is installed, else a sentence."""
    found = importlib.util.find_spec("triton") is not None
    return None if found else "triton is not installed"


def why_not(mapping: Map, x: Float[Tensor, "b h n d"], interpreter: bool = False) -> str | None:
    """None if the preparation kernel computes the map of x, else a sentence (then the map does)."""
    if isinstance(mapping, Plain):
        return "features are the vectors as they are: there is nothing to prepare"
    reason = why_not_here(x.device, x.dtype, interpreter) or why_no_triton()
    if reason is not None:
        return reason
    from whatwhere.kernels import twins

    return twins.why_not(mapping) or _why_not_shape(mapping, x)


def _why_not_shape(mapping: Any, x: Tensor) -> str | None:
    """A sentence for what the map itself refuses, and should, in its own words."""
    count, offset = mapping.angles.count, getattr(mapping, "offset", None)
    if not 0 < count * (2 if isinstance(mapping, Rotate) else 1) <= x.shape[-1]:
        return f"{count} frequencies do not fit {x.shape[-1]} channels"
    if offset is not None and offset.dim() == 3 and len(x) % len(offset):
        return f"{len(offset)} models can not share a batch of {len(x)}"
    return None


def mapped(
    mapping: Map | None,
    x: Float[Tensor, "b h n d"],
    positions: Int[Tensor, "#b n"],
    temperature: Float[Tensor, "#b n"] | None = None,
    *,
    by_heads: bool = False,
    interpreter: bool = False,
) -> Float[Tensor, "b h n f"]:
    """Features of x at positions, times the temperature, in x's dtype; None: x as it is.

    Stored in x's order, or, where the kernel makes them, head after head (`by_heads`: whole blocks
    of rows). Gradients flow to x, to δ and to a temperature that is learned.
    """
    if mapping is None:
        return _scaled(x, temperature)
    if why_not(mapping, x, interpreter) is not None:
        return _scaled(mapping(x, positions), temperature)
    from whatwhere.kernels import features as kernel

    inside, outside = _sides(temperature)
    return _scaled(kernel.prepare(mapping, x, positions, None, inside, by_heads)[0], outside)


def features(
    query: Map,
    key: Map,
    q: Float[Tensor, "b h nq d"],
    k: Float[Tensor, "b g nk d"],
    where: Where,
    temperature: Float[Tensor, "#b nq"] | None = None,
    *,
    by_heads: bool = False,
    interpreter: bool = False,
) -> tuple[Float[Tensor, "b h nq f"], Float[Tensor, "b g nk f"]]:
    """Features of queries, times the temperature, and of keys: what a term's score is a product of.

    One launch makes both where they stand at the same positions and one set of angles serves both.
    """
    takes = why_not(query, q, interpreter) is None and why_not(key, k, interpreter) is None
    if where.together and takes:
        from whatwhere.kernels import features as kernel

        if kernel.shared(query, key):
            inside, outside = _sides(temperature)
            q, k = kernel.prepare(query, q, where.q_pos, k, inside, by_heads)
            return _scaled(q, outside), k
    return (
        mapped(query, q, where.q_pos, temperature, by_heads=by_heads, interpreter=interpreter),
        mapped(key, k, where.k_pos, by_heads=by_heads, interpreter=interpreter),
    )


def _sides(temperature: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """What of the temperature the kernel multiplies by, and what stays outside of it: it has no
    gradient of a temperature."""
    learned = temperature is not None and temperature.requires_grad
    return (None, temperature) if learned else (temperature, None)


def _scaled(x: Tensor, temperature: Tensor | None) -> Tensor:
    return x if temperature is None else (x * temperature[:, None, :, None]).to(x.dtype)
