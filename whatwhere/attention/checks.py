"""What `attend` refuses before anything is computed, each with the argument and what would fit."""

from __future__ import annotations

import torch
from torch import Tensor

from whatwhere.errors import kind_of
from whatwhere.rule import ScoreRule
from whatwhere.tracing import transformed

__all__ = ["check_heads", "check_rule", "check_vector", "check_vectors"]

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_AXES = "(batch, heads, tokens, channels)"


def check_vectors(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise TypeError or ValueError unless q, k and v are vectors of one attention call."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        check_vector(name, x, q)
        # Reading a value on a GPU would stall the stream, a compiled graph would break, and inside
        # torch.vmap there is none.
        watched = x.device.type == "cpu" and not (torch.compiler.is_compiling() or transformed())
        if watched and bool(x.detach().sum().isnan()):
            raise ValueError(f"{name} contains NaN (or opposite infinities); attention would too")
    check_heads(q, k, v)
    if q.shape[0] != k.shape[0] or k.shape[0] != v.shape[0]:
        raise ValueError(f"batches differ: q {q.shape[0]}, k {k.shape[0]}, v {v.shape[0]}")


def check_vector(name: str, x: Tensor, q: Tensor, axes: str = _AXES) -> None:
    """Raise TypeError or ValueError unless x has four axes, q's dtype and q's device."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is {kind_of(x)}; give a tensor")
    if x.is_nested or x.layout != torch.strided:
        what = "nested" if x.is_nested else x.layout
        raise TypeError(f"{name} is a {what} tensor; give a dense one, padded (k_valid) or packed")
    if x.dim() != 4:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; give {axes}")
    if 0 in x.shape:
        raise ValueError(f"{name} has shape {tuple(x.shape)}: an empty axis; give 1 or more")
    if x.dtype not in _DTYPES:
        raise TypeError(f"{name} has dtype {x.dtype}; give float64, 32, 16 or bfloat16")
    if x.dtype != q.dtype:
        raise TypeError(f"{name} has dtype {x.dtype} and q {q.dtype}; give one dtype")
    if x.device != q.device:
        raise ValueError(f"{name} is on {x.device} and q on {q.device}: move one of them")


def check_heads(q: Tensor, k: Tensor, v: Tensor, names: tuple[str, str] = ("k", "v")) -> None:
    """Raise ValueError unless channels of q and k, tokens of k and v, and heads of all fit."""
    key, value = names
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q has {q.shape[-1]} channels and {key} {k.shape[-1]}; they must agree")
    if k.shape[1:3] != v.shape[1:3]:
        raise ValueError(
            f"{key} is {tuple(k.shape)}, {value} {tuple(v.shape)}; heads and tokens must agree"
        )
    if q.shape[1] % k.shape[1]:
        raise ValueError(
            f"{q.shape[1]} query heads over {k.shape[1]} KV heads: the first must be a multiple"
        )


def check_rule(rule: ScoreRule, q: Tensor, v: Tensor) -> None:
    """Raise TypeError for what is no rule, ValueError if it was made for other heads or widths."""
    if not isinstance(rule, ScoreRule):
        raise TypeError(
            f"rule is {kind_of(rule)}; give a ScoreRule: encoding.rule(horizon), not the encoding"
        )
    # No `in`: compiled with dynamic=True, sizes are symbols, which it finds equal to nothing.
    heads, channels = q.shape[1], q.shape[-1]
    if rule.heads is not None and rule.heads != heads:
        raise ValueError(f"q has {heads} heads, and the rule was made for {rule.heads}")
    if rule.head_dim is not None and rule.head_dim != channels:
        raise ValueError(f"q has {channels} channels, and the rule was made for {rule.head_dim}")
    if rule.value_dim is not None and rule.value_dim != v.shape[-1]:
        width = v.shape[-1]
        raise ValueError(f"v has {width} channels, and the rule was made for {rule.value_dim}")
