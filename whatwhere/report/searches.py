"""What searches found, beside the closed forms, on text that no search saw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["searches"]

Row = Mapping[str, Any]


def searches(rows: Iterable[Row]) -> str:
    """Markdown of rows that `whatwhere search` wrote: held-out perplexity by method and factor.

    In brackets the standard error of the difference from YaRN over the windows, in nats a token.
    ValueError if there is no such row.
    """
    own = [r for r in rows if r.get("study") == "search" and r.get("role") == "held_out"]
    if not own:
        raise ValueError("the rows hold no measurement of `whatwhere search`")
    trained = own[0]["train_length"]
    factors = sorted({row["factor"] for row in own})
    methods = list(dict.fromkeys(row["method"] for row in own))
    methods.sort(key=lambda name: name.startswith("longrope"))  # stable: closed forms first
    head = [f"{f:g}× ({round(f * trained)})" for f in factors]
    lines = [
        f"| method | evaluations | {' | '.join(head)} |",
        "|---|--:" + "|--:" * len(factors) + "|",
    ]
    best = {f: min(_value(own, m, f) for m in methods) for f in factors}
    for method in methods:
        used = sorted({r["evaluations"] for r in own if r["method"] == method})
        spent = "–" if not method.startswith("longrope") else ", ".join(map(str, used))
        cells = [_cell(own, method, f, best[f]) for f in factors]
        lines.append(f"| {method} | {spent} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _rows(rows: list[Row], method: str, factor: float) -> list[Row]:
    return [r for r in rows if r["method"] == method and r["factor"] == factor]


def _value(rows: list[Row], method: str, factor: float) -> float:
    found = _rows(rows, method, factor)
    return found[-1]["value"] if found else math.inf


def _cell(rows: list[Row], method: str, factor: float, best: float) -> str:
    found, yarn = _rows(rows, method, factor), _rows(rows, "yarn", factor)
    if not found:
        return "–"
    value = found[-1]["value"]
    text = f"{math.exp(value):.2f}"
    text = f"**{text}**" if value == best else text
    if method.startswith("longrope") and yarn:
        parts = [a - b for a, b in zip(found[-1]["windows"], yarn[-1]["windows"], strict=True)]
        mean = math.fsum(parts) / len(parts)
        spread = math.fsum((x - mean) ** 2 for x in parts) / max(1, len(parts) - 1)
        text += f" ({mean:+.4f} ± {math.sqrt(spread / len(parts)):.4f})"
    return text
