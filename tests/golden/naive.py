"""What the golden files share: inputs by formula, attention by loops, and a probe of distances.

Nothing here knows an encoding, and nothing here is the library's own way to the same number.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

import whatwhere as ww
from whatwhere.attention import Call, Where, reference

#: float64 all the way: phases, products and softmax of sizes below 100 keep twelve digits.
EXACT = 1e-12
#: One rounding to float32 somewhere (tables of biases, frequencies of a released model).
SINGLE = 4 * 2.0**-23


def wave(heads: int, tokens: int, channels: int, start: float, batch: int = 1) -> Tensor:
    """Numbers in [-1, 1] that no axis repeats, the same in every version of torch: (b, h, n, d)."""
    b, h, i, c = torch.meshgrid(
        *(torch.arange(size, dtype=torch.float64) for size in (batch, heads, tokens, channels)),
        indexing="ij",
    )
    return torch.sin(start + 0.9 * b + 0.7 * h + 1.3 * i + 0.37 * c * (1 + h))


def scores(
    rule: ww.ScoreRule,
    q: Tensor,
    k: Tensor,
    q_pos: Sequence[int] | Tensor | None = None,
    k_pos: Sequence[int] | Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """The library's scores of the first row of a batch, (h, nq, nk)."""
    i, j = (None if p is None else torch.as_tensor(p) for p in (q_pos, k_pos))
    where = Where(q.shape[2], k.shape[2], i, i if j is None else j, causal=causal)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return reference.scores(rule, Call(q, k, k, where, scale))[0]


def table(number: Callable[[int, int, int], float], heads: int, rows: int, columns: int) -> Tensor:
    """number(h, i, j) for all heads and pairs of indices, (h, rows, columns)."""
    return torch.tensor(
        [[[number(h, i, j) for j in range(columns)] for i in range(rows)] for h in range(heads)],
        dtype=torch.float64,
    )


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    """Σ a_c b_c."""
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def weights(row: Sequence[float]) -> list[float]:
    """softmax of one row; -inf is invisible."""
    top = max(row)
    grown = [math.exp(x - top) for x in row]
    return [x / math.fsum(grown) for x in grown]


def attention(rows: Tensor, values: Callable[[int, int, int], Sequence[float]]) -> Tensor:
    """Σ_j softmax(rows[h, i])_j values(h, i, j) by loops, (h, nq, dv)."""
    out: list[list[list[float]]] = []
    for h, head in enumerate(rows.tolist()):
        out.append([])
        for i, row in enumerate(head):
            pairs = [(w, values(h, i, j)) for j, w in enumerate(weights(row)) if w > 0]
            width = len(pairs[0][1])
            out[-1].append([math.fsum(w * v[c] for w, v in pairs) for c in range(width)])
    return torch.tensor(out, dtype=torch.float64)


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Raise AssertionError unless shapes agree and all entries are within `tolerance`."""
    assert actual.shape == expected.shape, f"{tuple(actual.shape)} != {tuple(expected.shape)}"
    finite = expected.isfinite()
    assert bool((actual.isfinite() == finite).all()), "infinite or NaN in different places"
    error = (actual.double() - expected.double())[finite].abs().max().item() if finite.any() else 0
    assert error <= tolerance, f"off by {error:.3g}, more than {tolerance:.3g}"


def distances(modifier: str, pairs: Sequence[tuple[int, int]], train_length: int) -> list[float]:
    """The relative position i - j that each pair of positions is *shown* under a modifier of RoPE.

    One frequency of 1e-6 rad per token, q = (1, 0) and k = (0, 1): the score is sin(θ (i - j))/√2,
    signed, and the angle is its arcsine. Exact to 1e-6 tokens over a hundred thousand.
    """
    rate = 1e-6
    enc = ww.make(
        f"rope(spectrum=linear(factor={1 / rate!r}))+{modifier}".replace("e+", "e"),
        heads=1,
        head_dim=2,
        train_length=train_length,
    )
    enc.train()
    i, j = (sorted({pair[side] for pair in pairs}) for side in (0, 1))
    rule = enc.rule(max(i) + 1, training=True)
    assert rule.temperature(torch.tensor([i])) is None, "the probe reads angles, no temperature"
    q = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(1, 1, len(i), 2)
    k = torch.tensor([0.0, 1.0], dtype=torch.float64).expand(1, 1, len(j), 2)
    sines = scores(rule, q, k, i, j, scale=1.0)[0]
    row, column = ({p: index for index, p in enumerate(side)} for side in (i, j))
    return [math.asin(sines[row[a], column[b]]) / rate for a, b in pairs]


def shown(modifier: str, pairs: Sequence[tuple[int, int]], train_length: int) -> list[int]:
    """`distances` of methods that show whole tokens, as integers."""
    exact = distances(modifier, pairs, train_length)
    whole = [round(x) for x in exact]
    assert all(abs(x - y) < 1e-4 for x, y in zip(exact, whole, strict=True)), exact
    return whole


@contextlib.contextmanager
def transformers_in_float64() -> Iterator[None]:
    """Let "float" mean float64: the formula stays transformers', its rounding goes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "float", torch.float64)
        patch.setattr(torch, "float32", torch.float64)
        patch.setattr(Tensor, "float", Tensor.double)
        yield
