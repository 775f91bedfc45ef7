"""A whole released model: transformers' LlamaForCausalLM, tiny and random, called live in float64.

Its queries and keys before rotation, caught at the projections, give the model's own attention
weights under our rule, for every rope type that it knows by configuration.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden.naive import close, transformers_in_float64
from torch import Tensor

import whatwhere as ww

transformers = pytest.importorskip("transformers")

HEADS, GROUPS, D, N, TRAINED = 6, 3, 8, 37, 16
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "default": ({}, "rope"),
    "linear": ({"factor": 4.0}, "rope+linear(factor=4)"),
    "dynamic": ({"factor": 2.0}, f"rope+dynamic_ntk(factor=2,train_length={TRAINED})"),
    "yarn": (
        {"factor": 4.0, "original_max_position_embeddings": TRAINED},
        f"rope+yarn(factor=4,train_length={TRAINED})",
    ),
    "llama3": (
        {
            "factor": 4.0,
            "original_max_position_embeddings": TRAINED,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        },
        f"rope+llama3(factor=4,train_length={TRAINED})",
    ),
}


def llama(rope_type: str, parameters: dict[str, Any]) -> Any:
    longer = "original_max_position_embeddings" in parameters
    config = transformers.LlamaConfig(
        vocab_size=17,
        hidden_size=HEADS * D,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=GROUPS,
        max_position_embeddings=4 * TRAINED if longer else TRAINED,
        rope_parameters={"rope_type": rope_type, "rope_theta": 10000.0, **parameters},
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def caught(model: Any, tokens: Tensor) -> tuple[list[dict[str, Tensor]], tuple[Tensor, ...]]:
    """Queries, keys and values of each layer before rotation, and the attention weights."""
    layers: list[dict[str, Tensor]] = []
    for layer in model.model.layers:
        seen: dict[str, Tensor] = {}
        layers.append(seen)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):

            def keep(module: Any, args: Any, out: Tensor, name: str = name, at: Any = seen) -> None:
                at[name] = args[0] if name == "o_proj" else out

            getattr(layer.self_attn, name).register_forward_hook(keep)
    out = model(tokens, output_attentions=True, use_cache=False)
    return layers, out.attentions


@pytest.mark.parametrize("rope_type", CASES)
def test_attention_of_the_model(rope_type: str) -> None:
    parameters, text = CASES[rope_type]
    tokens = torch.arange(N)[None] ** 2 % 17
    with transformers_in_float64(), torch.no_grad():
        layers, released = caught(llama(rope_type, parameters), tokens)
    rule = ww.make(text, heads=HEADS, head_dim=D, kv_heads=GROUPS).rule(N)
    for seen, expected in zip(layers, released, strict=True):
        q, k, v = (
            seen[name].unflatten(-1, (-1, D)).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        eye = torch.eye(N).double().expand(1, GROUPS, N, N)
        # Values of 1 at one key give the weights. "dynamic" divides the length in float32.
        close(ww.attend(q, k, eye, rule), expected, 1e-7 if rope_type == "dynamic" else 1e-9)
        out = ww.attend(q, k, v, rule).transpose(1, 2).flatten(2)
        close(out, seen["o_proj"], 1e-6 if rope_type == "dynamic" else 1e-8)


def test_the_cases_differ() -> None:
    """A check of five equal models would prove nothing."""
    tokens = torch.arange(N)[None] ** 2 % 17
    with transformers_in_float64(), torch.no_grad():
        released = [caught(llama(kind, CASES[kind][0]), tokens)[1][0] for kind in CASES]
    for a in range(len(released)):
        for b in range(a):
            assert (released[a] - released[b]).abs().max() > 1e-3
