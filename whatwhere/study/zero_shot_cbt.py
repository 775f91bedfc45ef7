"""How the Children's Book Test is asked: lm-eval has had no such task since its 0.4.

As its 0.3 did (`lm_eval/tasks/cbt.py`, Gao et al.), after section 4.4 of the CBT paper: the option
wins with which the *whole* text, passage and question, is most probable. lm-eval loads these
functions by name (`zero_shot_tasks.py`) and does the scoring.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["gold", "texts"]

BLANK = "XXXXX"

_JOINED = [
    *[(" '", "'"), (" \n", "\n"), ("\n ", "\n"), (" n't", "n't"), ("`` ", '"'), ("''", '"')],
    *[(f" {mark}", mark) for mark in ":;!?,."],
]
"""What tokenized text writes apart, in the order in which lm-eval 0.3 joined it."""


def texts(doc: Mapping[str, Any]) -> list[str]:
    """Passage and question with each option in the blank."""
    whole = f"Passage: {' '.join(doc['sentences'])}\nQuestion: {doc['question']}"
    for apart, joined in _JOINED:
        whole = whole.replace(apart, joined)
    return [whole.replace(BLANK, option) for option in doc["options"]]


def gold(doc: Mapping[str, Any]) -> int:
    """Number of the right option."""
    return list(doc["options"]).index(doc["answer"])
