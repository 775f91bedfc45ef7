"""What a search leaves: its result as others read it, and rows on text that it never saw."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import Any

from torch import Tensor

from whatwhere import hf
from whatwhere.extend import methods
from whatwhere.extend.models import Source
from whatwhere.extend.objective import Perplexity, windows
from whatwhere.extend.search import Space
from whatwhere.extend.search_plan import Search
from whatwhere.study.rows import commit, device_name, versions

__all__ = ["held_out", "result_of"]


def held_out(
    plan: Search, source: Source, model: tuple[str, Any], text: Tensor, space: Space,
    expression: str, used: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of the result and the closed forms, on the second half and on what was searched on."""
    length = round(plan.factor * source.train_length)
    device, net = model
    half = len(text) // 2
    named = {f"longrope:{plan.optimizer}": expression}
    for name in ("none", "pi", "ntk", "yarn"):
        named[name] = methods.make(name, plan.factor, source.train_length).expression
    rows: list[dict[str, Any]] = []
    for role, part, count in (
        ("held_out", text[half:], plan.held_out),
        ("searched", text[:half], plan.samples),
    ):
        samples = windows(part, length, count)
        objective = Perplexity(net, space, device, plan.batch_tokens, samples)
        for method, written in named.items():
            began = time.monotonic()
            values = objective.by_window(written)
            rows.append(
                _row(plan, source, method, written, length, device) | {
                    "role": role, "value": math.fsum(values) / len(values), "n": count * length,
                    "windows": [round(v, 5) for v in values], "evaluations": used,
                    "seconds": round(time.monotonic() - began, 3),
                }
            )  # fmt: skip
    return rows


def _row(
    plan: Search, source: Source, method: str, expression: str, length: int, device: str
) -> dict[str, Any]:
    return {
        "study": "search", "model": source.name, "method": method, "encoding": expression,
        "optimizer": plan.optimizer, "objective": plan.objective,
        "train_length": source.train_length, "eval_length": length, "factor": plan.factor,
        "task": "perplexity", "mode": "one_pass", "metric": "nll", "unit": "token",
        "seed": plan.seed, "samples": plan.samples, "dtype": plan.dtype, "adapter": plan.adapter,
        "device": device_name(device), "commit": commit(), "versions": versions(),
    }  # fmt: skip


def result_of(
    plan: Search, source: Source, expression: str, used: int, seconds: float
) -> dict[str, Any]:
    """What result.json holds: expression, `rope_parameters` or why there are none, cost, plan."""
    try:
        form, reason = hf.to_rope_parameters(expression, source.config), ""
    except ValueError as error:
        form, reason = None, str(error)
    return {
        "name": "longrope" if plan.optimizer == "paper" else f"longrope:{plan.optimizer}",
        "expression": expression,
        "rope_parameters": form,
        "reason": reason,
        "factor": plan.factor,
        "train_length": source.train_length,
        "evaluations": used,
        "seconds": round(seconds, 1),
        "plan": asdict(plan),
    }
