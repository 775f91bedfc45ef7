"""Models side by side: one call of attention gives each what its own call gives."""

from __future__ import annotations

import pytest
import torch

import whatwhere as ww
from whatwhere.attention import attend
from whatwhere.encodings import Encoding
from whatwhere.maps import Polar
from whatwhere.phases import Angles

MODELS, BATCH, HEADS, GROUPS, LENGTH, WIDTH = 3, 2, 4, 2, 9, 8


def made(text: str) -> list[Encoding]:
    torch.manual_seed(0)
    shape = {"heads": HEADS, "kv_heads": GROUPS, "head_dim": WIDTH, "width": 32}
    encodings = [ww.make(text, **shape, train_length=16).double() for _ in range(MODELS)]
    for encoding in encodings:
        for parameter in encoding.parameters():
            parameter.data.uniform_(-6.0, -0.1)
    return encodings


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
@pytest.mark.parametrize("text", ["pope", "pope(delta_bound=free)", "pope(partial=0.5)"])
def test_each_gets_its_own(text: str, backend: str) -> None:
    first, *others = encodings = made(text)
    joint = first.beside(others)
    assert joint is not None
    leaves = [
        torch.randn(MODELS, BATCH, h, LENGTH, WIDTH, dtype=torch.float64, requires_grad=True)
        for h in (HEADS, GROUPS, GROUPS)
    ]
    rules = [each.rule(LENGTH) for each in encodings]
    together = attend(*(x.flatten(0, 1) for x in leaves), joint.rule(LENGTH), backend=backend)
    apart = [
        attend(*(x[each] for x in leaves), rule, backend=backend) for each, rule in enumerate(rules)
    ]
    assert (together - torch.cat(apart)).abs().max() < 1e-12
    grad, (learned,) = torch.randn_like(together), joint.parameters()
    *ours, shared = torch.autograd.grad(together, [*leaves, learned], grad)
    own = [parameter for each in encodings for parameter in each.parameters()]
    *theirs, one, two, three = torch.autograd.grad(torch.cat(apart), [*leaves, *own], grad)
    for mine, true in zip((*ours, shared), (*theirs, torch.stack((one, two, three))), strict=True):
        assert (mine - true).abs().max() < 1e-12


@pytest.mark.parametrize("text", ["rope", "alibi", "pope(delta_init=none)", "rope+rerope"])
def test_what_learns_nothing_is_one_for_all(text: str) -> None:
    first, *others = made(text)
    assert first.beside(others) is first


@pytest.mark.parametrize("text", ["t5", "learned", "kerple"])
def test_what_no_rule_can_hold_is_not_joined(text: str) -> None:
    first, *others = made(text)
    assert first.beside(others) is None


def test_a_batch_that_can_not_be_shared_is_refused() -> None:
    mapping = Polar(Angles(torch.arange(WIDTH) << 50), offset=torch.zeros(MODELS, HEADS, WIDTH))
    with pytest.raises(ValueError, match="of 3 models, which can not share a batch of 4"):
        mapping(torch.randn(4, HEADS, LENGTH, WIDTH), torch.arange(LENGTH)[None])
