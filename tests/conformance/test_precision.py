"""At lower precision a backend is at most twice as wrong as plain PyTorch, both against float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conformance.cases import FEW, D, make, value_width, vectors
from torch import Tensor

from whatwhere.attention import BACKENDS, Call, Where, attend
from whatwhere.rule import ScoreRule

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LENGTH = 63


def plain(rule: ScoreRule, q: Tensor, k: Tensor, v: Tensor, where: Where, width: int = 0) -> Tensor:
    """What one writes by hand: maps, then torch's attention in q's dtype, each step rounded to it.

    Rules of several terms have no single product: their scores are chosen pair by pair. Features
    and values are padded with zeros to `width` channels, which changes nothing but torch's choice
    of a kernel.
    """
    share = q.shape[1] // k.shape[1]
    i, j = where.q_pos, where.k_pos
    keys = [term.key(k, j).repeat_interleave(share, 1) for term in rule.cases]
    queries = [term.query(q, i) for term in rule.cases]
    factor = rule.temperature(i)
    if factor is not None:
        queries = [(each * factor[:, None, :, None]).to(q.dtype) for each in queries]
    values = rule.map_value(v, j).repeat_interleave(share, 1)
    mask = torch.zeros_like(where.visible(), dtype=q.dtype)[:, None]
    mask = mask.masked_fill(~where.visible()[:, None], float("-inf"))
    bias = rule.bias(q.shape[1], i, j)
    mask = mask if bias is None else mask + bias.to(q.dtype)
    if len(queries) == 1:
        padded = [F.pad(x, (0, max(0, width - x.shape[-1]))) for x in (queries[0], keys[0], values)]
        out = F.scaled_dot_product_attention(*padded, mask, scale=D**-0.5)
        out = out[..., : values.shape[-1]]
    else:
        chosen = rule.term_of(i[:, :, None], j[:, None, :])[:, None]
        scores = torch.zeros_like(mask)
        for number, (query, key) in enumerate(zip(queries, keys, strict=True)):
            scores = torch.where(chosen == number, query @ key.mT * D**-0.5, scores)
        out = torch.softmax(scores + mask, -1) @ values
    return rule.map_output(out, i)


def assert_precise(name: str, text: str, device: torch.device, dtype: torch.dtype) -> None:
    """Fail if the backend's largest error is more than twice that of `plain`."""
    encoding = make(text, device)
    rule = encoding.rule(64)
    if rule.pairwise is not None:
        return  # only the reference computes it, and no two lines of PyTorch do
    rounded = [x.to(dtype) for x in vectors(rule, LENGTH, LENGTH, device)]
    exact = attend(*(x.double() for x in rounded), rule, backend="reference")
    with torch.no_grad():  # parameters stay float32, as under mixed precision
        rule = encoding.float().rule(64)
        where = Where(LENGTH, LENGTH, device=device)
        (backend,) = (backend for backend in BACKENDS if backend.name == name)
        if backend.why_not(rule, Call(*rounded, where, D**-0.5, named=True)) is not None:
            return
        found = attend(*rounded, rule, where=where, backend=name)
        assert found.dtype == dtype
        error = (found.double() - exact).abs().max()
        # Like with like: in float32 a GPU gives widths that are multiples of 4, which `sdpa` makes
        # of ours by padding, to a kernel that is 2.8 times as wrong as the one for other widths
        # (8.6e-7 against 3.1e-7 without any encoding, torch 2.11 on an H200).
        alike = name == "sdpa" and dtype == torch.float32 and device.type == "cuda"
        width = max(rule.only.query.width(D), value_width(rule)) if alike else 0
        usual = (plain(rule, *rounded, where, width).double() - exact).abs().max()
    # Where the usual error is by luck next to nothing: one rounding of the largest output.
    least = torch.finfo(dtype).eps * exact.abs().max()
    assert error <= max(2 * usual, least), f"{error:.2e} against {usual:.2e}"


@pytest.mark.parametrize("text", FEW)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [b.name for b in BACKENDS if b.name != "flex"])
def test_error_is_at_most_twice_pytorchs(
    name: str, text: str, dtype: torch.dtype, device: torch.device
) -> None:
    assert_precise(name, text, device, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_law_can_fail(dtype: torch.dtype, device: torch.device) -> None:
    """Phases in q's own dtype, as a cast module computes them, are seen at once (float32: not)."""
    encoding = make("rope", device)
    rule = encoding.rule(64)
    rounded = [x.to(dtype) for x in vectors(rule, LENGTH, LENGTH, device)]
    where = Where(LENGTH, LENGTH, device=device)
    exact = attend(*(x.double() for x in rounded), rule, where=where, backend="reference")
    usual = (plain(rule, *rounded, where).double() - exact).abs().max()
    theta = torch.tensor(encoding.spectrum(D).inv_freq, device=device).to(dtype)
    phase = torch.arange(LENGTH, device=device).to(dtype)[:, None] * theta

    def turn(x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat((a * phase.cos() - b * phase.sin(), b * phase.cos() + a * phase.sin()), -1)

    q, k, v = rounded
    naive = plain(ScoreRule(), turn(q), turn(k), v, where)
    error = (naive.double() - exact).abs().max()
    assert (error > 2 * usual) == (dtype != torch.float32)


@pytest.mark.parametrize("text", FEW)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_features_are_rounded_once(text: str, dtype: torch.dtype, device: torch.device) -> None:
    """Sines and magnitudes stay float32 up to the end: rounding them first costs three bits.

    A feature is a sum of two products, each in float32, then rounded: half a unit of its last
    place in `dtype`, and some units of 2^-24 of the channels it came from.
    """
    encoding = make(text, device)
    rule = encoding.rule(64)
    single = make(text, device, torch.float32).rule(64)
    where = torch.arange(LENGTH, device=device)[None] * 17
    x = vectors(rule, LENGTH, LENGTH, device)[0].to(dtype)
    for exact_term, term in zip(rule.cases, single.cases, strict=True):
        for exact_map, mapped in ((exact_term.query, term.query), (exact_term.key, term.key)):
            with torch.no_grad():
                exact, found = exact_map(x.double(), where), mapped(x, where)
            size = max(1.0, float(exact.abs().max()))
            bound = torch.finfo(dtype).eps / 2 * exact.abs() + 2e-6 * size
            assert ((found.double() - exact).abs() <= bound).all()
