"""Our kernels on a GPU: queries and keys prepared in one launch, then torch's fastest attention.

The preparation kernel reads raw vectors once and writes features once — softplus, δ, phases exact
at any position, temperature, amplitude — where eager maps make a dozen passes over float32
temporaries. Attention itself runs in cuDNN or FlashAttention at widths (f, d), whichever takes
them (`probe`). Triton is imported here only, inside functions: without it, or without a GPU, the
backend says so and the others compute.
"""

from __future__ import annotations

import importlib.util
import os

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whatwhere.attention import fused_decode, probe
from whatwhere.attention.backend import Call
from whatwhere.maps import Map, Plain
from whatwhere.rule import ScoreRule

__all__ = ["Fused"]

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


class Fused:
    """The preparation kernel and one call of cuDNN or FlashAttention."""

    name = "fused"

    def why_not(self, rule: ScoreRule, call: Call) -> str | None:
        """A sentence for what the kernels do not do (yet), else None."""
        reason = _why_not_here(call)
        if reason is None and fused_decode.why_not(rule, call) is None:
            return None
        reason = reason or _why_not_rule(rule) or _why_not_where(call)
        if reason is not None or call.device.type != "cuda" or call.hypothetical:
            return reason
        widths = _widths(rule, call)
        if probe.chosen(widths) is None:
            tried = "; ".join(f"{name}: {why}" for name, why in probe.reasons(widths).items())
            return (
                f"no kernel of torch takes widths {widths.features}/{widths.values} here ({tried})"
            )
        return None

    def __call__(self, rule: ScoreRule, call: Call) -> Float[Tensor, "b h nq dv"]:
        """Attention output, in q's dtype (under autocast in autocast's)."""
        if fused_decode.why_not(rule, call) is None:
            return fused_decode.decode(rule, call)
        where, dtype = call.where, _dtype(call)
        q, k, v = (x.to(dtype) for x in (call.q, call.k, call.v))
        kernel = probe.chosen(_widths(rule, call)) if call.device.type == "cuda" else None
        # Our own kernel copies blocks of rows: they should lie together.
        q, k = _features(rule, q, k, call, by_heads=kernel == "hopper")
        if rule.value is not None:
            v = _mapped(rule.value, v, where.k_pos)
        out = probe.run(kernel, q, k, v, where.causal, call.scale)
        return out if rule.output is None else _mapped(rule.output, out, where.q_pos)


def _attention(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> Tensor:
    from whatwhere.kernels.attention import attention

    return attention(q, k, v, scale, causal)


def _why_not_attention(widths: probe.Widths) -> str | None:
    if widths.causal and not widths.square:
        return "its causal form wants as many keys as queries"
    from whatwhere.kernels.attention import why_not

    return why_not(widths.features, widths.values, widths.dtype, widths.device)


probe.own(_attention, _why_not_attention)


def _why_not_here(call: Call) -> str | None:
    interpreted = os.environ.get("TRITON_INTERPRET", "0") == "1"
    if call.device.type != "cuda" and (call.hypothetical or not (interpreted and call.named)):
        return f"it needs a CUDA device, and q is on {call.device.type}"
    if torch.version.hip is not None:
        return "its kernels are written for NVIDIA GPUs, and this torch is built for ROCm"
    if _dtype(call) not in _DTYPES:
        return f"its kernels take bfloat16, float16 and float32, and q is {call.q.dtype}"
    return None if call.hypothetical else _why_no_triton()


@torch.compiler.assume_constant_result
def _why_no_triton() -> str | None:
    found = importlib.util.find_spec("triton") is not None
    return None if found else "triton is not installed"


def _why_not_rule(rule: ScoreRule) -> str | None:
    if rule.pairwise is not None:
        return rule.pairwise.reason
    if len(rule.cases) > 1:
        return f"the rule has {len(rule.cases)} terms for different regions of pairs"
    if rule.biases:
        return "it adds no bias to scores yet"
    maps = (rule.only.query, rule.only.key)
    if all(isinstance(each, Plain) for each in maps):
        return "queries and keys enter as they are: there is nothing to prepare"
    from whatwhere.kernels import twins

    reasons = (None if isinstance(each, Plain) else twins.why_not(each) for each in maps)
    return next((reason for reason in reasons if reason is not None), None)


def _why_not_where(call: Call) -> str | None:
    if call.dropout > 0:
        return f"it drops no attention weights, and dropout is {call.dropout}"
    if not (call.where.plain_causal or call.where.everything):
        return (
            "it computes whole sequences, causal or not, and this call has positions of its own "
            "with causality, a window, documents or padding"
        )
    return None


def _widths(rule: ScoreRule, call: Call) -> probe.Widths:
    width = rule.only.key.width(call.k.shape[-1])
    offset = getattr(rule.only.query, "offset", None)
    learned = offset is not None and offset.requires_grad and torch.is_grad_enabled()
    return probe.Widths.of(call, width, _dtype(call), call.needs_grad or learned)


def _dtype(call: Call) -> torch.dtype:
    kind = call.device.type
    if call.q.dtype != torch.float64 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return call.q.dtype


def _features(
    rule: ScoreRule, q: Tensor, k: Tensor, call: Call, by_heads: bool = False
) -> tuple[Tensor, Tensor]:
    """Features of queries and keys, in one launch where one set of angles serves both."""
    from whatwhere.kernels import features

    where, term = call.where, rule.only
    temperature = rule.temperature(where.q_pos)
    plain = isinstance(term.query, Plain) or isinstance(term.key, Plain)
    learned = temperature is not None and temperature.requires_grad
    if where.contiguous and not plain and not learned and features.shared(term.query, term.key):
        return features.prepare(term.query, q, where.q_pos, k, temperature, by_heads)
    q = _mapped(term.query, q, where.q_pos)
    if temperature is not None:
        q = (q * temperature[:, None, :, None]).to(q.dtype)
    return q, _mapped(term.key, k, where.k_pos)


def _mapped(
    mapping: Map, x: Float[Tensor, "b h n d"], positions: Int[Tensor, "#b n"]
) -> Float[Tensor, "b h n f"]:
    from whatwhere.kernels import features, twins

    if isinstance(mapping, Plain) or twins.why_not(mapping) is not None:
        return mapping(x, positions)
    return features.prepare(mapping, x, positions)[0]
