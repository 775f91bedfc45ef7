"""What an encoding learns and says of itself: gradients, effects, serialization."""

from __future__ import annotations

import copy
import json
import warnings

import pytest
import torch
from conformance.cases import (
    ALL,
    CONTEXT,
    FEW,
    KINDS,
    SHAPE,
    VARIANTS,
    WIDTH,
    layer,
    make,
    project,
    tokens,
)
from torch import Tensor

from whatwhere.attention import attend
from whatwhere.encodings import Encoding, build, from_dict, parse

LENGTH = 13
pytestmark = pytest.mark.usefixtures("unchecked")  # thousands of calls; checked where made once
#: Added to every score of a head alike, which a softmax does not see. Scores do change.
UNSEEN = {("fire", "out.bias")}


def output(encoding: Encoding, device: torch.device) -> Tensor:
    """Of one layer; on a GPU by torch's deterministic forms, so that equal means equal bits.

    Shaw's sums of weights over equal distances are atomic there (`scatter_add`), in any order. What
    has no deterministic form (cumsum) only warns, and has given the same bits.
    """
    at = torch.arange(LENGTH, device=device) * 3
    before = torch.are_deterministic_algorithms_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.use_deterministic_algorithms(before or device.type == "cuda", warn_only=True)
        try:
            return layer(encoding, tokens(LENGTH, device), at, 3 * LENGTH, training=True)
        finally:
            torch.use_deterministic_algorithms(before)


@pytest.mark.parametrize("text", ALL)
@torch.no_grad()
def test_an_encoding_survives_json_and_text(text: str, device: torch.device) -> None:
    encoding = make(text, device)
    again = from_dict(json.loads(json.dumps(encoding.to_dict()))).to(device).double()
    assert again.to_dict() == encoding.to_dict()
    assert repr(again) == repr(encoding)
    again.load_state_dict(encoding.state_dict())
    torch.testing.assert_close(output(again, device), output(encoding, device), rtol=0, atol=0)
    parsed = parse(text)
    assert parse(str(parsed)) == parsed
    assert str(parse(parsed.text)) == parsed.text
    rebuilt = build(parse(parsed.text), SHAPE, CONTEXT)
    assert rebuilt.to_dict() == encoding.to_dict()


@pytest.mark.parametrize("text", KINDS)
@torch.no_grad()
def test_a_rule_is_pure(text: str, device: torch.device) -> None:
    """Asking for a rule, at any horizon, changes nothing that the next one would see."""
    encoding = make(text, device)
    before = output(encoding, device)
    held = {key: value.clone() for key, value in encoding.named_buffers()}
    for horizon in (500, 12, 64):
        encoding.rule(horizon)
        encoding.rule(horizon, training=True)
    for key, value in encoding.named_buffers():
        assert torch.equal(value, held[key]), key
    torch.testing.assert_close(output(encoding, device), before, rtol=0, atol=0)
    torch.testing.assert_close(output(copy.deepcopy(encoding), device), before, rtol=0, atol=0)


LEARNING = [text for text in KINDS if list(build(text, SHAPE, CONTEXT).parameters())]


@pytest.mark.parametrize("text", LEARNING)
@torch.no_grad()
def test_every_parameter_changes_the_output(text: str, device: torch.device) -> None:
    """One number at a time: an instance with other parameters is another encoding."""
    encoding = make(text, device)
    before = output(encoding, device)
    for name, parameter in encoding.named_parameters():
        changed = copy.deepcopy(encoding)
        dict(changed.named_parameters())[name].mul_(0.8)
        moved = (output(changed, device) - before).abs().max()
        if (text.split("(")[0], name) in UNSEEN:
            assert moved < 1e-9
            rules = encoding.rule(64), changed.rule(64)
            at = torch.arange(LENGTH, device=device)[None]
            one, other = (rule.bias(SHAPE.heads, at, at) for rule in rules)
            moved = (one - other).abs().max()
        assert moved > 1e-6, name
        assert parameter.requires_grad


@pytest.mark.parametrize("text", dict.fromkeys((*FEW, *VARIANTS)))
def test_gradients_are_derivatives(text: str, device: torch.device) -> None:
    """Numerical derivatives of one layer, embedding included, in float64 (in random directions)."""
    encoding = make(text, device)
    rule = encoding.rule(40)
    at = torch.tensor([0, 3, 4, 21], device=device)
    raw = project(encoding, rule, tokens(4, device, batch=1), at)
    x = tokens(4, device, batch=1).requires_grad_()
    q, k, v = (part.detach().clone().requires_grad_() for part in (raw.q, raw.k, raw.v))
    learned = dict(encoding.named_parameters())

    def run(q: Tensor, k: Tensor, v: Tensor, x: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        with_values = dict(zip(learned, values, strict=True))
        return torch.func.functional_call(
            _Layer(encoding),
            {f"encoding.{name}": value for name, value in with_values.items()},
            (q, k, v, x, at),
        )

    assert torch.autograd.gradcheck(run, (q, k, v, x, *learned.values()), fast_mode=True)


class _Layer(torch.nn.Module):
    """Attention on given vectors and the embedding, as a function of the encoding's parameters."""

    def __init__(self, encoding: Encoding) -> None:
        super().__init__()
        self.encoding = encoding

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, x: Tensor, at: Tensor
    ) -> tuple[Tensor, Tensor]:
        rule = self.encoding.rule(40, training=True)
        out = attend(q, k, v, rule, q_pos=at, k_pos=at, backend="reference")
        return out, self.encoding.embed(x, at[None])


@pytest.mark.parametrize("text", FEW)
@torch.no_grad()
def test_embed_takes_shared_and_own_positions(text: str, device: torch.device) -> None:
    """(1, n) for all rows and (batch, n) for each; integers never pass through x's dtype."""
    encoding = make(text, device)
    x = tokens(LENGTH, device)
    start = 100_003 if encoding.max_length is None else 100
    at = torch.arange(start, start + LENGTH, device=device)[None]
    rows = torch.cat((at, at.flip(1)))
    shared, own = encoding.embed(x, at), encoding.embed(x, rows)
    assert shared.shape == own.shape == (2, LENGTH, WIDTH)
    torch.testing.assert_close(own[:1], encoding.embed(x[:1], at), rtol=0, atol=0)
    torch.testing.assert_close(own[1:], encoding.embed(x[1:], at.flip(1)), rtol=0, atol=0)
    torch.testing.assert_close(shared, encoding.embed(x, torch.cat((at, at))), rtol=0, atol=0)
    low = encoding.float().embed(x.bfloat16(), at)
    assert low.dtype == torch.bfloat16
    # Two roundings to bf16: of x, and of the sum.
    assert (low.double() - shared).abs().max() <= 2 * 2**-8 * (x.abs().max() + shared.abs().max())
