"""What is compared: each takes raw q, k, v (b, h, n, d) and returns the output.

All start from the same raw vectors in (b, n, h, d) storage and include the encoding (`bare_*`
excepted: they are given features). None computes a table of angles inside the timed call unless
its library does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from whatwhere.attention import attend, probe
from whatwhere.bench.setting import DEVICE, DTYPE, Setup

__all__ = ["ANCHORS", "TABLE", "Attention", "Implementation", "recompile_limit"]

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]

#: RoPE with cuDNN, by two rotations: the faster one of a case is what others are divided by.
ANCHORS = ("rope_cudnn", "rope_compiled_cudnn")
OWN = "hopper"  # our attention for Hopper; "tiled" is the one for any GPU


@dataclass(frozen=True)
class Implementation:
    """An encoding, how its attention is built at a setup, and what that wants.

    by_heads: bare features head after head. fast: dq of our own kernels by atomics, wherever they
    can (`kernels.attention.FAST` says where the library does so by itself).
    """

    encoding: str
    build: Callable[[Setup], Attention]
    by_heads: bool = False
    fast: bool = False


def prepared(kernel: str) -> Callable[[Setup], Attention]:
    """The preparation kernel and one of torch's attention kernels by name."""

    def build(s: Setup) -> Attention:
        from whatwhere.kernels import features

        _only_causal(s)
        positions = s.positions

        def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k = features.prepare(s.rule().only.query, q, positions, k)
            return probe.run(kernel, q, k, v, True, s.scale)

        return run

    return build


def own(kernel: str) -> Callable[[Setup], Attention]:
    """Preparation and one of our own attention kernels as one operator, at any mask."""

    def build(s: Setup) -> Attention:
        from whatwhere.attention.fused_pairs import pairs_of
        from whatwhere.kernels.fused_op import fused

        pairs, positions = pairs_of(s.rule(), s.where), s.positions

        def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            term = s.rule().only
            return fused(term.query, term.key, q, k, v, positions, None, s.scale, pairs, kernel)

        return run

    return build


def bare(kernel: str) -> Callable[[Setup], Attention]:
    """One attention kernel over features made beforehand."""

    def build(s: Setup) -> Attention:
        return lambda q, k, v: probe.run(kernel, q, k, v, True, s.scale)

    return build


def library(s: Setup) -> Attention:
    """`ww.attend`, backend "fused", visibility made once as in a model."""
    return lambda q, k, v: attend(q, k, v, s.rule(), where=s.where, backend="fused")


def _only_causal(s: Setup) -> None:
    if s.case.mask != "causal":
        raise ValueError(f"it is called causal only here, not with {s.case.mask}")


def recompile_limit() -> None:
    """No limit to recompilation: beyond torch's eight it would silently run eagerly."""
    config: Any = torch._dynamo.config  # pyright: ignore[reportPrivateUsage]
    config.recompile_limit = config.accumulated_recompile_limit = 4096
    config.fail_on_recompile_limit_hit = True


