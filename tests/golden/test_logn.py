"""log-n: kexue.fm 8823 (one factor log_L n a call) and 9708 (log_L(i + 1) a query, clipped or not).

Qwen-1's list is [log_L(i) if i > L else 1 for i in 1..32767], indexed by the query's index, so
query p gets log_L(p + 1): the clipped form; its list just ends one entry before 32768.
"""

from __future__ import annotations

import math

import torch
from golden.naive import SINGLE, close, scores, table, wave
from golden.test_rope import AT, D, H, K, N, Q, rope

import whatwhere as ww

L = 64


def logn(form: str, horizon: int | None = None) -> ww.ScoreRule:
    enc = ww.make(f"rope+logn(form={form})", heads=H, head_dim=D, train_length=L)
    return enc.rule(horizon)


def scaled(factor: list[float]) -> torch.Tensor:
    plain = scores(rope(), Q, K, AT)
    return plain * table(lambda h, i, j: factor[i], H, N, N)


def test_forms_by_loops() -> None:
    per_query = [math.log(p + 1) / math.log(L) for p in AT]
    assert per_query[0] == 0  # a model trained without it would lose its first token's scores
    close(scores(logn("unclipped"), Q, K, AT), scaled(per_query), 4 * SINGLE)
    clipped = [max(1.0, x) for x in per_query]
    close(scores(logn("clipped"), Q, K, AT), scaled(clipped), 4 * SINGLE)


def test_one_factor_per_call() -> None:
    got = scores(logn("length", 4096), Q, K, AT)
    close(got, scaled([math.log(4096) / math.log(64)] * N), 4 * SINGLE)
    assert math.isclose(math.log(4096) / math.log(64), 2.0, rel_tol=1e-15)
    close(scores(logn("length", 7), Q, K, AT), scaled([1.0] * N), 4 * SINGLE)


def test_qwen_list() -> None:
    qwen = [math.log(i, L) if i > L else 1 for i in range(1, 32768)]
    assert len(qwen) == 32767
    places = [0, L - 2, L - 1, L, 1000, 32766]
    tau = logn("clipped").temperature(torch.tensor([places]))
    close(tau[0], torch.tensor([qwen[p] for p in places], dtype=torch.float64), SINGLE)


def test_bias_is_not_scaled() -> None:
    """The temperature stands on the product only: the penalty of ALiBi stays."""
    enc = ww.make("alibi+logn(form=unclipped)", heads=H, head_dim=D, train_length=L)
    zero = wave(H, 2, D, 0.0) * 0
    got = scores(enc.rule(), zero, zero, [100, 7])
    assert got[0, 0, 1].item() == -93 * 2**-4  # two heads: slopes 2^-4 and 2^-8
