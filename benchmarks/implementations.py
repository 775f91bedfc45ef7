"""The table of implementations: each takes raw q, k, v (b, h, n, d) and returns the output.

All start from the same raw vectors in (b, n, h, d) storage and include the encoding. None computes
a table of angles inside the timed call unless its library does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import whatwhere as ww
from benchmarks.cases import DEVICE, Case
from whatwhere.attention import Where, attend, probe
from whatwhere.kernels import features

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Setup:
    """An encoding placed at a case."""

    case: Case
    encoding: Any

    @property
    def scale(self) -> float:
        return self.case.head_dim**-0.5

    @property
    def positions(self) -> Tensor:
        return torch.arange(self.case.length, device=DEVICE)[None]

    def rule(self) -> Any:
        return self.encoding.rule(self.case.length)

    def tables(self) -> tuple[Tensor, Tensor]:
        phase = self.rule().only.key.angles.phase(self.positions)[:, None]
        return phase.cos(), phase.sin()


def setup(encoding: str, case: Case) -> Setup:
    """The encoding with its parameters on the GPU; PoPE's δ is spread over [-2π, 0]."""
    torch.manual_seed(0)
    text = {"rope": "rope", "pope": "pope(delta_init=uniform)"}[encoding]
    made = ww.make(
        text, heads=case.heads, head_dim=case.head_dim, kv_heads=case.kv_heads, width=2048,
        train_length=case.length,
    )  # fmt: skip
    return Setup(case, made.to(DEVICE))


def prepared(kernel: str) -> Callable[[Setup], Attention]:
    """The preparation kernel and one of torch's attention kernels."""

    def build(s: Setup) -> Attention:
        positions = s.positions

        def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k = features.prepare(s.rule().only.query, q, positions, k)
            return probe.run(kernel, q, k, v, True, s.scale)

        return run

    return build


def library(s: Setup) -> Attention:
    """`ww.attend`, backend "fused", positions made once as in a model."""
    n = s.case.length
    where = Where(n, n, device=DEVICE)
    return lambda q, k, v: attend(q, k, v, s.rule(), where=where, backend="fused")


def lean(s: Setup) -> Attention:
    """`library`, keeping raw vectors only and preparing them again in the backward pass."""
    positions = s.positions

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        query = s.rule().only.query
        q_out, k_out = features.prepare(query, q, positions, k)
        with features.prepared_again(query, q, positions, k, (q_out, k_out)):
            return probe.run("cudnn", q_out, k_out, v, True, s.scale)

    return run


@functools.cache
def _rotation() -> Any:
    def turn(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        a, b = x.float().chunk(2, dim=-1)
        return torch.cat((a * cosine - b * sine, b * cosine + a * sine), dim=-1).to(x.dtype)

    return torch.compile(turn, dynamic=False)


def rope_compiled(s: Setup) -> Attention:
    """torch.compile's rotation with tables made beforehand, then cuDNN."""
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

    return torch.compile(expand, dynamic=False)


def pope_expanded(s: Setup) -> Attention:
    """torch.compile's expansion to 2d with tables made beforehand, then cuDNN."""
    cosine, sine = s.tables()

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        expand, delta = _expansion(), s.encoding.bounded_delta()
        q, k = expand(q, cosine, sine, delta), expand(k, cosine, sine, None)
        return probe.run("cudnn", q, k, v, True, s.scale)

    return run


@functools.cache
def _flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def flex(s: Setup) -> Attention:
    """The preparation kernel and FlexAttention's Triton template with a causal block mask."""
    from torch.nn.attention.flex_attention import create_block_mask

    n, positions = s.case.length, s.positions
    mask = create_block_mask(lambda b, h, i, j: j <= i, None, None, n, n, device=DEVICE)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = features.prepare(s.rule().only.query, q, positions, k)
        grouped = s.case.grouped > 1
        return _flex()(q, k, v, block_mask=mask, scale=s.scale, enable_gqa=grouped)

    return run


def package(s: Setup) -> Attention:
    """PoPE-pytorch 0.2.1's fused kernel; it tunes itself, so it is called on one sequence first.

    Its δ stands on the key, per query head, which is the same score without grouped heads.
    """
    from PoPE_pytorch.triton_pope_flash_attn import flash_attn

    if s.case.grouped > 1:
        raise ValueError("its grouped heads are in another order (pope.md §6.1)")
    angles = s.rule().only.key.angles
    phase = angles.phase(s.positions, torch.float64)[0].float()

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        delta = s.encoding.bounded_delta()
        return flash_attn(q, k, v, phase, delta, causal=True, softmax_scale=s.scale).transpose(1, 2)

    shape = (1, s.case.heads, s.case.length, s.case.head_dim)
    one = [
        torch.randn(shape, device=DEVICE, dtype=torch.bfloat16).requires_grad_() for _ in range(3)
    ]
    run(*one).sum().backward()
    s.encoding.zero_grad()
    return run


#: name -> (encoding, builder)
TABLE: dict[str, tuple[str, Callable[[Setup], Attention]]] = {
    "rope_cudnn": ("rope", prepared("cudnn")),
    "rope_compiled_cudnn": ("rope", rope_compiled),
    "rope_fa2": ("rope", prepared("flash")),
    "rope_flex": ("rope", flex),
    "rope_fused": ("rope", library),
    "pope_expand_cudnn": ("pope", pope_expanded),
    "pope_package": ("pope", package),
    "pope_flash": ("pope", prepared("flash")),
    "pope_flex": ("pope", flex),
    "pope_lean": ("pope", lean),
    "pope_fused": ("pope", library),
}
