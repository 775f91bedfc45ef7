"""Which released architectures `use` covers, one line each.

Covered means: one rotary module at `rotary_emb` of the decoder, queries and keys turned by it and
by nothing else, and attention called through `ALL_ATTENTION_FUNCTIONS`. The tests compare every
line with the stock model; what is not in the table is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from whatwhere.errors import UnknownName, did_you_mean

__all__ = ["COVERED", "Architecture", "architecture_of"]


@dataclass(frozen=True)
class Architecture:
    """A line of the table.

    decoder: class that owns `rotary_emb` and `layers`. layout: how the checkpoint pairs channels.
    attention: name of the attention module in a layer. rotates_if: attribute of that module that
    is true where the layer rotates ("": every layer does). passes_arguments: whether unknown
    keyword arguments of the decoder reach the attention function. rope_types: those that its
    config takes ((): all).
    """

    decoder: str
    layout: Literal["half", "interleaved"] = "half"
    attention: str = "self_attn"
    rotates_if: str = ""
    passes_arguments: bool = True
    rope_types: tuple[str, ...] = ()


COVERED: dict[str, Architecture] = {
    "arcee": Architecture("ArceeModel"),
    "cohere": Architecture("CohereModel", layout="interleaved"),
    "cohere2": Architecture("Cohere2Model", layout="interleaved", rotates_if="sliding_window"),
    "ernie4_5": Architecture("Ernie4_5Model", layout="interleaved"),
    "gemma": Architecture("GemmaModel"),
    "gemma2": Architecture("Gemma2Model"),
    "gemma3_text": Architecture("Gemma3TextModel"),
    "glm": Architecture("GlmModel", layout="interleaved"),
    "glm4": Architecture("Glm4Model", layout="interleaved"),
    "gpt_neox": Architecture("GPTNeoXModel", attention="attention"),
    "granite": Architecture("GraniteModel"),
    "helium": Architecture("HeliumModel", layout="interleaved"),
    "llama": Architecture("LlamaModel"),
    "mistral": Architecture("MistralModel"),
    "mixtral": Architecture("MixtralModel"),
    "olmo": Architecture("OlmoModel"),
    "olmo2": Architecture("Olmo2Model"),
    "olmo3": Architecture("Olmo3Model"),
    "phi": Architecture("PhiModel"),
    "phi3": Architecture("Phi3Model", rope_types=("default", "longrope")),
    "qwen2": Architecture("Qwen2Model"),
    "qwen2_moe": Architecture("Qwen2MoeModel"),
    "qwen3": Architecture("Qwen3Model"),
    "qwen3_moe": Architecture("Qwen3MoeModel"),
    "seed_oss": Architecture("SeedOssModel"),
    "smollm3": Architecture("SmolLM3Model", rotates_if="use_rope"),
    "stablelm": Architecture("StableLmModel", passes_arguments=False),
    "starcoder2": Architecture("Starcoder2Model"),
}
"""Every covered `config.model_type`."""

_REASONS = {
    "gemma3": "its image tokens see one another both ways; give its text model, gemma3_text",
    "gpt_oss": "its softmax has sinks, which are no part of a score rule",
    "llama4": "it normalizes queries and keys after the rotation",
    "gptj": "it rotates inside its attention module, which no other module can replace",
    "codegen": "it rotates inside its attention module, which no other module can replace",
    "falcon": "it does not call attention through transformers' table of attention functions",
    "bloom": "it has no rotary module: its positions are ALiBi's",
    "mpt": "it has no rotary module: its positions are ALiBi's",
    "gpt2": "it has no rotary module: its positions are learned and added to the embedding",
    "opt": "it has no rotary module: its positions are learned and added to the embedding",
    "deepseek_v2": "it rotates a part of its channels that is shared by all heads",
    "deepseek_v3": "it rotates a part of its channels that is shared by all heads",
    "qwen2_vl": "its positions have three axes",
    "qwen2_5_vl": "its positions have three axes",
}


def architecture_of(config: Any) -> Architecture:
    """The line for a config. Raises UnknownName with the reason where there is none."""
    name = getattr(config, "model_type", None)
    if not isinstance(name, str):
        raise TypeError(
            f"{type(config).__name__} has no model_type; give a transformers model or its config"
        )
    if name in COVERED:
        if not getattr(config, "is_causal", True) or getattr(
            config, "use_bidirectional_attention", None
        ):
            raise UnknownName(f"this {name} sees both ways; only causal models are covered")
        return COVERED[name]
    text = did_you_mean("model type", name, COVERED)
    raise UnknownName(f"{text}. {name}: {_REASONS[name]}" if name in _REASONS else text)
