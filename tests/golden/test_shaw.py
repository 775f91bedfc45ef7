"""Shaw et al.: arXiv 1803.02155, Eqs. 3-5, pair by pair.

e_ij = q_i · (k_j + w^K[clip(j - i, -k, k)]) / √d, z_i = Σ_j α_ij (v_j + w^V[clip(j - i, -k, k)]);
row r + k of a table holds distance r, as in tensor2tensor (distance = key - query).
"""

from __future__ import annotations

import math

import torch
from golden.naive import EXACT, attention, close, dot, scores, table, wave

import whatwhere as ww

H, N, D, CLIP = 3, 7, 4, 2
Q, K, V = wave(H, N, D, 0.1), wave(H, N, D, 1.1), wave(H, N, D, 2.1)


def shaw(options: str = "") -> ww.Encoding:
    enc = ww.make(f"shaw(clip={CLIP}{options})", heads=H, head_dim=D).double()
    with torch.no_grad():
        for number, parameter in enumerate(enc.parameters()):
            parameter.copy_(wave(*parameter.shape, start=3.0 + number)[0])
    return enc


def _clipped(i: int, j: int) -> int:
    return max(-CLIP, min(CLIP, j - i)) + CLIP


def test_scores_by_loops() -> None:
    for options in ("", ",tables=shared"):
        enc = shaw(options)

        def number(h: int, i: int, j: int, rows: torch.Tensor = enc.keys) -> float:
            extra = rows[h % len(rows), _clipped(i, j)]
            return dot(Q[0, h, i].tolist(), (K[0, h, j] + extra).tolist()) / math.sqrt(D)

        close(scores(enc.rule(), Q, K), table(number, H, N, N), EXACT)


def test_outputs_by_loops() -> None:
    for options in ("", ",sides=values", ",sides=keys"):
        enc = shaw(options)
        causal = scores(enc.rule(), Q, K, causal=True)

        def value(h: int, i: int, j: int, rows: torch.Tensor | None = enc.values) -> list[float]:
            extra = 0.0 if rows is None else rows[h, _clipped(i, j)]
            return (V[0, h, j] + extra).tolist()

        close(ww.attend(Q, K, V, enc.rule())[0], attention(causal, value), EXACT)


def test_positions_decide_not_indices() -> None:
    enc = shaw()
    i, j = [0, 4, 9, 10], [3, 2, 8, 50, 10]

    def number(h: int, a: int, b: int) -> float:
        extra = enc.keys[h, _clipped(i[a], j[b])]
        return dot(Q[0, h, a].tolist(), (K[0, h, b] + extra).tolist()) / math.sqrt(D)

    close(scores(enc.rule(), Q[:, :, :4], K[:, :, :5], i, j), table(number, H, 4, 5), EXACT)


def test_identities() -> None:
    plain = scores(ww.ScoreRule(), Q, K)
    enc = shaw()
    with torch.no_grad():
        one = enc.keys[:, :1].clone()
        enc.keys.copy_(one.expand_as(enc.keys))
        shifted = scores(enc.rule(), Q, K) - plain
        close(shifted, shifted[:, :, :1].expand_as(shifted), EXACT)  # a constant per row
        enc.keys.zero_()
        enc.values.zero_()
    close(scores(enc.rule(), Q, K), plain, EXACT)
    close(ww.attend(Q, K, V, enc.rule()), ww.attend(Q, K, V), EXACT)
