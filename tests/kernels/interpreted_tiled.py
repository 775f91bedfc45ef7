"""The plain Triton attention kernels against float64, through Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from whatwhere.kernels import delta, tiled_launch
from whatwhere.kernels import pairs as P
from whatwhere.kernels.tiled_sizes import Sizes, Tile

SCALE = 0.17


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.to(dtype)


def place(position: Tensor, document: Tensor | int) -> Tensor:
    document = torch.as_tensor(document, device=position.device)
    position, document = torch.broadcast_tensors(position, document)
    return torch.stack([position, document], -2).reshape(-1, 2, position.shape[-1]).int()


def dense(q: Tensor, k: Tensor, v: Tensor, pairs: P.Pairs) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp by the definition, any dtype."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    n, m = q.shape[2], k.shape[2]
    i_place = pairs.q_place if pairs.placed else place(torch.arange(n, device=q.device), 0)
    j_place = pairs.k_place if pairs.placed else place(torch.arange(m, device=q.device), 0)
    i, j = i_place[:, 0, :, None].long(), j_place[:, 0, None, :].long()
    seen = i_place[:, 1, :, None] == j_place[:, 1, None, :]
    if pairs.causal:
        seen = seen & (j <= i)
    seen = seen & ((i - j).abs() < pairs.window)
    s = q @ k.mT * SCALE
    if pairs.slopes is not None:
        s = s - pairs.slopes.to(s.dtype)[:, None, None] * (i - j).abs()[:, None]
    s = s.masked_fill(~seen[:, None], float("-inf"))
    blind = ~seen.any(-1)[:, None, :, None]
    w = s.masked_fill(blind, 0.0).softmax(-1).masked_fill(blind, 0.0)
    return w @ v, s.logsumexp(-1).masked_fill(blind[..., 0], float("inf"))


def calls() -> dict[str, tuple[int, int, P.Pairs]]:
    """Lengths and pairs: every way of saying who sees whom."""
    n = 50
    positions = torch.arange(n)
    documents = torch.tensor([0] * 20 + [1] * 3 + [2] * 27)
    inside = torch.cat([torch.arange(20), torch.arange(3), torch.arange(27)])
    packed = place(inside, documents)
    valid = torch.ones(2, n, dtype=torch.bool)
    valid[1, :21] = False
    padded = (valid.cumsum(1) - 1).clamp(min=0)
    shuffled = [torch.randperm(n, generator=torch.Generator().manual_seed(s)) for s in (1, 2)]
    slopes = torch.tensor([0.5, 0.1])
    far = place(positions + 2_000_000_000, 0)
    return {
        "causal": (n, n, P.Pairs()),
        "one token": (1, 1, P.Pairs()),
        "everything": (37, n, P.EVERYTHING),
        "window": (n, n, P.Pairs(window=7)),
        "wide window": (n, n, P.Pairs(window=33)),
        "window of both sides": (n, n, P.Pairs(causal=False, window=18)),
        "alibi": (n, n, P.Pairs(slopes=slopes)),
        "alibi of both sides": (20, 20, P.Pairs(causal=False, slopes=slopes)),
        "packed": (n, n, P.Pairs(True, P.FAR, packed, packed)),
        "packed, window, alibi": (n, n, P.Pairs(True, 6, packed, packed, slopes)),
        "left-padded": (n, n, P.Pairs(True, P.FAR, place(padded, 0),
                                      place(padded, torch.where(valid, 0, -1)))),
        "padding on both sides": (n, n, P.Pairs(False, P.FAR, place(padded, 0),
                                                place(positions, torch.where(valid, 0, -1)))),
        "shuffled": (n, n, P.Pairs(True, 30, place(shuffled[0], 0), place(shuffled[1], 0))),
        "prefill": (9, n, P.Pairs(True, P.FAR, place(positions[-9:], 0), place(positions, 0))),
        "prefill, alibi": (9, n, P.Pairs(True, P.FAR, place(positions[-9:] + 1000, 0),
                                         place(positions * 20, 0), slopes)),
        "far positions": (n, n, P.Pairs(True, 12, far, far, slopes)),
        "rows that see nothing": (n, n, P.Pairs(True, P.FAR, place(positions, 0),
                                                place(positions + 25, 0))),
        "nobody sees anything": (5, 20, P.Pairs(True, P.FAR, place(torch.arange(5), 0),
                                                place(torch.arange(20), -1))),
    }  # fmt: skip


CALLS = calls()
TILES = {
    "wide rows": Sizes(*[Tile(32, 16, 1, 1)] * 4),
    "wide columns": Sizes(*[Tile(16, 32, 1, 1)] * 4),
}
# Float32 against float64: sums of 50 weights and 96 channels; a wrong mask is off by 1e-2.
LIMIT = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}


def error(got: Tensor, wanted: Tensor) -> float:
    assert got.isfinite().all()
    wanted = wanted.detach()
    return float((got.double() - wanted).norm() / wanted.norm().clamp(min=1.0))


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel leaves unwritten is NaN."""
    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, _nan(getattr(torch, name)))
    monkeypatch.setattr(Tensor, "new_empty", _nan(Tensor.new_empty))


