"""torch's FlexAttention: biases, masks and regions inside the kernel, compiled on a GPU.

A rule with several terms runs once per term, each over its own region, and the partial results are
merged by their log-sum-exp with one common maximum (gradients flow through the merge; ChunkLlama
detaches its weights and loses part of them, encodings.md §18).
On a CPU torch offers the forward pass only, and no auto choice is made for it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from whatwhere.attention import prepared
from whatwhere.attention.backend import Call, learns
from whatwhere.attention.flex_blocks import block_mask
from whatwhere.attention.where import Where
from whatwhere.maps import Map
from whatwhere.regions import EVERYWHERE, Region
from whatwhere.rule import ScoreRule

__all__ = ["Flex"]

DECODE_ROWS = 16
"""Query rows per KV head up to which torch's kernel for decoding is let in.

It takes all of them as one tile, a power of two of at least 16 rows in two warps, and Inductor
chooses it below 128 queries. Of 6 heads over 3 and 16 channels in float32, compiled by Triton 3.6
for an H200: 16 rows spill nothing, 32 rows 0.5 kB, 64 rows 1.6 kB, 128 rows 13 kB and take the
compiler 37 s (the main kernel: nothing, 4 s); above 128 no configuration is valid at all, and it
raises (torch 2.11 and 2.13).
"""


class Flex:
    """One call of flex_attention per term."""

    name = "flex"

    def why_not(self, rule: ScoreRule, call: Call) -> str | None:
        """A sentence for pairwise scores, biases that are no arithmetic on one pair, dropout, …"""
        if rule.pairwise is not None:
            return rule.pairwise.reason
        for bias in rule.biases:
            if not bias.pointwise:
                return (
                    "the bias sums over features or runs an MLP for each pair, and FlexAttention's "
                    "score_mod computes one number from one pair"
                )
        if call.dropout > 0:
            return f"FlexAttention has no dropout, and dropout is {call.dropout}"
        if call.device.type == "cpu":
            if call.needs_grad or _learns(rule):
                return "on a CPU, FlexAttention computes no gradients"
            if not call.named:
                return "on a CPU, FlexAttention is slower than the dense reference: ask by name"
            if call.q.dtype == torch.float64:
                return "FlexAttention computes in float32 at most, and q is float64"
        elif call.device.type != "cuda":
            return f"FlexAttention has no kernels for device type {call.device.type!r}"
        elif call.q.dtype == torch.float64:
            return "FlexAttention has no float64 kernels on a GPU"
        return None

    def __call__(self, rule: ScoreRule, call: Call) -> Float[Tensor, "b h nq dv"]:
        """Attention output, in q's dtype."""
        where = call.where
        v = prepared.mapped(rule.value, call.v, where.k_pos, by_heads=True)
        temperature = rule.temperature(where.q_pos)
        parts = [
            _one_term(rule, term.query, term.key, term.region, call, v, temperature)
            for term in rule.cases
        ]
        if len(parts) == 1:
            out = parts[0][0]
        else:
            out = _merge(parts).to(call.q.dtype)
        return prepared.mapped(rule.output, out, where.q_pos)


def _learns(rule: ScoreRule) -> bool:
    """Whether a bias, a temperature or a map (PoPE's δ) holds something that wants a gradient."""
    maps = [side for term in rule.cases for side in (term.query, term.key)]
    return learns(*rule.biases, *rule.temperatures, *maps)


