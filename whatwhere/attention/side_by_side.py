"""Rules of several models as one rule: one call of attention for all of them.

Models of one architecture that train side by side (a seed each) differ in what their encodings have
learned. Where that is PoPE's δ alone, one map holds all of them, (s, h, r), and the batch is the
models' batches one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from whatwhere.maps import Polar
from whatwhere.rule import ScoreRule

__all__ = ["side_by_side"]


def side_by_side(rules: Sequence[ScoreRule]) -> ScoreRule | None:
    """One rule for batches [model 0 | model 1 | …] of equal size, None if rules can not be joined.

    The rules must come from one encoding expression at one horizon: their spectra are taken to be
    equal, what differs is learned. They are joined if each has a single term whose query map is a
    `Polar` with a δ, and nothing else that could be learned: no bias, value map or pairwise part.
    Raises ValueError if there is no rule.
    """
    if not rules:
        raise ValueError("rules is empty; give the rule of at least one model")
    if len(rules) == 1:
        return rules[0]
    offsets = []
    for rule in rules:
        learned = (*rule.biases, rule.value, rule.output, rule.pairwise)
        if len(rule.terms) != 1 or any(each is not None for each in learned):
            return None
        query = rule.only.query
        if not isinstance(query, Polar) or query.offset is None or query.offset.dim() != 2:
            return None
        offsets.append(query.offset)
    first = rules[0].only
    assert isinstance(first.query, Polar)
    query = replace(first.query, offset=torch.stack(offsets))
    return replace(rules[0], terms=(replace(first, query=query),))
