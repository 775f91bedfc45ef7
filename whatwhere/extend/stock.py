"""The same method by transformers' own code: the witness that ours computes what others run."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from whatwhere.hf.architectures import architecture_of

__all__ = ["use"]


def use(model: Any, rope_parameters: dict[str, Any]) -> Callable[[], Any]:
    """Give the model a rotary module that transformers makes from these; returns what undoes it.

    Everything else, attention included, stays transformers'.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    name = architecture_of(inner.config.get_text_config()).decoder
    decoder: Any = next(m for m in inner.modules() if type(m).__name__ == name)
    own = decoder.rotary_emb
    config = deepcopy(own.config)
    config.rope_parameters = rope_parameters
    device = next(inner.parameters()).device
    decoder.rotary_emb = type(own)(config=config).to(device)
    return lambda: setattr(decoder, "rotary_emb", own)
