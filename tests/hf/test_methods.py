"""Our extension methods are transformers' own, through `rope_parameters`, for all models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hf.models import FEW_KINDS, LENGTH, assert_close, logits, tiny_config, tiny_model, tokens
from transformers import AutoModelForCausalLM

from whatwhere import hf

LONG = LENGTH + 26


def expressions(config: Any) -> dict[str, str]:
    """The five methods of transformers as a user writes them here, for the frequencies it has."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    parameters = config.rope_parameters.get("full_attention", config.rope_parameters)
    count = int(head_dim * parameters.get("partial_rotary_factor", 1.0)) // 2
    short = [1 + 0.1 * i for i in range(count)]
    long = [1 + 0.7 * i for i in range(count)]
    return {
        "linear": "rope+linear(factor=2.5)",
        "dynamic": "rope+dynamic_ntk(factor=2)",
        "yarn": "rope+yarn(factor=4,beta_fast=8)",
        "longrope": f"rope+longrope(short_factor={short},long_factor={long},factor=4)",
        "llama3": "rope+llama3(factor=4)",
    }


def stock_with(model: Any, kind: str, parameters: dict[str, Any], longest: int) -> Any:
    """A plain transformers model with the same weights and these rope_parameters."""
    config = tiny_config(kind, max_position_embeddings=longest, rope_parameters=parameters)
    stock = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    stock.load_state_dict(model.state_dict())
    return stock


@pytest.mark.parametrize("kind", FEW_KINDS)
def test_methods_are_those_of_transformers(kind: str) -> None:
    """A plain model with our encoding, a stock model with its parameters, and `use` of that."""
    model = tiny_model(kind)
    for name, text in expressions(model.config).items():
        if name == "dynamic" and kind == "phi3":
            continue  # its config takes no such type: test_parameters.py sees it refused
        parameters = hf.to_rope_parameters(text, model.config)
        flat = parameters.get("full_attention", parameters)
        assert flat["rope_type"] == ("longrope" if kind == "phi3" else name)
        longest = LENGTH if name in ("linear", "dynamic") else 4 * LENGTH
        stock = stock_with(model, kind, parameters, longest)
        for length in (LENGTH - 14, LONG):
            ids = tokens(2, length)
            expected = logits(stock, ids)
            with hf.use(model, text):
                assert_close(logits(model, ids), expected)
            with hf.use(stock):
                assert_close(logits(stock, ids), expected)
        if name != "longrope":
            assert (logits(model, ids) - expected).abs().max() > 1e-3, "the method is not seen"


@pytest.mark.parametrize(
    ("text", "layers"), [("rope+yarn(factor=4)", 4), ("rope+dynamic_ntk(factor=2)", 1)]
)
def test_decoding_is_one_pass(text: str, layers: int) -> None:
    """transformers keeps keys rotated by an old base (#25104): its cache changes the answer.

    With frequencies that follow the length, deeper layers saw shorter texts while decoding, so one
    layer is where equality holds (design.md, decision 4).
    """
    model, ids = tiny_model("llama", num_hidden_layers=layers), tokens(2, LENGTH - 4)
    with hf.use(model, text):
        cached = model.generate(ids, max_new_tokens=16, do_sample=False)
        whole = model.generate(ids, max_new_tokens=16, do_sample=False, use_cache=False)
    assert torch.equal(cached, whole)


def test_the_cache_of_transformers_changes_the_answer() -> None:
    """The test above can fail: the stock model fails it."""
    dynamic = {"rope_type": "dynamic", "factor": 2.0}
    model, ids = tiny_model("llama", dynamic, num_hidden_layers=1), tokens(2, LENGTH - 4)
    cached = model.generate(ids, max_new_tokens=16, do_sample=False)
    whole = model.generate(ids, max_new_tokens=16, do_sample=False, use_cache=False)
    assert not torch.equal(cached, whole)


def test_phi_3_crosses_its_trained_length_while_it_generates() -> None:
    """The stock model throws its cache away there, to rotate all keys by the long list anew."""
    config = tiny_config("phi3")
    text = expressions(config)["longrope"]
    rope = hf.to_rope_parameters(text, config)
    model = tiny_model("phi3", rope_parameters=rope, max_position_embeddings=4 * LENGTH)
    ids = tokens(2, LENGTH - 5)
    expected = model.generate(ids, max_new_tokens=14, do_sample=False)
    with hf.use(model):
        assert torch.equal(model.generate(ids, max_new_tokens=14, do_sample=False), expected)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
@pytest.mark.parametrize(
    "settings",
    [
        {"prompt_lookup_num_tokens": 3},
        {"prefill_chunk_size": 8},
        {"num_beams": 4, "num_return_sequences": 3},
    ],
    ids=str,
)
def test_other_ways_to_generate(kind: str, settings: dict[str, Any]) -> None:
    """Rejected drafts, prefill in pieces, several answers."""
    model, ids = tiny_model(kind), tokens(1, 21)
    ids = torch.cat((ids, ids[:, :9]), dim=1)  # something to look up
    settings = settings | {"max_new_tokens": 8, "do_sample": False}
    expected = model.generate(ids, **settings)
    with hf.use(model):
        assert torch.equal(model.generate(ids, **settings), expected)
