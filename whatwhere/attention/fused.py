"""Our kernels on a GPU: queries and keys prepared in one launch, then the fastest attention.

`prepared` makes features. Attention of whole sequences runs at widths (f, d) in cuDNN,
FlashAttention or our own kernels, whichever is fastest and takes them (`probe`); positions,
documents, padding, windows and ALiBi run in our own. For short sequences one kernel of ours makes
features and attends over them.
Triton is imported here, in its parts and in `prepared` only, inside functions: without it, or
without a GPU, the backend says so and the others compute.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from whatwhere.attention import fused_decode, fused_pairs, prepared, probe
from whatwhere.attention.backend import Call
from whatwhere.maps import Plain
from whatwhere.rule import ScoreRule

__all__ = ["Fused"]


class Fused:
    """The preparation kernel and one call of attention over its features."""

    name = "fused"

    def why_not(self, rule: ScoreRule, call: Call) -> str | None:
        """A sentence for what the kernels do not do (yet), else None."""
        reason = _why_not_here(call)
        if reason is None and fused_decode.why_not(rule, call) is None:
            return None
        reason = reason or _why_not_rule(rule) or _why_not_call(rule, call)
        if reason is not None or call.hypothetical:
            return reason
        return _why_not_widths(_widths(rule, call), call)

    def __call__(self, rule: ScoreRule, call: Call) -> Float[Tensor, "b h nq dv"]:
        """Attention output, in q's dtype (under autocast in autocast's)."""
        if fused_decode.why_not(rule, call) is None:
            return fused_decode.decode(rule, call)
        where, dtype = call.where, _dtype(call)
        q, k, v = (x.to(dtype) for x in (call.q, call.k, call.v))
        v = prepared.mapped(rule.value, v, where.k_pos, interpreter=True)
        kernel = probe.chosen(_widths(rule, call)) if call.device.type == "cuda" else "tiled"
        if kernel in probe.OWN:
            out = _own(rule, q, k, v, call, kernel)
        else:
            q, k = _features(rule, q, k, call)
            out = probe.run(kernel, q, k, v, where.causal, call.scale)
        return prepared.mapped(rule.output, out, where.q_pos, interpreter=True)


def _own(
    rule: ScoreRule, q: Tensor, k: Tensor, v: Tensor, call: Call, kernel: str
) -> Float[Tensor, "b h nq dv"]:
    """Our own attention: one operator that keeps raw vectors, where the maps allow it."""
    from whatwhere.kernels import fused_op
    from whatwhere.kernels.attention import attention

    where, term = call.where, rule.only
    pairs, temperature = fused_pairs.pairs_of(rule, where), rule.temperature(where.q_pos)
    if fused_op.why_not(term.query, term.key, temperature) is None:
        at = None if where.together else where.k_pos
        return fused_op.fused(
            term.query, term.key, q, k, v, where.q_pos, at, call.scale, pairs, kernel, temperature
        )
    # The Hopper kernels copy blocks of rows: they should lie together.
    q, k = _features(rule, q, k, call, by_heads=kernel == "hopper")
    return attention(q, k, v, call.scale, pairs, kernel)


def _attention(
    kernel: str, q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, placed: bool
) -> Tensor:
    """Our own attention of whole sequences, for `probe`."""
    from whatwhere.kernels.attention import attention
    from whatwhere.kernels.pairs import FAR, Pairs

    places: tuple[Tensor | None, Tensor | None] = (None, None)
    if placed:
        i, j = (torch.arange(x.shape[2], device=x.device, dtype=torch.int32) for x in (q, k))
        places = torch.stack((i, i * 0))[None], torch.stack((j, j * 0))[None]
    return attention(q, k, v, scale, Pairs(causal, FAR, *places), kernel)


def _why_not_attention(kernel: str, widths: probe.Widths) -> str | None:
    if widths.causal and not widths.square:
        return "its causal form wants as many keys as queries"
    from whatwhere.kernels import short_sizes
    from whatwhere.kernels.attention import why_not
    from whatwhere.kernels.tiled_sizes import of_device

    device = torch.device("cuda", widths.device)
    reason = why_not(kernel, widths.features, widths.values, widths.dtype, device)
    if reason is None and kernel == "short":
        # The trial of a call with one query or one key is too short to tell.
        wide, size = max(widths.features, widths.values), widths.dtype.itemsize
        reason = short_sizes.why_not(of_device(device), size, wide, probe.SHORT)
    return reason


probe.own(_attention, _why_not_attention)


def _why_not_widths(widths: probe.Widths, call: Call) -> str | None:
    """A sentence if no attention kernel takes these widths on the call's device."""
    if call.device.type == "cuda":
        if probe.chosen(widths) is not None:
            return None
        found = probe.reasons(widths)
    else:
        from whatwhere.kernels.attention import why_not

        reason = why_not("tiled", widths.features, widths.values, widths.dtype, call.device)
        if reason is None:
            return None
        found = {"tiled": reason}
    tried = "; ".join(f"{name}: {why}" for name, why in found.items())
    return f"no attention kernel takes widths {widths.features}/{widths.values} here ({tried})"


def _why_not_here(call: Call) -> str | None:
    interpreter = call.named and not call.hypothetical
    reason = prepared.why_not_here(call.device, _dtype(call), interpreter)
    return reason if reason is not None or call.hypothetical else prepared.why_no_triton()


def _why_not_rule(rule: ScoreRule) -> str | None:
    if rule.pairwise is not None:
        return rule.pairwise.reason
    if len(rule.cases) > 1:
        return f"the rule has {len(rule.cases)} terms for different regions of pairs"
    reason = fused_pairs.why_not(rule)
    if reason is not None:
        return reason
    maps = (rule.only.query, rule.only.key)
    if all(isinstance(each, Plain) for each in maps):
        return None
    from whatwhere.kernels import twins

    reasons = (None if isinstance(each, Plain) else twins.why_not(each) for each in maps)
    return next((reason for reason in reasons if reason is not None), None)


def _why_not_call(rule: ScoreRule, call: Call) -> str | None:
    if call.dropout > 0:
        return f"it drops no attention weights, and dropout is {call.dropout}"
    if call.scale <= 0:
        return f"its kernels take a positive scale, not {call.scale}"
    maps = (rule.only.query, rule.only.key)
    if fused_pairs.plain(rule, call.where) and all(isinstance(each, Plain) for each in maps):
        return "queries and keys enter as they are: there is nothing to prepare"
    return None


def _widths(rule: ScoreRule, call: Call) -> probe.Widths:
    width = rule.only.key.width(call.k.shape[-1])
    offset = getattr(rule.only.query, "offset", None)
    learned = offset is not None and offset.requires_grad and torch.is_grad_enabled()
    return probe.Widths.of(
        call,
        width,
        _dtype(call),
        call.needs_grad or learned,
        plain=fused_pairs.plain(rule, call.where),
    )


def _dtype(call: Call) -> torch.dtype:
    kind = call.device.type
    if kind == "meta":  # torch knows no autocast there, and raises
        return call.q.dtype
    if call.q.dtype != torch.float64 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return call.q.dtype


def _features(
    rule: ScoreRule, q: Tensor, k: Tensor, call: Call, by_heads: bool = False
) -> tuple[Tensor, Tensor]:
    """Features of queries and keys, in one launch where one set of angles serves both."""
    term, temperature = rule.only, rule.temperature(call.where.q_pos)
    return prepared.features(
        term.query, term.key, q, k, call.where, temperature, by_heads=by_heads, interpreter=True
    )
