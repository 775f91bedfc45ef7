"""KERPLE: arXiv 2205.09921, -r1 log(1 + r2 |i-j|) and -r1 |i-j|^r2 on the scores, per head."""

from __future__ import annotations

import math

import torch
from golden.naive import EXACT, close, dot, scores, table, wave

import whatwhere as ww

H, N, D = 3, 6, 4
Q, K = wave(H, N, D, 0.1), wave(H, N, D, 1.1)
R1, R2 = [0.5, 1.25, 1.9], [0.3, 0.75, 0.99]
AT = [0, 1, 2, 40, 41, 500]


def kerple(kernel: str, r1: list[float] = R1, r2: list[float] = R2) -> ww.Encoding:
    enc = ww.make(f"kerple(kernel={kernel})", heads=H, head_dim=D).double()
    with torch.no_grad():
        enc.first.copy_(torch.tensor(r1))
        enc.second.copy_(torch.tensor(r2))
    return enc


def by_loops(kernel: str, r1: list[float], r2: list[float]) -> torch.Tensor:
    def number(h: int, i: int, j: int) -> float:
        r = abs(AT[i] - AT[j])
        penalty = math.log(1 + r2[h] * r) if kernel == "log" else r ** r2[h]
        return dot(Q[0, h, i].tolist(), K[0, h, j].tolist()) / math.sqrt(D) - r1[h] * penalty

    return table(number, H, N, N)


def test_scores_by_loops() -> None:
    for kernel in ("log", "power"):
        expected = by_loops(kernel, *(torch.tensor(r).double().tolist() for r in (R1, R2)))
        close(scores(kerple(kernel).rule(), Q, K, AT), expected, EXACT)


def test_parameters_stay_positive_and_the_power_at_most_two() -> None:
    """The released code clamps at 0.01; the power kernel is conditionally positive up to 2."""
    enc = kerple("power", [-1.0, 0.5, 0.5], [-3.0, 7.0, 1.0])
    expected = by_loops("power", [0.01, 0.5, 0.5], [0.01, 2.0, 1.0])
    close(scores(enc.rule(), Q, K, AT), expected, 125_000 * EXACT)  # 0.5 · 500²
    log = kerple("log", [-1.0, 0.5, 0.5], [-3.0, 7.0, 1.0])
    expected = by_loops("log", [0.01, 0.5, 0.5], [0.01, 7.0, 1.0])
    close(scores(log.rule(), Q, K, AT), expected, EXACT)
