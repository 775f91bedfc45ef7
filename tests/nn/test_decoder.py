"""The decoder: Llama's block around any encoding, one set of weights for many expressions."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from conformance.cases import EXACT, FEW, GROUPS, HEADS, STANDALONE, TRAINED, WIDTH, D
from conformance.test_decoding import VOCABULARY, decoder, numbers
from torch import Tensor

from whatwhere.nn import Decoder, DecoderConfig

LENGTH = 19


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def by_hand(model: Decoder, x: Tensor) -> Tensor:
    """A Llama decoder with RoPE, written out from its parameters: nothing of ours is called."""
    state = dict(model.named_parameters())
    n, hidden = x.shape[1], F.embedding(x, state["embedding.weight"])
    theta = 10000.0 ** (-torch.arange(0, D, 2, device=x.device, dtype=hidden.dtype) / D)
    phase = torch.arange(n, device=x.device)[:, None] * theta
    turn = torch.polar(torch.ones_like(phase), phase)

    def rotated(y: Tensor) -> Tensor:
        pairs = torch.complex(*y.chunk(2, -1)) * turn
        return torch.cat((pairs.real, pairs.imag), -1)

    for layer in range(model.config.layers):
        at = {k.split(".", 2)[2]: v for k, v in state.items() if k.startswith(f"blocks.{layer}.")}
        y = rms(hidden, at["attention_norm.weight"])
        q, k, v = (
            (y @ at[f"attention.{name}.weight"].T).unflatten(-1, (heads, D)).transpose(1, 2)
            for name, heads in (("q", HEADS), ("k", GROUPS), ("v", GROUPS))
        )
        if model.config.qk_norm:
            q, k = (rms(z, at[f"attention.{m}_norm.weight"]) for m, z in (("q", q), ("k", k)))
        k, v = (z.repeat_interleave(HEADS // GROUPS, 1) for z in (k, v))
        scores = rotated(q) @ rotated(k).mT / D**0.5
        scores = scores.masked_fill(torch.ones(n, n, device=x.device).triu(1).bool(), -torch.inf)
        out = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        hidden = hidden + out @ at["attention.out.weight"].T
        y = rms(hidden, at["mlp_norm.weight"])
        up = y @ at["mlp.up.weight"].T
        gated = F.silu(y @ at["mlp.gate.weight"].T) * up if "mlp.gate.weight" in at else F.gelu(up)
        hidden = hidden + gated @ at["mlp.out.weight"].T
    head = state.get("head.weight", state["embedding.weight"])
    return rms(hidden, state["norm.weight"]) @ head.T


@pytest.mark.parametrize("activation", ["swiglu", "gelu"])
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_it_is_llama(activation: str, qk_norm: bool, tied: bool, device: torch.device) -> None:
    model = decoder("rope", device, activation=activation, qk_norm=qk_norm, tie_embeddings=tied)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.uniform_(0.5, 1.5)
    x = numbers(LENGTH, device)
    torch.testing.assert_close(model(x), by_hand(model, x), **EXACT)
    assert (model.head.weight is model.embedding.weight) == tied
    assert ("head.weight" in dict(model.named_parameters())) != tied


@pytest.mark.parametrize("text", FEW)
def test_every_parameter_gets_a_gradient(text: str, device: torch.device) -> None:
    """In training, dropout on: none is left out, none is NaN."""
    model = decoder(text, device, dropout=0.1).train()
    x = numbers(LENGTH, device)
    F.cross_entropy(model(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A bias that all scores of a head share (FIRE's last one) moves no softmax.
        assert parameter.grad.abs().max() > (-1 if name.endswith(".out.bias") else 0), name


@pytest.mark.parametrize("text", STANDALONE)
def test_each_layer_has_its_own_parameters_where_it_should(text: str, device: torch.device) -> None:
    model = decoder(text, device)
    first = model.active[0]
    assert len(model.active) == len(model.encodings) == (2 if first.per_layer else 1)
    if first.per_layer and list(first.parameters()):
        x = numbers(LENGTH, device)
        before = model(x)
        with torch.no_grad():  # the second layer's own, not a copy of the first's
            for parameter in model.encodings[1].parameters():
                parameter.mul_(0.5)
        assert (model(x) - before).abs().max() > 1e-6


@pytest.mark.parametrize("trained", ["rope", "pope", "nope"])
@torch.no_grad()
def test_use_shares_the_weights(trained: str, device: torch.device) -> None:
    model = decoder(trained, device)
    x = numbers(3 * TRAINED, device)
    plain, names = model(x), dict(model.named_parameters())
    state = copy.deepcopy(model.state_dict())
    modifiers = ["logn"] if trained == "nope" else ["yarn(factor=3)", "dual_chunk", "rerope+logn"]
    for modifier in modifiers:
        model.use(f"{trained}+{modifier}")
        changed = model(x)
        assert (changed - plain).abs().max() > 1e-6
        own = decoder(f"{trained}+{modifier}", device)
        own.load_state_dict(model.state_dict())
        torch.testing.assert_close(own(x), changed, rtol=0, atol=0)
        assert {k: id(v) for k, v in model.named_parameters()} == {
            k: id(v) for k, v in names.items()
        }
    model.use(model.config.encoding)
    torch.testing.assert_close(model(x), plain, rtol=0, atol=0)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    with pytest.raises(ValueError, match=trained):
        model.use("alibi")


@torch.no_grad()
def test_use_takes_the_factor(device: torch.device) -> None:
    """The default factor of a modifier is what `use` is told; 1 changes nothing."""
    model = decoder("rope", device)
    x = numbers(3 * TRAINED, device)
    plain = model(x)
    model.use("rope+linear", factor=1)
    torch.testing.assert_close(model(x), plain, **EXACT)
    model.use("rope+linear", factor=3)
    found = model(x)
    model.use("rope+linear(factor=3)")
    torch.testing.assert_close(found, model(x), rtol=0, atol=0)
    model.use("rope+linear")  # no factor: the length decides
    torch.testing.assert_close(found, model(x), **EXACT)


@pytest.mark.parametrize("text", ["pope+yarn(factor=4)+dual_chunk", "alibi", "learned", "rope"])
def test_a_used_expression_follows_its_model(text: str) -> None:
    """Casts, copies and the meta device reach the encodings in use."""
    model = decoder(text, torch.device("cpu"))
    x = numbers(LENGTH, torch.device("cpu"))
    with torch.no_grad():
        expected = model(x)
        twin = copy.deepcopy(model)
        torch.testing.assert_close(twin(x), expected, rtol=0, atol=0)
        for parameter in twin.parameters():
            parameter.add_(0.01)
        torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
        empty = copy.deepcopy(model).to("meta").to_empty(device="cpu")
        empty.load_state_dict(model.state_dict())
        torch.testing.assert_close(empty(x), expected, rtol=0, atol=0)
        low = model.bfloat16()(x)
    assert low.dtype == torch.bfloat16
    # Some ten roundings of 2^-9 in a row on the way, each of the size of the logits.
    assert (low - expected).abs().max() < 10 * 2**-8 * expected.abs().max()


def test_training_switches_inverse_leaky(device: torch.device) -> None:
    model = decoder("rope+inverse_leaky_rerope(window=4,stride=2)", device)
    x = numbers(LENGTH, device)
    with torch.no_grad():
        inferring = model(x)
        assert (model.train()(x) - inferring).abs().max() > 1e-6
        model.use("rope")
        torch.testing.assert_close(model.eval()(x), inferring, rtol=0, atol=0)


@pytest.mark.parametrize("text", STANDALONE)
def test_a_config_survives_json(text: str) -> None:
    config = DecoderConfig(
        VOCABULARY, width=WIDTH, layers=3, heads=HEADS, head_dim=D, kv_heads=GROUPS, qk_norm=True,
        activation="gelu", tie_embeddings=False, dropout=0.2, encoding=text, train_length=64,
    )  # fmt: skip
    again = DecoderConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    torch.manual_seed(0)
    one = Decoder(config)
    torch.manual_seed(0)
    other = Decoder(again)
    assert {k: v.shape for k, v in one.state_dict().items()} == {
        k: v.shape for k, v in other.state_dict().items()
    }
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())


def test_dropout_is_off_in_evaluation(device: torch.device) -> None:
    model = decoder("pope", device, dropout=0.5)
    x = numbers(LENGTH, device)
    with torch.no_grad():
        torch.testing.assert_close(model(x), model(x), rtol=0, atol=0)
        model.train()
        assert (model(x) - model(x)).abs().max() > 1e-3


def test_a_failed_step_leaves_the_cache_as_it_was() -> None:
    """A step past a learned table raises; the tokens that it announced must not stay behind."""
    config = DecoderConfig(11, width=16, layers=2, heads=2, encoding="learned", train_length=8)
    model = Decoder(config).eval()
    tokens = torch.randint(11, (2, 9), generator=torch.Generator().manual_seed(0))
    cache = model.new_cache(12)
    model(tokens[:, :6], cache=cache)
    with pytest.raises(ValueError, match="learned table of 8"):
        model(tokens[:, 6:], cache=cache)
    assert len(cache) == 6
    decoded = model(tokens[:, 6:8], cache=cache)
    torch.testing.assert_close(decoded, model(tokens[:, :8])[:, 6:], rtol=0, atol=1e-6)