def _nan(make):  # type: ignore[no-untyped-def]
    def made(*args, **options):  # type: ignore[no-untyped-def]
        x = make(*args, **options)
        return x.fill_(float("nan")) if x.is_floating_point() else x

    return made


def compare(pairs: P.Pairs, q: Tensor, k: Tensor, v: Tensor, sizes: Sizes | None) -> None:
    """Output, log-sum-exp and both backward passes against the definition in float64."""
    limit = LIMIT[q.dtype]
    exact = [x.double().requires_grad_() for x in (q, k, v)]
    wanted, wanted_lse = dense(*exact, pairs)
    grad = draw(*wanted.shape, seed=9, dtype=q.dtype)
    truths = torch.autograd.grad(wanted, exact, grad.double())
    out, lse = tiled_launch.forward(q, k, v, SCALE, pairs, sizes)
    assert error(out, wanted) < limit
    blind = wanted_lse == float("inf")
    assert torch.equal(lse == float("inf"), blind)
    gap = lse.double().masked_fill(blind, 0.0) - wanted_lse.masked_fill(blind, 0.0)
    assert gap.abs().max() < 5 * limit
    for deterministic in (True, False):
        got = tiled_launch.backward(
            grad, q, k, v, out, lse, SCALE, pairs, deterministic=deterministic, sizes=sizes
        )
        for name, mine, true, like in zip(("dq", "dk", "dv"), got, truths, (q, k, v), strict=True):
            assert mine.dtype == like.dtype
            assert mine.stride() == tiled_launch.like(like).stride()
            assert error(mine, true) < limit, (name, deterministic)


#: Variants of what the others cover: five seconds each, with -m slow.
ALSO = {
    "everything",
    "wide window",
    "window of both sides",
    "padding on both sides",
    "far positions",
}


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=[pytest.mark.slow] if x in ALSO else []) for x in CALLS]
)
def test_every_kind_of_pairs(name: str) -> None:
    n, m, pairs = CALLS[name]
    tiles = list(TILES)[list(CALLS).index(name) % 2]
    q, k, v = draw(2, 2, n, 24, seed=1), draw(2, 1, m, 24, seed=2), draw(2, 1, m, 10, seed=3)
    compare(pairs, q, k, v, TILES[tiles])


@pytest.mark.parametrize(
    ("f", "dv", "dtype"),
    [(192, 96, torch.float32), (96, 96, torch.bfloat16), (20, 10, torch.float16),
     (16, 33, torch.bfloat16)],
)  # fmt: skip
def test_widths_and_dtypes(f: int, dv: int, dtype: torch.dtype) -> None:
    """Widths that are no powers of two, in (b, n, h, width) storage, sliced out of wider rows."""
    q, k, v = (
        draw(1, 35, h, width + 8, seed=h, dtype=dtype).transpose(1, 2)[..., 8:]
        for h, width in ((2, f), (1, f), (1, dv))
    )
    compare(P.Pairs(), q, k, v, None)


def test_row_sums_reach_beyond_32_bits() -> None:
    """Rows of a block, even those that do not exist, are up to 63 · 2^26 values away: it wrapped
    (the quick interpreter refuses to), at half a million tokens of 4,096 channels."""
    x = draw(16).as_strided((1, 1, 1, 16), (16, 16, 2**26, 1))
    sums = torch.full((1, 1, 1), float("nan"))
    steps = x.stride()[:3]
    delta.delta[(1, 1)](x, x, steps, steps, sums, 1, 1, 16, WIDTH=16, BLOCK=64)
    torch.testing.assert_close(sums.sum(), (x * x).sum())


def test_groups_of_heads_and_channels_that_are_not_neighbours() -> None:
    n, m, pairs = CALLS["packed, window, alibi"]
    pairs = replace(pairs, slopes=torch.tensor([0.5, 0.1, 0.3, 0.7]))
    q, k, v = (draw(2, h, w, t, seed=h).mT for h, w, t in ((4, 8, n), (2, 8, m), (2, 8, m)))
    compare(pairs, q, k, v, None)
