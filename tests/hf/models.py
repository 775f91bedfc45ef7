"""Tiny random models of every covered architecture, whose attention depends on positions.

Awkward sizes: 6 heads over 3, 16 channels, windows shorter than the text. A large initializer range
and a small base make scores sharp and every frequency turn; tests see a wrong base fail.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from whatwhere.hf import COVERED

LENGTH = 64  # max_position_embeddings: what the tiny models are "trained" at
BASE = 500.0
WINDOW = 9
VOCABULARY = 97

_MIXED = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
_OWN: dict[str, dict[str, Any]] = {
    "cohere": {"logit_scale": 1.0},
    "cohere2": {"logit_scale": 1.0, "sliding_window": WINDOW, "layer_types": _MIXED},
    "gemma2": {"sliding_window": WINDOW, "layer_types": _MIXED, "query_pre_attn_scalar": 24},
    "gemma3_text": {"sliding_window": WINDOW, "layer_types": _MIXED, "query_pre_attn_scalar": 24},
    "glm": {"partial_rotary_factor": 0.5},
    "glm4": {"partial_rotary_factor": 0.5},
    "gpt_neox": {"partial_rotary_factor": 0.25, "num_key_value_heads": None, "head_dim": None},
    "granite": {"attention_multiplier": 0.2},
    "mistral": {"sliding_window": WINDOW},
    "mixtral": {"sliding_window": WINDOW, "num_local_experts": 4, **_EXPERTS},
    "olmo3": {"sliding_window": WINDOW, "layer_types": _MIXED},
    "phi": {"partial_rotary_factor": 0.5, "head_dim": None},
    "phi3": {"original_max_position_embeddings": LENGTH, "partial_rotary_factor": 0.5},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
    "qwen2_moe": {"num_experts": 4, "shared_expert_intermediate_size": 24, **_EXPERTS},
    "qwen3": {"use_sliding_window": True, "sliding_window": WINDOW, "layer_types": _MIXED},
    "qwen3_moe": {"num_experts": 4, **_EXPERTS},
    "smollm3": {"no_rope_layers": [1, 1, 0, 1]},
    "stablelm": {"partial_rotary_factor": 0.25, "qk_layernorm": True, "use_qkv_bias": True},
    "starcoder2": {"sliding_window": WINDOW},
}
TYPES = sorted(COVERED)

# Every run takes these; -m slow the others.
_FAST = {"cohere2", "gemma2", "gemma3_text", "gpt_neox", "llama", "mistral", "olmo2", "phi3"}
_FAST |= {"qwen2", "qwen3", "smollm3", "stablelm"}
KINDS = [pytest.param(kind, marks=() if kind in _FAST else pytest.mark.slow) for kind in TYPES]
FEW = {"cohere2", "gemma3_text", "gpt_neox", "llama", "phi3"}
FEW_KINDS = [pytest.param(kind, marks=() if kind in FEW else pytest.mark.slow) for kind in TYPES]


def tiny_config(kind: str, rope: dict[str, Any] | None = None, **changes: Any) -> Any:
    """The config of a tiny model; `rope` are rope_parameters (rope_theta defaults to BASE)."""
    own = _OWN.get(kind, {})
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 96,
        "intermediate_size": 56,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 16,
        "max_position_embeddings": LENGTH,
        "initializer_range": 0.12,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": BASE, **(rope or {})},
    }
    settings |= own | changes
    partial = settings.pop("partial_rotary_factor", None)
    if partial is not None and "rope_type" in settings["rope_parameters"]:
        settings["rope_parameters"]["partial_rotary_factor"] = partial
    if kind in ("gemma3_text", "olmo3") and "rope_type" in settings["rope_parameters"]:
        flat = settings["rope_parameters"]
        plain = {"rope_type": "default", "rope_theta": 20.0 if kind == "gemma3_text" else BASE}
        settings["rope_parameters"] = {"full_attention": flat, "sliding_attention": plain}
    return CONFIG_MAPPING[kind](**{key: x for key, x in settings.items() if x is not None})


def tiny_model(kind: str, rope: dict[str, Any] | None = None, seed: int = 0, **changes: Any) -> Any:
    """A tiny model in evaluation mode, the same weights for the same seed."""
    config = tiny_config(kind, rope, **changes)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "q_norm" in name or "k_norm" in name or "layernorm.norms" in name:
                parameter.add_(torch.rand_like(parameter))
            elif parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def tokens(rows: int = 2, length: int = 50, seed: int = 1) -> torch.Tensor:
    """Random token ids, none of them padding."""
    generator = torch.Generator("cpu").manual_seed(seed)
    drawn = torch.randint(2, VOCABULARY, (rows, length), generator=generator, device="cpu")
    return drawn.to(torch.get_default_device())


def logits(model: Any, ids: torch.Tensor, **arguments: Any) -> torch.Tensor:
    """The model's logits, without gradients."""
    with torch.no_grad():
        return model(ids, **arguments).logits


def assert_close(found: torch.Tensor, expected: torch.Tensor, relative: float = 1e-5) -> None:
    """Within 1e-5 of the largest logit (float32, sums in another order)."""
    bound = relative * max(1.0, float(expected.abs().max()))
    gap = float((found - expected).abs().max())
    assert gap <= bound, f"{gap:.1e} is above {bound:.1e}"
