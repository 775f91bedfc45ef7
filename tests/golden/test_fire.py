"""FIRE: arXiv 2310.04418, b(i, j) = f(ψ(i - j) / ψ(max(L, i))), ψ(x) = log(c x + 1), f an MLP."""

from __future__ import annotations

import math

import torch
from golden.naive import EXACT, close, dot, scores, table, wave

import whatwhere as ww

H, N, D, WIDTH = 3, 6, 4, 5
Q, K = wave(H, N, D, 0.1), wave(H, N, D, 1.1)
AT = [0, 1, 2, 40, 41, 500]
C, L = 0.25, 32.5


def fire() -> ww.Encoding:
    enc = ww.make(
        f"fire(width={WIDTH},init_slope={C},init_threshold={L})", heads=H, head_dim=D
    ).double()
    with torch.no_grad():
        enc.hidden.weight.copy_(wave(1, WIDTH, 1, 4.0)[0, 0])
        enc.hidden.bias.copy_(wave(1, 1, WIDTH, 5.0)[0, 0, 0])
        enc.out.weight.copy_(wave(1, H, WIDTH, 6.0)[0, 0])
        enc.out.bias.copy_(wave(1, 1, H, 7.0)[0, 0, 0])
    return enc


def test_scores_by_loops() -> None:
    enc = fire()
    w1, b1 = enc.hidden.weight[:, 0].tolist(), enc.hidden.bias.tolist()
    w2, b2 = enc.out.weight.tolist(), enc.out.bias.tolist()

    def psi(x: float) -> float:
        return math.log(C * x + 1)

    def number(h: int, i: int, j: int) -> float:
        if j > i:  # the paper defines causal pairs only
            return float("-inf")
        x = psi(AT[i] - AT[j]) / psi(max(L, AT[i]))
        hidden = [max(0.0, w * x + b) for w, b in zip(w1, b1, strict=True)]
        bias = dot(w2[h], hidden) + b2[h]
        return dot(Q[0, h, i].tolist(), K[0, h, j].tolist()) / math.sqrt(D) + bias

    close(scores(enc.rule(), Q, K, AT, causal=True), table(number, H, N, N), EXACT)


def test_defaults() -> None:
    """Hidden width 32, c = 0.1 and L = 512: section 4.2 and the listing in the appendix."""
    enc = ww.make("fire", heads=H, head_dim=D)
    assert enc.hidden.out_features == 32
    assert (enc.slope.item(), enc.threshold.item()) == (torch.tensor(0.1).item(), 512.0)
