"""Models side by side: one call of attention gives each what its own call gives."""

from __future__ import annotations

import pytest
import torch

import whatwhere as ww
from whatwhere.attention import attend
from whatwhere.attention.side_by_side import side_by_side
from whatwhere.maps import Polar
from whatwhere.phases import Angles

MODELS, BATCH, HEADS, GROUPS, LENGTH, WIDTH = 3, 2, 4, 2, 9, 8


def made(text: str) -> list[ww.ScoreRule]:
    torch.manual_seed(0)
    shape = {"heads": HEADS, "kv_heads": GROUPS, "head_dim": WIDTH, "width": 32}
    encodings = [ww.make(text, **shape, train_length=16).double() for _ in range(MODELS)]
    for encoding in encodings:
        for parameter in encoding.parameters():
            parameter.data.uniform_(-6.0, -0.1)
    return [encoding.rule(LENGTH) for encoding in encodings]


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
@pytest.mark.parametrize("text", ["pope", "pope+logn"])
def test_each_gets_its_own(text: str, backend: str) -> None:
    rules = made(text)
    joined = side_by_side(rules)
    assert joined is not None
    leaves = [
        torch.randn(MODELS, BATCH, h, LENGTH, WIDTH, dtype=torch.float64, requires_grad=True)
        for h in (HEADS, GROUPS, GROUPS)
    ]
    learned = [rule.only.query.offset for rule in rules]  # type: ignore[attr-defined]
    together = attend(*(x.flatten(0, 1) for x in leaves), joined, backend=backend)
    apart = [
        attend(*(x[each] for x in leaves), rule, backend=backend) for each, rule in enumerate(rules)
    ]
    assert (together - torch.cat(apart)).abs().max() < 1e-12
    grad = torch.randn_like(together)
    ours = torch.autograd.grad(together, [*leaves, *learned], grad, retain_graph=True)
    theirs = torch.autograd.grad(torch.cat(apart), [*leaves, *learned], grad)
    for mine, true in zip(ours, theirs, strict=True):
        assert (mine - true).abs().max() < 1e-12


@pytest.mark.parametrize("text", ["rope", "alibi", "pope(delta_init=none)", "rope+rerope"])
def test_what_learns_no_offset_is_not_joined(text: str) -> None:
    assert side_by_side(made(text)) is None


def test_one_model_is_itself_and_none_is_refused() -> None:
    rule = made("pope")[0]
    assert side_by_side([rule]) is rule
    with pytest.raises(ValueError, match="rules is empty"):
        side_by_side([])


def test_a_batch_that_can_not_be_shared_is_refused() -> None:
    angles = Angles(torch.arange(WIDTH) << 50)
    mapping = Polar(angles, offset=torch.zeros(MODELS, HEADS, WIDTH))
    with pytest.raises(ValueError, match="of 3 models, which can not share a batch of 4"):
        mapping(torch.randn(4, HEADS, LENGTH, WIDTH), torch.arange(LENGTH)[None])
