"""What `attend` refuses before anything is computed, each with the argument and what would fit."""

from __future__ import annotations

import torch
from torch import Tensor

from whatwhere.attention.backend import Call
from whatwhere.errors import kind_of
from whatwhere.rule import ScoreRule

__all__ = ["check_rule", "check_vectors"]

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_vectors(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise TypeError or ValueError unless q, k and v are vectors of one attention call."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} is {kind_of(x)}; give a tensor")
        if x.dim() != 4:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}; give (batch, heads, tokens, channels)"
            )
        if 0 in x.shape:
            raise ValueError(f"{name} has shape {tuple(x.shape)}: an empty axis; give 1 or more")
        if x.dtype not in _DTYPES:
            raise TypeError(f"{name} has dtype {x.dtype}; give float64, 32, 16 or bfloat16")
        if x.dtype != q.dtype:
            raise TypeError(f"{name} has dtype {x.dtype} and q {q.dtype}; give one dtype")
        if x.device != q.device:
            raise ValueError(f"{name} is on {x.device} and q on {q.device}: move one of them")
        # Reading a value on a GPU would stall the stream, and a compiled graph would break.
        watched = x.device.type == "cpu" and not torch.compiler.is_compiling()
        if watched and bool(x.detach().sum().isnan()):
            raise ValueError(f"{name} contains NaN (or opposite infinities); attention would too")
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q has {q.shape[-1]} channels and k {k.shape[-1]}; they must agree")
    if k.shape[1:3] != v.shape[1:3]:
        raise ValueError(f"k is {tuple(k.shape)}, v {tuple(v.shape)}; heads and tokens must agree")
    if q.shape[0] != k.shape[0] or k.shape[0] != v.shape[0]:
        raise ValueError(f"batches differ: q {q.shape[0]}, k {k.shape[0]}, v {v.shape[0]}")
    if q.shape[1] % k.shape[1]:
        raise ValueError(
            f"{q.shape[1]} query heads over {k.shape[1]} KV heads: the first must be a multiple"
        )


def check_rule(rule: ScoreRule, call: Call) -> None:
    """Raise TypeError for what is no rule, ValueError if it was made for other heads or widths."""
    if not isinstance(rule, ScoreRule):
        raise TypeError(
            f"rule is {kind_of(rule)}; give a ScoreRule: encoding.rule(horizon), not the encoding"
        )
    heads, channels = call.q.shape[1], call.q.shape[-1]
    if rule.heads not in (None, heads):
        raise ValueError(f"q has {heads} heads, and the rule was made for {rule.heads}")
    if rule.head_dim not in (None, channels):
        raise ValueError(f"q has {channels} channels, and the rule was made for {rule.head_dim}")
    if rule.value_dim not in (None, call.v.shape[-1]):
        width = call.v.shape[-1]
        raise ValueError(f"v has {width} channels, and the rule was made for {rule.value_dim}")
