"""What a call of our decoder as a Hugging Face model may hold, checked and translated."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import tokenizers
import torch
from torch import Tensor

from whatwhere.errors import did_you_mean, kind_of, whole_number
from whatwhere.hf.decoder_cache import DecoderCache

__all__ = ["LOSS", "cache_of", "check_arguments", "kept", "tokenizer_of", "valid_of"]

LOSS = ("num_items_in_batch", "shift_labels", "ignore_index")
_REFUSED = ("inputs_embeds", "output_attentions", "output_hidden_states", "token_type_ids")


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise TypeError for what a forward pass does not know and was not left at None or False."""
    known = (
        "input_ids",
        "attention_mask",
        "position_ids",
        "past_key_values",
        "labels",
        "use_cache",
    )
    for name, value in arguments.items():
        if value is None or value is False or name in LOSS:
            continue
        if name in _REFUSED:
            raise TypeError(f"{name} is nothing that this model has: leave it out")
        raise TypeError(did_you_mean("argument", name, [*known, "logits_to_keep", *LOSS]))


def cache_of(given: Any, wanted: bool | None, layers: int) -> DecoderCache | None:
    """The cache of a call: the one given, a new one if one is wanted, else none.

    Raises TypeError for a cache of transformers, ValueError for one of another model.
    """
    if given is None:
        return DecoderCache(layers) if wanted else None
    if not isinstance(given, DecoderCache):
        raise TypeError(
            f"past_key_values is {kind_of(given)}; give what an earlier call returned, or "
            "DecoderCache(layers): keys are cached before any rotation"
        )
    if len(given) != layers:
        raise ValueError(f"past_key_values has {len(given)} layers, the model {layers}")
    return given


def valid_of(mask: Tensor | None, tokens: Tensor, cached: int) -> Tensor | None:
    """Which of the new tokens are real, (b, n) bool; None where all are.

    Raises TypeError or ValueError for another mask than (b, cached + n).
    """
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise TypeError(f"attention_mask is {kind_of(mask)}; give a tensor, 0 at padding")
    batch, n = tokens.shape
    if mask.shape != (batch, cached + n):
        raise ValueError(
            f"attention_mask has shape {tuple(mask.shape)}; give {(batch, cached + n)}: a column "
            "for every token, the cached ones included"
        )
    valid = mask[:, cached:].to(torch.bool)
    return None if bool(valid.all()) else valid


def kept(hidden: Tensor, wanted: int | Tensor) -> Tensor:
    """The tokens whose logits are wanted: the last so many (0: all), or those at these indices.

    Before the head and not after it, because all logits of a long prompt take more memory than the
    rest of the model. Raises ValueError below 0.
    """
    if isinstance(wanted, Tensor):
        return hidden[:, wanted]
    if whole_number("logits_to_keep", wanted, least=0) == 0:
        return hidden
    return hidden[:, -wanted:]


def tokenizer_of(given: Any, vocab_size: int) -> Any:
    """A tokenizer of transformers of one's own: a copy, or a `tokenizers.Tokenizer` wrapped.

    A wrapped one takes its end of text for every special token.
    Raises TypeError for what is no tokenizer, ValueError for one with more than `vocab_size`.
    """
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

    if isinstance(given, PreTrainedTokenizerBase):
        result: Any = copy.deepcopy(given)
    else:
        inner = getattr(given, "_tokenizer", given)  # tokenizers.implementations hold one
        if not isinstance(inner, tokenizers.Tokenizer):
            raise TypeError(
                f"tokenizer is {kind_of(given)}; give one of transformers or tokenizers"
            )
        ends = [end for end in ("<|endoftext|>", "</s>") if inner.token_to_id(end) is not None]
        special = dict.fromkeys(("bos_token", "eos_token", "pad_token"), ends[0]) if ends else {}
        result = PreTrainedTokenizerFast(tokenizer_object=inner, **special)
    if len(result) > vocab_size:
        raise ValueError(f"tokenizer has {len(result)} tokens, the decoder {vocab_size}")
    return result
