"""ALiBi: transformers' Bloom and MPT slopes live, and the official column form under the softmax.

arXiv 2108.12409 section 3 and footnote 10: softmax(q K^T / √d + m · [-(i-1), …, -1, 0]).
"""

from __future__ import annotations

import math

import pytest
import torch
from golden.naive import SINGLE, close, dot, scores, table, wave

import whatwhere as ww
from whatwhere.encodings import alibi

H, N, D = 12, 9, 4
Q, K, V = wave(H, N, D, 0.1), wave(H, N, D, 1.1), wave(H, N, D, 2.1)
#: Of 12 heads: the slopes of 8, then every second one of 16 until there are 12.
SLOPES = [2.0**-h for h in range(1, 9)] + [2.0 ** (h - 1.5) for h in (1, 0, -1, -2)]


def test_bloom_live() -> None:
    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    for heads in range(1, 113):
        rows = bloom.build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)[:, 0]
        close(torch.tensor(alibi.slopes(heads)), rows[:, 1] - rows[:, 0], SINGLE)


def test_mpt_live() -> None:
    mpt = pytest.importorskip("transformers.models.mpt.modeling_mpt")
    for heads in range(1, 113):
        rows = mpt.build_mpt_alibi_tensor(heads, 2)[:, 0]
        close(torch.tensor(alibi.slopes(heads)), rows[:, 1] - rows[:, 0], SINGLE)


def test_frozen_slopes() -> None:
    """The paper's 8 heads, and 12 heads of the two-part rule: 8 of them, then of 16."""
    assert alibi.slopes(8) == (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256)
    assert alibi.slopes(12) == pytest.approx(SLOPES, rel=1e-15)


def test_scores_by_loops() -> None:
    """Distance on both sides of the diagonal, not scaled by 1/√d."""
    rule = ww.make("alibi", heads=H, head_dim=D).rule()
    at = [0, 1, 5, 6, 30, 31, 32, 99, 100]

    def number(h: int, i: int, j: int) -> float:
        product = dot(Q[0, h, i].tolist(), K[0, h, j].tolist()) / math.sqrt(D)
        return product - SLOPES[h] * abs(at[i] - at[j])

    close(scores(rule, Q, K, at), table(number, H, N, N), 100 * SINGLE)


def test_column_form_under_causal_softmax() -> None:
    """What the released code adds is slope · column: rows differ by a constant only."""
    rule = ww.make("alibi", heads=H, head_dim=D).rule()
    columns = torch.tensor(SLOPES).double()[:, None, None] * torch.arange(N)
    plain = Q @ K.mT / math.sqrt(D) + columns
    plain = plain.masked_fill(torch.ones(N, N).triu(1).bool(), float("-inf"))
    close(ww.attend(Q, K, V, rule), plain.softmax(-1) @ V, N * SINGLE)


def test_on_half_the_heads() -> None:
    """8 heads: the slopes of 4 on the first four (every second one of 8), NoPE on the others."""
    rule = ww.make("alibi(heads=0.5)", heads=8, head_dim=D).rule()
    golden = [1 / 4, 1 / 16, 1 / 64, 1 / 256, 0, 0, 0, 0]
    assert alibi.slopes(8)[1::2] == tuple(golden[:4])
    q, k = wave(8, N, D, 0.1), wave(8, N, D, 1.1)
    at = [0, 1, 5, 6, 30, 31, 32, 99, 100]

    def number(h: int, i: int, j: int) -> float:
        product = dot(q[0, h, i].tolist(), k[0, h, j].tolist()) / math.sqrt(D)
        return product - golden[h] * abs(at[i] - at[j])

    close(scores(rule, q, k, at), table(number, 8, N, N), 100 * SINGLE)


@pytest.mark.parametrize(("share", "count"), [(0.25, 3), (0.5, 6), (0.99, 11), (1, 12)])
def test_a_share_of_the_heads(share: float, count: int) -> None:
    """Rounded down; the rest has slope 0, after a cast of the model too."""
    made = ww.make(f"alibi(heads={share})", heads=H, head_dim=D).to(torch.bfloat16)
    assert made.slopes.tolist() == pytest.approx([*alibi.slopes(count), *[0] * (H - count)])
    assert made.to_dict()["options"] == {"heads": share}


@pytest.mark.parametrize("share", [0, 1.5, 0.05])
def test_no_share_of_the_heads(share: float) -> None:
    with pytest.raises(ValueError, match="heads of alibi is"):
        ww.make(f"alibi(heads={share})", heads=H, head_dim=D)
