"""torch's scaled_dot_product_attention on mapped queries and keys.

A rule with one term is two maps and ordinary attention. The widths may differ (PoPE's features are
2d wide, its values d): the fused kernels of a CPU and of FlashAttention-2 want equal widths and
fall to the slow math path without a word, so the narrower side is padded with zeros — measured 4.2x
and 3.0x faster forward, 1.7x and 1.4x with the backward, on two CPU cores (kernels.md §8).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from whatwhere.attention import prepared
from whatwhere.attention.backend import Call, repeat_heads
from whatwhere.rule import ScoreRule
from whatwhere.tracing import constant

__all__ = ["Sdpa"]


class Sdpa:
    """One call of F.scaled_dot_product_attention."""

    name = "sdpa"

    def why_not(self, rule: ScoreRule, call: Call) -> str | None:
        """A sentence for rules with several terms or with scores of pairs, else None."""
        if rule.pairwise is not None:
            return rule.pairwise.reason
        if len(rule.cases) > 1:
            return (
                f"the rule has {len(rule.cases)} terms for different regions of pairs, and "
                "scaled_dot_product_attention takes one product for all of them"
            )
        return None

    def __call__(self, rule: ScoreRule, call: Call) -> Float[Tensor, "b h nq dv"]:
        """Attention output, in q's dtype."""
        where, heads, width = call.where, call.q.shape[1], call.v.shape[-1]
        term, temperature = rule.only, rule.temperature(where.q_pos)
        q, k = prepared.features(term.query, term.key, call.q, call.k, where, temperature)
        v = prepared.mapped(rule.value, call.v, where.k_pos)
        q, k, v = _equal_widths(q, repeat_heads(k, heads), repeat_heads(v, heads))
        causal = len(rule.biases) == 0 and where.plain_causal
        mask = None if causal else _mask(rule, call)
        scale = call.scale
        if scale <= 0:
            # torch's CPU kernel masks by -inf before it multiplies: its output would be NaN.
            q, scale = q * scale, 1.0
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=call.dropout, is_causal=causal, scale=scale
        )[..., :width]
        if mask is not None and not where.everything:
            out = _zero_blind_rows(out, call)
        return prepared.mapped(rule.output, out, where.q_pos)


def _equal_widths(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if q.device.type == "cuda" and _cudnn_takes(q, v):
        return q, k, v
    gap = q.shape[-1] - v.shape[-1]
    if gap > 0:
        v = F.pad(v, (0, gap))
    elif gap < 0:
        q, k = F.pad(q, (0, -gap)), F.pad(k, (0, -gap))
    return q, k, v


def _cudnn_takes(q: Tensor, v: Tensor) -> bool:
    # cuDNN runs 128/64 and 256/128 on Hopper without padding (kernels.md §3), in half precision.
    half = q.dtype in (torch.float16, torch.bfloat16)
    hopper = half and torch.cuda.get_device_capability(q.device)[0] >= 9
    return hopper and _cudnn_enabled()


@constant  # torch.compile cannot trace the question: it broke the graph on a GPU
def _cudnn_enabled() -> bool:
    return torch.backends.cuda.cudnn_sdp_enabled()


def _mask(rule: ScoreRule, call: Call) -> Tensor | None:
    """Visibility and biases as one dense mask, made once per forward pass and rule."""
    where = call.where
    if len(rule.biases) == 0:
        return None if where.everything else where.visible()[:, None]
    # Everything that enters the value: a mask of another dtype is read as garbage by the CPU's
    # kernel, one made without gradients would silently take them from a learned bias.
    key = ("mask", rule.biases, call.q.shape[1], call.q.dtype, torch.is_grad_enabled())
    if key not in where.derived:
        bias = rule.bias(call.q.shape[1], where.q_pos, where.k_pos)
        assert bias is not None
        hidden = None if where.everything else ~where.visible()[:, None]
        half = call.q.element_size() == 2
        mask = (_in_reach(bias, hidden) if half else bias).to(call.q.dtype)
        if hidden is not None:
            mask = mask.masked_fill(hidden, float("-inf"))
        where.derived[key] = mask
    return where.derived[key]


def _in_reach(bias: Tensor, hidden: Tensor | None) -> Tensor:
    """Biases less the largest that a query sees, which no softmax notices: where all its keys are
    far, 16 bits hold -250 of ALiBi to 1 only, and float16 nothing below -65,504."""
    seen = bias.detach() if hidden is None else bias.detach().masked_fill(hidden, float("-inf"))
    largest = seen.amax(-1, keepdim=True)
    return bias - torch.where(largest.isfinite(), largest, 0.0)


def _zero_blind_rows(out: Tensor, call: Call) -> Tensor:
    # A query that sees no key (padding) has no softmax: NaN in some of torch's kernels, a mean of
    # all values in others. Here it is 0, forward and backward.
    where = call.where
    if "blind" not in where.derived:
        where.derived["blind"] = ~where.visible().any(dim=-1)[:, None, :, None]
    return out.masked_fill(where.derived["blind"], 0.0)