def _one_term(
    rule: ScoreRule,
    query: Map,
    key: Map,
    region: Region,
    call: Call,
    v: Tensor,
    temperature: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    where = call.where
    q, k = prepared.features(query, key, call.q, call.k, where, temperature, by_heads=True)
    found = _flex_attention(call)(
        _wide_enough(q),
        _wide_enough(k),
        _wide_enough(v),
        score_mod=_score_mod(rule, where) if rule.biases else None,
        block_mask=_block_mask(where, region),
        scale=call.scale,
        enable_gqa=call.q.shape[1] != call.k.shape[1],
        return_lse=len(rule.cases) > 1,
        kernel_options=_kernel_options(call),
    )
    out, lse = found if len(rule.cases) > 1 else (found, None)
    return out[..., : v.shape[-1]], lse


def _kernel_options(call: Call) -> dict[str, Any] | None:
    """On a GPU, which of torch's kernels: its choice ("AUTO") for few rows, else the main one."""
    if call.device.type != "cuda":
        return None
    if call.q.shape[2] * (call.q.shape[1] // call.k.shape[1]) > DECODE_ROWS:
        return {"BACKEND": "TRITON"}
    # Float32 has no matrix units here: products are written out, 64 keys in two warps. With 512
    # features Triton worked on that for 109 s, and 21 kB were spilled; so it is 19 s and none.
    tile = {"fwd_BLOCK_N": 16, "fwd_num_warps": 4} if call.q.dtype == torch.float32 else {}
    return {"BACKEND": "AUTO"} | tile


def _wide_enough(x: Tensor) -> Tensor:
    """Padded with zeros to 16 channels, the fewest that its GPU kernels take."""
    return F.pad(x, (0, max(0, 16 - x.shape[-1]))).contiguous()


def _merge(parts: list[tuple[Tensor, Tensor | None]]) -> Tensor:
    """Outputs of disjoint regions, weighted by exp(lse) over one common maximum."""
    lse = torch.stack([part[1] for part in parts if part[1] is not None]).float()
    top = lse.amax(dim=0).detach()
    top = torch.where(top.isfinite(), top, 0.0)
    weights = (lse - top).exp()
    weights = weights / weights.sum(dim=0).clamp(min=torch.finfo(torch.float32).tiny)
    outputs = torch.stack([part[0] for part in parts]).float()
    # A term without a visible key in a row gives lse -inf: its weight is 0, not 0 · NaN.
    outputs = torch.where(weights[..., None] > 0, outputs, 0.0)
    return (weights[..., None] * outputs).sum(dim=0)


def _row(tensor: Tensor, b: Tensor) -> Tensor:
    """Index of the row of a (1 or batch, n) tensor for batch element b."""
    return b if tensor.shape[0] > 1 else torch.zeros_like(b)


def _score_mod(rule: ScoreRule, where: Where) -> Callable[..., Tensor]:
    q_pos, k_pos, biases = where.q_pos, where.k_pos, rule.biases

    @no_type_check  # torch tells a score_mod from a mask_mod by its __code__: no wrapper in tests
    def add_biases(score: Tensor, b: Tensor, h: Tensor, qi: Tensor, ki: Tensor) -> Tensor:
        i, j = q_pos[_row(q_pos, b), qi], k_pos[_row(k_pos, b), ki]
        for bias in biases:
            score = score + bias(h, i, j)
        return score

    return add_biases


def _block_mask(where: Where, region: Region) -> Any:
    """The visible pairs inside a region as blocks; made once per call and region."""
    if where.everything and region == EVERYWHERE:
        return None
    if region not in where.derived:
        where.derived[region] = block_mask(_mask_mod(where, region), where, region)
    return where.derived[region]


def _mask_mod(where: Where, region: Region) -> Callable[..., Tensor]:
    q_pos, k_pos = where.q_pos, where.k_pos
    q_documents, k_documents, k_valid = where.q_documents, where.k_documents, where.k_valid

    @no_type_check  # as add_biases
    def visible(b: Tensor, h: Tensor, qi: Tensor, ki: Tensor) -> Tensor:
        i, j = q_pos[_row(q_pos, b), qi], k_pos[_row(k_pos, b), ki]
        seen = where.seen(i, j) & region.contains(i, j)
        if q_documents is not None:
            same = q_documents[_row(q_documents, b), qi] == k_documents[_row(k_documents, b), ki]
            seen = seen & same
        if k_valid is not None:
            seen = seen & k_valid[_row(k_valid, b), ki]
        return seen

    return visible


def _flex_attention(call: Call) -> Any:
    """torch's function, compiled on a GPU unless a compiled graph holds it already."""
    from torch.nn.attention.flex_attention import flex_attention

    if call.device.type != "cuda" or torch.compiler.is_compiling():
        return flex_attention
    return _compiled(flex_attention)


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """That function compiled, once for every rule and shape it meets.

    Beyond 8 of them torch would run it uncompiled, dense, with a warning only: the limit is raised
    here, and reaching it is an error.
    """
    config: Any = import_module("torch._dynamo.config")
    compiled = torch.compile(function)

    def run(*args: Any, **kwargs: Any) -> Any:
        with config.patch(recompile_limit=128, fail_on_recompile_limit_hit=True):
            return compiled(*args, **kwargs)

    return run
