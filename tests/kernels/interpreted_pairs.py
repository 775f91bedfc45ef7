"""`bounds` and `index_bounds` against every pair looked at, through Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from whatwhere.kernels import pairs as P


@triton.jit
def _ask(out, rows, columns, window, ROWS: tl.constexpr, BLOCK: tl.constexpr, CAUSAL: tl.constexpr,
         WINDOWED: tl.constexpr, FLIP: tl.constexpr):  # fmt: skip
    block = tl.program_id(0)
    low, full_low, full_high, high = P.index_bounds(
        block * ROWS, block * ROWS + ROWS, columns, window, BLOCK, CAUSAL, WINDOWED, FLIP
    )
    tl.store(out + block * 4, low)
    tl.store(out + block * 4 + 1, full_low)
    tl.store(out + block * 4 + 2, full_high)
    tl.store(out + block * 4 + 3, high)
    for step in range(0, high - low):  # every block once
        tl.store(out + 4 * tl.num_programs(0) + P.block_of(step, low, full_low, full_high, high), 1)


def dense(i, j, di, dj, causal, window):
    seen = (di[:, None] == dj[None, :]) & (dj[None, :] >= 0) & (di[:, None] >= 0)
    gap = i[:, None] - j[None, :]
    if causal:
        seen &= gap >= 0
    return seen & (gap.abs() < window)


def check(bounds, seen, block_q, block_k, flip, exact=False):
    """Nothing seen lies outside low..high, everything inside full_low..full_high is seen."""
    if flip:
        seen, block_q, block_k = seen.T, block_k, block_q
    for row, (low, full_low, full_high, high) in enumerate(bounds.tolist()):
        assert low <= full_low <= full_high <= high
        part = seen[row * block_q : (row + 1) * block_q]
        columns = part.any(0).nonzero().flatten() // block_k
        assert ((columns >= low) & (columns < high)).all(), (row, low, high, columns)
        whole = part[:, full_low * block_k : full_high * block_k]
        assert whole.all(), (row, full_low, full_high)
        if exact:
            assert len(columns) == 0 or (low == columns.min() and high == columns.max() + 1)
            count = sum(
                part[:, b * block_k : (b + 1) * block_k].all()
                and (b + 1) * block_k <= seen.shape[1]
                for b in range(low, high)
            )
            if (row + 1) * block_q <= seen.shape[0]:
                assert full_high - full_low == count


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [P.FAR, 1, 7, 20, 64])
@pytest.mark.parametrize(("n", "m"), [(64, 64), (50, 50), (17, 40)])
def test_index_bounds_find_every_seen_pair_and_every_whole_block(n, m, window, causal, flip):
    if causal and n != m:
        pytest.skip("indices are positions for as many queries as keys")
    rows, columns = (m, n) if flip else (n, m)
    row_block, column_block = (8, 16) if flip else (16, 8)
    blocks = -(-rows // row_block)
    out = torch.zeros(blocks * 4 + 64, dtype=torch.int32)
    _ask[(blocks,)](out, rows, columns, window, row_block, column_block, causal,
                    window < P.FAR, flip)  # fmt: skip
    i, j = torch.arange(n), torch.arange(m)
    seen = dense(i, j, i * 0, j * 0, causal, window)
    bounds = out[: blocks * 4].view(blocks, 4)
    check(bounds, seen, 16, 8, flip, exact=n == m)
    visited = out[blocks * 4 :].nonzero().flatten()
    lows, highs = bounds[:, 0], bounds[:, 3]
    wanted = {b for low, high in zip(lows, highs, strict=True) for b in range(low, high)}
    assert set(visited.tolist()) == wanted


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [P.FAR, 5, 40])
@pytest.mark.parametrize("kind", ["packed", "padded", "shuffled", "prefill"])
def test_bounds_of_places_never_miss_a_pair(kind, window, causal, flip):
    torch.manual_seed(0)
    n, m = 100, 100
    i, j = torch.arange(n), torch.arange(m)
    di, dj = torch.zeros_like(i), torch.zeros_like(j)
    if kind == "packed":
        di = dj = torch.tensor([0] * 37 + [1] * 3 + [2] * 60)
        i = j = torch.cat([torch.arange(37), torch.arange(3), torch.arange(60)])
    if kind == "padded":
        dj = torch.where(j < 23, -1, 0)
        i = j = (i - 23).clamp(min=0)
    if kind == "shuffled":
        i, j = torch.randperm(n), torch.randperm(m)
    if kind == "prefill":
        i = i + 1000
        j = torch.cat([torch.arange(60), 1000 + torch.arange(40)])
    place = lambda p, d: torch.stack([p, d])[None].int().contiguous()  # noqa: E731
    pairs = P.Pairs(causal, window, place(i, di), place(j, dj))
    bounds = P.bounds(pairs, 16, 8, flip)
    seen = dense(i, j, di, dj, causal, window)
    check(bounds[0], seen, 16, 8, flip, exact=kind == "padded" and causal and window == P.FAR)
