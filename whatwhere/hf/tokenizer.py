"""A tokenizer of the package tokenizers as transformers and lm-evaluation-harness want one."""

from __future__ import annotations

from typing import Any

__all__ = ["wrapped"]


def wrapped(tokenizer: Any, end: str) -> Any:
    """A `tokenizers.Tokenizer` (or ByteLevelBPETokenizer) as transformers' fast tokenizer.

    `end` is the token that stands between documents: it begins and ends a text.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    plain = tokenizer if isinstance(tokenizer, Tokenizer) else tokenizer._tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=plain, bos_token=end, eos_token=end)
