"""Dual Chunk Attention: arXiv 2402.17463 Eqs. 4-7 and Figure 2, and ChunkLlama's constants."""

from __future__ import annotations

from golden.naive import EXACT, close, scores, shown
from golden.test_rope import AT, D, H, K, Q, rope

import whatwhere as ww

C, S = 10, 6  # Figure 2: pretraining length 10, chunk 6, local window 4
FIGURE_2 = f"dual_chunk(chunk={S},train_length={C})"


def paper(i: int, j: int, c: int, s: int) -> int:
    gap = i // s - j // s
    query = i % s if gap == 0 else min(s + i % s, c - 1) if gap == 1 else c - 1
    return query - j % s


def test_figure_2() -> None:
    def row(i: int) -> list[int]:
        return shown(FIGURE_2, [(i, j) for j in range(i + 1)], C)

    assert row(6) == [6, 5, 4, 3, 2, 1, 0]
    assert row(10) == [9, 8, 7, 6, 5, 4, 4, 3, 2, 1, 0]
    assert row(11) == [9, 8, 7, 6, 5, 4, 5, 4, 3, 2, 1, 0]
    successive = shown(FIGURE_2, [(i, 0) for i in range(6, 12)], C)
    assert successive == [6, 7, 8, 9, 9, 9]  # P_succ of the figure: key 0 stands at 0
    assert max(max(row(i)) for i in range(24)) == C - 1


def test_matrix_rule() -> None:
    pairs = [(i, j) for i in range(40) for j in range(i + 1)]
    for c, s in ((10, 6), (16, 12), (9, 4)):
        got = shown(f"dual_chunk(chunk={s},train_length={c})", pairs, c)
        assert got == [paper(i, j, c, s) for i, j in pairs]
        near = [(r, i - j) for r, (i, j) in zip(got, pairs, strict=True) if i - j <= c - s]
        assert all(r == distance for r, distance in near)
        assert all(r <= min(i - j, c - 1) for r, (i, j) in zip(got, pairs, strict=True))


def test_default_chunk_is_three_quarters() -> None:
    """Llama-2: c = 4096, s = 3072; earlier chunks are shown c - 1 minus the key's place."""
    pairs = [(3072, 0), (4095, 0), (4096, 0), (6144, 0), (6144, 3071), (6144, 3072)]
    assert shown("dual_chunk", pairs, 4096) == [3072, 4095, 4095, 4095, 1024, 3072]


def test_equal_to_rope_up_to_the_training_length() -> None:
    enc = ww.make("rope+dual_chunk", heads=H, head_dim=D, train_length=4096)
    assert max(AT) == 4095
    close(scores(enc.rule(), Q, K, AT, causal=True), scores(rope(), Q, K, AT, causal=True), EXACT)


def test_chunkllama_constants() -> None:
    """[code] L = 4096: chunk_size 3072, local 512, stride 2560, plateau at chunk_size = 3072.

    successive min(stride + i mod stride, chunk_size), earlier chunk_size; key j mod stride.
    """

    def code(i: int, j: int) -> int:
        stride, chunk_size = 2560, 3072
        gap = i // stride - j // stride
        inside = i % stride
        query = inside if gap == 0 else min(stride + inside, chunk_size) if gap == 1 else chunk_size
        return query - j % stride

    places = (0, 1, 511, 2559, 2560, 3071, 3072, 3073, 5119, 5120, 9000, 20_000)
    pairs = [(i, j) for i in places for j in places if j <= i]
    got = shown("dual_chunk(constants=chunkllama)", pairs, 4096)
    assert got == [code(i, j) for i, j in pairs]
    # It leaves RoPE at the pair (3073, 0), far below the training length.
    assert shown("dual_chunk(constants=chunkllama)", [(3072, 0), (3073, 0)], 4096) == [3072, 3072]
