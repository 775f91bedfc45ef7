"""RoPE: the complex formula by loops, and three released rotations called live.

arXiv 2104.09864: score_ij = Re Σ_c q_c conj(k_c) e^(I (i-j) θ_c) / √d, q_c = q_(2c) + I q_(2c+1).
Live from transformers: Llama (halves), Cohere and GPT-J (interleaved, "rotate every two").
"""

from __future__ import annotations

import cmath
import math
from types import SimpleNamespace

import pytest
import torch
from golden.naive import (
    EXACT,
    attention,
    close,
    scores,
    table,
    transformers_in_float64,
    wave,
)

import whatwhere as ww

H, N, D = 2, 7, 6
Q, K, V = wave(H, N, D, 0.1), wave(H, N, D, 1.1), wave(H, N, D, 2.1)
AT = [0, 1, 2, 3, 50, 51, 4095]
BASE = 10000.0


def rope(text: str = "rope", head_dim: int = D) -> ww.ScoreRule:
    return ww.make(text, heads=H, head_dim=head_dim).rule()


def pairs(layout: str, d: int = D) -> list[tuple[int, int]]:
    half = [(c, c + d // 2) for c in range(d // 2)]
    return half if layout == "half" else [(2 * c, 2 * c + 1) for c in range(d // 2)]


def product(
    q: list[float], k: list[float], distance: int, layout: str, theta: list[float]
) -> float:
    """Re Σ q conj(k) e^(I distance θ)."""
    return math.fsum(
        (complex(q[a], q[b]) * complex(k[a], -k[b]) * cmath.exp(1j * distance * t)).real
        for (a, b), t in zip(pairs(layout, len(q)), theta, strict=True)
    )


def ladder(d: int = D, base: float = BASE) -> list[float]:
    return [base ** (-2 * c / d) for c in range(d // 2)]


def by_loops(layout: str, theta: list[float]) -> torch.Tensor:
    def number(h: int, i: int, j: int) -> float:
        q, k = Q[0, h, i].tolist(), K[0, h, j].tolist()
        return product(q, k, AT[i] - AT[j], layout, theta) / math.sqrt(D)

    return table(number, H, N, N)


def test_complex_formula_by_loops() -> None:
    for layout in ("half", "interleaved"):
        close(scores(rope(f"rope(layout={layout})"), Q, K, AT), by_loops(layout, ladder()), EXACT)


def test_frozen_numbers() -> None:
    """d = 4: θ = 1, 1/100. Halves pair (0, 2) and (1, 3), positions 3 and 1."""
    q = torch.tensor([1.0, 2.0, 3.0, 4.0]).double()[None, None, None]
    k = torch.tensor([0.5, -1.0, 2.0, 0.25]).double()[None, None, None]
    got = scores(ww.make("rope", heads=1, head_dim=4).rule(), q, k, [3], [1], scale=1.0).item()
    # (1+3I)(0.5-2I) = 6.5-0.5I turned by 2 rad, (2+4I)(-1-0.25I) = -1-4.5I by 0.02 rad.
    expected = 6.5 * math.cos(2) + 0.5 * math.sin(2) - math.cos(0.02) + 4.5 * math.sin(0.02)
    assert math.isclose(got, expected, abs_tol=EXACT)
    assert math.isclose(got, -3.160111730690164, abs_tol=1e-12)


def _config(d: int, **more: object) -> SimpleNamespace:
    return SimpleNamespace(
        head_dim=d,
        hidden_size=H * d,
        num_attention_heads=H,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": BASE, **more},
    )


def test_llama_live() -> None:
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    with transformers_in_float64():
        tables = llama.LlamaRotaryEmbedding(_config(D))(Q, torch.tensor([AT]))
        q, k = llama.apply_rotary_pos_emb(Q, K, *tables)
    close(scores(rope(), Q, K, AT), (q @ k.mT)[0] / math.sqrt(D), EXACT)


def test_cohere_live() -> None:
    cohere = pytest.importorskip("transformers.models.cohere.modeling_cohere")
    with transformers_in_float64():
        tables = cohere.CohereRotaryEmbedding(_config(D))(Q, torch.tensor([AT]))
        q, k = cohere.apply_rotary_pos_emb(Q, K, *tables)
    got = scores(rope("rope(layout=interleaved)"), Q, K, AT)
    close(got, (q @ k.mT)[0] / math.sqrt(D), EXACT)


def test_gptj_live() -> None:
    gptj = pytest.importorskip("transformers.models.gptj.modeling_gptj")
    phase = torch.tensor([[[p * t for t in ladder()] for p in AT]], dtype=torch.float64)
    turned = [
        gptj.apply_rotary_pos_emb(x.transpose(1, 2), phase.sin(), phase.cos()).transpose(1, 2)
        for x in (Q, K)
    ]
    got = scores(rope("rope(layout=interleaved)"), Q, K, AT)
    close(got, (turned[0] @ turned[1].mT)[0] / math.sqrt(D), EXACT)


def test_layouts_are_a_permutation_of_channels() -> None:
    """interleaved(x) scores as half(P x), P the even/odd de-interleave that conversions apply."""
    order = [*range(0, D, 2), *range(1, D, 2)]
    close(
        scores(rope("rope(layout=interleaved)"), Q, K, AT),
        scores(rope(), Q[..., order], K[..., order], AT),
        EXACT,
    )


def test_position_zero_is_the_identity() -> None:
    close(scores(rope(), Q, K, [0] * N), scores(ww.ScoreRule(), Q, K), EXACT)


def test_far_positions_keep_their_phase() -> None:
    """A million tokens on, float32 phases p · θ are off by 6e-2 rad; the distance decides alone."""
    rule, q, k = rope(), Q.float(), K.float()
    far = [p + 1_000_000 for p in AT]
    # Phases good to 1e-4 rad on both sides, times Σ |q_c| |k_c| / √d.
    bound = 2e-4 * (Q.norm(dim=-1).max() * K.norm(dim=-1).max()).item() / math.sqrt(D)
    close(scores(rule, q, k, far), by_loops("half", ladder()), bound)


def test_attention_by_loops() -> None:
    causal = scores(rope(), Q, K, AT, causal=True)
    expected = attention(causal, lambda h, i, j: V[0, h, j].tolist())
    at = torch.tensor(AT)
    close(ww.attend(Q, K, V, rope(), q_pos=at, k_pos=at)[0], expected, EXACT)
