"""What a config says about its attention: sizes, layer types, and the length it was trained at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from whatwhere.encodings import Shape

__all__ = ["layer_types", "parameters_of", "rotated_share", "shape_of", "train_length_of"]

WHOLE = "full_attention"


def shape_of(config: Any) -> Shape:
    """Heads, KV heads, channels of a head, and width of the model."""
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    return Shape(heads, head_dim, groups, config.hidden_size)


def layer_types(config: Any) -> list[str]:
    """The type of every layer; "full_attention" throughout where the config names none."""
    types = getattr(config, "layer_types", None)
    return list(types) if types else [WHOLE] * config.num_hidden_layers


def parameters_of(config: Any) -> dict[str, dict[str, Any]]:
    """`rope_parameters` as one dict per layer type, under "" where they are the same for all.

    Raises ValueError if there are none: such a model has no rotation to replace.
    """
    written = getattr(config, "rope_parameters", None)
    if not isinstance(written, Mapping) or not written:
        kind = getattr(config, "model_type", type(config).__name__)
        raise ValueError(f"this config ({kind}) has no rope_parameters: it rotates nothing")
    types = [name for name in dict.fromkeys(layer_types(config)) if name in written]
    if types:
        return {name: dict(written[name] or {}) for name in types}
    return {"": dict(written)}


def rotated_share(parameters: Mapping[str, Any]) -> float:
    """The share of channels that turn (partial rotation), 1 by default."""
    return float(parameters.get("partial_rotary_factor") or 1.0)


def train_length_of(config: Any, parameters: Mapping[str, Any]) -> int:
    """The length before any extension: what scaling methods start from.

    Phi-3's configs keep it outside `rope_parameters`, and it wins there (transformers does so too).
    """
    outside = getattr(config, "original_max_position_embeddings", None)
    inside = parameters.get("original_max_position_embeddings")
    return int(outside or inside or config.max_position_embeddings)
