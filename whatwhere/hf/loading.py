"""A causal model and its tokenizer from a folder or the hub, ours or a released one."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from whatwhere.errors import UnknownName, did_you_mean, first_line
from whatwhere.hf.hub import locate

__all__ = ["load_model"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(name: str, device: str = "cpu", dtype: str = "float32") -> tuple[Any, Any]:
    """(model, tokenizer) in evaluation mode on a device, without a second copy in another dtype.

    name: a folder, "owner/name" or "owner/name@revision" of the hub. Raises UnknownName for a dtype
    that is none, what `whatwhere.hf.hub.locate` raises for the name, ValueError that says what is
    missing.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import_module("whatwhere.hf.decoder")  # enters our model type in transformers' tables

    if dtype not in DTYPES:
        raise UnknownName(did_you_mean("dtype", dtype, DTYPES))
    place = locate(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place.pretrained, **place.options)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name} has no tokenizer to load ({first_line(error)}); our models have one when "
            "DecoderForCausalLM.from_decoder was given it"
        ) from None
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            place.pretrained, dtype=DTYPES[dtype], **place.options
        )
    except OSError as error:
        raise ValueError(f"{name} has no model to load: {first_line(error)}") from None
    return model.to(device).eval(), tokenizer
