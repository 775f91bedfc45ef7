"""The reference is the formula: pair by pair, one vector at one position each.

score[h,i,j] = τ(i) · <Q_r(q[h,i], i), K_r(k[h,j], j)> / √d  +  b(h,i,j)
"""

from __future__ import annotations

import math

import pytest
import torch
from conformance.cases import ALL, BATCH, EXACT, GROUPS, HEADS, KINDS, D, make, value_width, vectors
from torch import Tensor

from whatwhere.attention import Call, Where, attend
from whatwhere.attention.reference import scores
from whatwhere.maps import Map
from whatwhere.rule import ScoreRule

# In no order, with gaps, further apart than every window and chunk; rows differ.
Q_POS = ((3, 40, 0, 17), (9, 21, 22, 60))
K_POS = ((17, 0, 41, 3, 12), (60, 2, 21, 23, 8))
SHARE = HEADS // GROUPS


def one(mapped: Map, x: Tensor, position: int) -> Tensor:
    """Features of the vectors x (heads, d) of one token at one position."""
    return mapped(x[None, :, None], torch.tensor([[position]], device=x.device))[0, :, 0]


def by_pairs(rule: ScoreRule, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention without a batched operation on positions."""
    out = q.new_zeros(*q.shape[:3], v.shape[-1])
    for b in range(q.shape[0]):
        for t, i in enumerate(Q_POS[b]):
            seen = [(s, j) for s, j in enumerate(K_POS[b]) if j <= i]
            features = {s: pair_features(rule, q[b, :, t], k[b, :, s], i, j) for s, j in seen}
            for h in range(HEADS):
                scores = [float(features[s][h]) + bias(rule, h, i, j, q) for s, j in seen]
                top = max(scores, default=0.0)
                weights = [math.exp(score - top) for score in scores]
                for (s, j), weight in zip(seen, weights, strict=True):
                    value = v[b, h // SHARE, s]
                    if rule.value is not None:
                        value = one(rule.value, value[None], j)[0]
                    out[b, h, t] += weight / sum(weights) * value
            if rule.output is not None:
                out[b, :, t] = one(rule.output, out[b, :, t], i)
    return out


def pair_features(rule: ScoreRule, q: Tensor, k: Tensor, i: int, j: int) -> Tensor:
    """τ(i) <Q(q, i), K(k, j)> / √d of every head, by the one term whose region holds the pair."""
    at = torch.tensor([[i]], device=q.device)
    (term,) = (t for t in rule.cases if t.region.contains(at, torch.full_like(at, j)))
    query, key = one(term.query, q, i), one(term.key, k, j)
    temperature = math.prod(float(factor(at)) for factor in rule.temperatures)
    return torch.stack([query[h] @ key[h // SHARE] for h in range(HEADS)]) * temperature / D**0.5


def bias(rule: ScoreRule, h: int, i: int, j: int, like: Tensor) -> float:
    head, at, key = (torch.tensor(value, device=like.device) for value in (h, i, j))
    return sum(float(each(head, at, key)) for each in rule.biases)


@pytest.mark.parametrize("text", ALL)
@torch.no_grad()
def test_reference_is_the_formula(text: str, device: torch.device) -> None:
    rule = make(text, device).rule(64)
    if rule.pairwise is not None:
        pytest.skip("scores of pairs have their own numbers in tests/golden")
    q, k, v = vectors(rule, 4, 5, device)
    found = attend(
        q,
        k,
        v,
        rule,
        q_pos=torch.tensor(Q_POS, device=device),
        k_pos=torch.tensor(K_POS, device=device),
        backend="reference",
    )
    # Biases and temperatures are float32 numbers, which one at a time round like all at once.
    torch.testing.assert_close(found, by_pairs(rule, q, k, v), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("text", KINDS)
@pytest.mark.parametrize("backend", ["reference", "auto"])
@torch.no_grad()
def test_grouped_heads_are_repeated_heads(text: str, backend: str, device: torch.device) -> None:
    """Query head h reads KV head h // (heads / groups), as in Hugging Face; not h mod groups."""
    rule = make(text, device).rule(64)
    q, k, v = vectors(rule, 13, 13, device)
    found = attend(q, k, v, rule, backend=backend)
    repeated = [x.repeat_interleave(SHARE, dim=1) for x in (k, v)]
    torch.testing.assert_close(found, attend(q, *repeated, rule, backend=backend), **EXACT)
    tiled = [x.repeat(1, SHARE, 1, 1) for x in (k, v)]
    assert (found - attend(q, *tiled, rule, backend=backend)).abs().max() > 1e-2


@pytest.mark.parametrize("text", KINDS)
@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_a_query_that_sees_nothing_gives_zero(
    text: str, backend: str, device: torch.device
) -> None:
    """And no gradient: torch's kernels give NaN there, or the mean of all values."""
    encoding = make(text, device)
    rule = encoding.rule(64)
    q, k, v = vectors(rule, 13, 13, device, grad=True)
    q_pos = torch.arange(13, device=device)
    k_valid = torch.ones(BATCH, 13, dtype=torch.bool, device=device)
    k_valid[1] = False
    # Row 0: keys begin at 5, so that queries 0..4 are blind; row 1: every key is padding.
    out = attend(q, k, v, rule, q_pos=q_pos, k_pos=q_pos + 5, k_valid=k_valid, backend=backend)
    assert out.shape == (*q.shape[:3], value_width(rule))
    blind = torch.zeros(BATCH, 13, dtype=torch.bool, device=device)
    blind[0, :5] = blind[1] = True
    rows = out.transpose(1, 2)
    assert (rows[blind] == 0).all()
    assert (rows[~blind].abs().amax(dim=(-1, -2)) > 1e-3).all()
    out.square().sum().backward()
    for name, tensor in {"q": q, "k": k, "v": v, **dict(encoding.named_parameters())}.items():
        assert tensor.grad is None or tensor.grad.isfinite().all(), name
    assert (q.grad.transpose(1, 2)[blind] == 0).all()


@pytest.mark.parametrize("text", KINDS)
@torch.no_grad()
def test_the_scale_multiplies_products_alone(text: str, device: torch.device) -> None:
    """1/√d by default, d the head's own channels; a bias is not scaled (ALiBi, footnote 10)."""
    rule = make(text, device).rule(64)
    if rule.pairwise is not None and getattr(rule.pairwise, "causal_only", False):
        pytest.skip("CoPE's gates are a function of the scaled scores")
    q, k, v = vectors(rule, 13, 13, device)
    where = Where(13, 13, causal=False, device=device)

    def at(scale: float) -> Tensor:
        return scores(rule, Call(q, k, v, where, scale))

    torch.testing.assert_close(at(0.7) - at(0.0), 7 * (at(0.1) - at(0.0)), **EXACT)
    default = attend(q, k, v, rule)
    torch.testing.assert_close(default, attend(q, k, v, rule, scale=D**-0.5), rtol=0, atol=0)
    assert (default - attend(q, k, v, rule, scale=0.9)).abs().max() > 1e-3