@functools.cache
def _rotation() -> Any:
    def turn(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        a, b = x.float().chunk(2, dim=-1)
        return torch.cat((a * cosine - b * sine, b * cosine + a * sine), dim=-1).to(x.dtype)

    recompile_limit()
    return torch.compile(turn, dynamic=False)


def rope_compiled(s: Setup) -> Attention:
    """torch.compile's rotation with tables made beforehand, then cuDNN."""
    _only_causal(s)
    cosine, sine = s.tables()

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        turn = _rotation()
        return probe.run("cudnn", turn(q, cosine, sine), turn(k, cosine, sine), v, True, s.scale)

    return run


@functools.cache
def _expansion() -> Any:
    def expand(x: Tensor, cosine: Tensor, sine: Tensor, delta: Tensor | None) -> Tensor:
        size = F.softplus(x.float())
        if delta is not None:
            co, so = delta.cos()[:, None], delta.sin()[:, None]
            cosine, sine = cosine * co + sine * so, sine * co - cosine * so
        return torch.cat((size * cosine, size * sine), dim=-1).to(x.dtype)

    recompile_limit()
    return torch.compile(expand, dynamic=False)


def pope_expanded(s: Setup) -> Attention:
    """torch.compile's expansion to 2d with tables made beforehand, then cuDNN."""
    _only_causal(s)
    cosine, sine = s.tables()

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        expand, delta = _expansion(), s.encoding.bounded_delta()
        q, k = expand(q, cosine, sine, delta), expand(k, cosine, sine, None)
        return probe.run("cudnn", q, k, v, True, s.scale)

    return run


@functools.cache
def _flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    recompile_limit()
    return torch.compile(flex_attention, dynamic=False)


def flex(s: Setup) -> Attention:
    """The preparation kernel and FlexAttention's Triton template, the mask as blocks."""
    from torch.nn.attention.flex_attention import create_block_mask

    from whatwhere.kernels import features

    n, positions = s.case.length, s.positions
    blocks = create_block_mask(_visible(s), None, None, n, n, device=DEVICE)
    options = {"block_mask": blocks, "scale": s.scale, "enable_gqa": s.case.grouped > 1}

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = features.prepare(s.rule().only.query, q, positions, k)
        return _flex()(q, k, v, **options)

    return run


def flex_alibi(s: Setup) -> Attention:
    """FlexAttention with ALiBi as a score_mod; there is nothing to prepare."""
    from torch.nn.attention.flex_attention import create_block_mask

    n, slopes = s.case.length, s.rule().biases[0].slopes  # type: ignore[attr-defined]
    blocks = create_block_mask(_visible(s), None, None, n, n, device=DEVICE)

    def biased(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score - slopes[h] * (i - j)

    options = {"block_mask": blocks, "scale": s.scale, "score_mod": biased}
    return lambda q, k, v: _flex()(q, k, v, **options)


def _visible(s: Setup) -> Callable[..., Tensor]:
    """The mask of the case, of indices (as FlexAttention wants it)."""
    documents, window = s.documents, s.where.window
    number = documents if documents is None else documents[0]

    def seen(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if number is not None:
            return (j <= i) & (number[i] == number[j])
        return j <= i if window is None else (j <= i) & (i - j < window)

    return seen


def package(s: Setup) -> Attention:
    """PoPE-pytorch 0.2.1's fused kernel; it tunes itself, so it is called on one sequence first.

    Its δ stands on the key, per query head, which is the same score without grouped heads.
    """
    from PoPE_pytorch.triton_pope_flash_attn import (  # type: ignore[import-not-found]
        flash_attn,
    )

    _only_causal(s)
    if s.case.grouped > 1:
        raise ValueError("its grouped heads are in another order (pope.md §6.1)")
    angles: Any = s.rule().only.key.angles  # type: ignore[attr-defined]
    phase = angles.phase(s.positions, torch.float64)[0].float()

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        delta = s.encoding.bounded_delta()
        return flash_attn(q, k, v, phase, delta, causal=True, softmax_scale=s.scale).transpose(1, 2)

    shape = (1, s.case.heads, s.case.length, s.case.head_dim)
    one = [torch.randn(shape, device=DEVICE, dtype=DTYPE).requires_grad_() for _ in range(3)]
    run(*one).sum().backward()
    s.encoding.zero_grad()
    return run


TABLE: dict[str, Implementation] = {
    "rope_cudnn": Implementation("rope", prepared("cudnn")),
    "rope_compiled_cudnn": Implementation("rope", rope_compiled),
    "rope_fa2": Implementation("rope", prepared("flash")),
    "rope_flex": Implementation("rope", flex),
    "rope_fused": Implementation("rope", library),
    "rope_own": Implementation("rope", own(OWN)),
    "rope_tiled": Implementation("rope", own("tiled")),
    "pope_expand_cudnn": Implementation("pope", pope_expanded),
    "pope_cudnn": Implementation("pope", prepared("cudnn")),
    "pope_package": Implementation("pope", package),
    "pope_flash": Implementation("pope", prepared("flash")),
    "pope_flex": Implementation("pope", flex),
    "pope_fused": Implementation("pope", library),
    "pope_own": Implementation("pope", own(OWN)),
    "pope_tiled": Implementation("pope", own("tiled")),
    "pope_tiled_fast": Implementation("pope", own("tiled"), fast=True),
    "alibi_fused": Implementation("alibi", library),
    "alibi_flex": Implementation("alibi", flex_alibi),
    "bare_cudnn": Implementation("nope", bare("cudnn")),
    "bare_own": Implementation("nope", bare(OWN), by_heads=True),
}
