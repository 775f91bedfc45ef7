"""The same method by transformers' own code: the witness that ours computes what others run."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from whatwhere.hf.architectures import architecture_of

__all__ = ["renew", "use"]


def use(model: Any, rope_parameters: dict[str, Any]) -> Callable[[], Any]:
    """Give the model a rotary module that transformers makes from these; returns what undoes it.

    Everything else, attention included, stays transformers'.
    """
    decoder = _decoder(model)
    own = decoder.rotary_emb
    config = deepcopy(own.config)
    config.rope_parameters = rope_parameters
    decoder.rotary_emb = _made(own, config)
    return lambda: setattr(decoder, "rotary_emb", own)


def renew(model: Any) -> None:
    """Make the rotary module anew, as it is before any text.

    With dynamic scaling it remembers the longest text that it saw, and forgets it for one shorter
    than the trained length only: a text of exactly that length keeps the other's frequencies.
    """
    decoder = _decoder(model)
    decoder.rotary_emb = _made(decoder.rotary_emb, decoder.rotary_emb.config)


def _decoder(model: Any) -> Any:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    name = architecture_of(inner.config.get_text_config()).decoder
    return next(m for m in inner.modules() if type(m).__name__ == name)


def _made(own: Any, config: Any) -> Any:
    return type(own)(config=config).to(own.inv_freq.device)
