"""What `use` refuses, each with the reason, and before anything is changed."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from fresh import ROOT
from hf.models import BASE, assert_close, logits, tiny_model, tokens
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

from whatwhere import Unsupported, hf, make

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("llama", num_hidden_layers=2)


def state(model: Any) -> tuple[Any, ...]:
    """What `use` would change."""
    decoder = model.model
    hooks = (len(decoder._forward_pre_hooks), len(decoder._forward_hooks))
    parameters = copy.deepcopy(model.config.rope_parameters)
    return (
        id(decoder.rotary_emb),
        hooks,
        parameters,
        model.config._attn_implementation,
        model.config.max_position_embeddings,
        hasattr(model.config, "whatwhere"),
        "save_pretrained" in vars(model),
    )


REFUSED = {
    "rope+yarm": "did you mean 'yarn'",
    "roope": "did you mean 'rope'",
    "rope+yarn(facto=4)": "did you mean 'factor'",
    "rope+yarn(factor=0.5)": "factor must be",
    "rope+yarn+linear(factor=2)": "both replace the spectrum",
    "rope+yarn": "Give factor=1, or factor='dynamic'",
    "rope(layout=interleaved)": "pairs its channels 'half'",
    "learned": "adds to the token embeddings",
    "sinusoidal": "adds to the token embeddings",
    "": "an encoding is a text",
    "rope+rerope(window=0)": "window is 0",
}


@pytest.mark.parametrize("text", REFUSED)
def test_expressions(model: Any, text: str) -> None:
    before = state(model)
    with pytest.raises(ValueError, match=REFUSED[text]):
        hf.use(model, text)
    assert state(model) == before


def test_other_arguments(model: Any) -> None:
    before = state(model)
    narrow = make("rope", heads=6, kv_heads=3, head_dim=8)
    few = make("rope", heads=4, kv_heads=2, head_dim=16)
    ungrouped = make("rope", heads=6, head_dim=16)
    cases: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        (narrow, {}, ValueError, "head_dim 8, and this model has 16"),
        (few, {}, ValueError, "heads 4, and this model has 6"),
        (ungrouped, {}, ValueError, "kv_heads 6, and this model has 3"),
        (3, {}, TypeError, "encoding is int"),
        ({"full": "rope"}, {}, ValueError, "Known: full_attention"),
        ("rope", {"backend": "flash"}, ValueError, "unknown backend 'flash'"),
        ("rope", {"train_length": 0}, ValueError, "train_length"),
        ("rope+yarn", {"factor": -1.0}, ValueError, "factor"),
    ]
    for encoding, options, error, words in cases:
        with pytest.raises(error, match=words):
            hf.use(model, encoding, **options)
        assert state(model) == before, words
    with hf.use(model), pytest.raises(ValueError, match=r"call hf.undo first"):
        hf.use(model)
    assert state(model) == before


def test_models_that_are_not_covered() -> None:
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2))
    with pytest.raises(ValueError, match=r"unknown model type 'gpt2'.*added to the embedding"):
        hf.use(gpt2)
    with pytest.raises(TypeError, match="no transformers config"):
        hf.use(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="give a transformers model"):
        hf.use("meta-llama/Llama-3.1-8B")  # type: ignore[arg-type]
    both_ways = tiny_model("gemma3_text", num_hidden_layers=2, layer_types=["full_attention"] * 2)
    both_ways.config.use_bidirectional_attention = True
    with pytest.raises(ValueError, match="sees both ways"):
        hf.use(both_ways)


def test_a_scaled_model_is_not_scaled_again() -> None:
    """Methods start from a geometric ladder: on Llama 3.1's own scaling the user has to choose."""
    scaled = tiny_model("llama", {"rope_type": "linear", "factor": 2.0}, num_hidden_layers=1)
    with pytest.raises(ValueError, match="yarn starts from a geometric ladder"):
        hf.use(scaled, "rope+yarn(factor=4)")
    with hf.use(scaled, f"rope+yarn(factor=4,base={BASE})") as handle:
        assert "linear" in handle.expressions["full_attention"]


def test_handles(model: Any) -> None:
    handle = hf.use(model)
    hf.undo(handle)
    with pytest.raises(ValueError, match="undone already"):
        hf.undo(handle)
    with pytest.raises(TypeError, match=r"give what hf.use returned"):
        hf.undo(model)


def test_calls_that_have_no_positions(model: Any) -> None:
    ids = tokens(2, 9)
    filled = DynamicCache(config=model.config)
    logits(model, ids, past_key_values=filled, use_cache=True)
    pairs = torch.zeros(2, 1, 9, 9)
    packed = torch.tensor([[0, 1, 2, 0, 1, 0, 1, 2, 3]])
    mask = torch.ones_like(ids)
    with hf.use(model):
        with pytest.raises(ValueError, match="its keys are rotated already"):
            logits(model, ids[:, :1], past_key_values=filled)
        with pytest.raises(Unsupported, match="attention weights"):
            logits(model, ids, output_attentions=True)
        with pytest.raises(Unsupported, match="mask of pairs"):
            logits(model, ids, attention_mask=pairs)
        with pytest.raises(ValueError, match="drop the mask"):
            logits(model, ids, position_ids=packed.expand(2, -1), attention_mask=mask)
        with pytest.raises(ValueError, match="several axes"):
            logits(model, ids, position_ids=torch.zeros(3, 2, 9, dtype=torch.int64))
        cache = DynamicCache(config=model.config)
        logits(model, ids, position_ids=packed, past_key_values=cache)
        with pytest.raises(ValueError, match="several documents"):
            logits(model, ids[:, :1], past_key_values=cache)
        attention = model.model.layers[0].self_attn
        hidden, ones = torch.zeros(1, 3, 96), torch.ones(1, 3, 16)
        with pytest.raises(RuntimeError, match="called on its own"):
            attention(hidden, position_embeddings=(ones, 0 * ones))


def test_another_attention_while_in_force_is_seen(model: Any) -> None:
    """Stock attention over vectors that nobody turned would be a model without positions."""
    expected = logits(model, tokens())
    handle = hf.use(model)
    model.config._attn_implementation = "eager"
    with pytest.raises(RuntimeError, match=r"Call hf.undo first"):
        logits(model, tokens())
    hf.undo(handle)
    assert_close(logits(model, tokens()), expected, 0.0)


def test_without_transformers() -> None:
    """The error names the extra."""
    script = "import sys; sys.modules['transformers'] = None; import whatwhere.hf"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert "pip install 'whatwhere[hf]'" in done.stderr
