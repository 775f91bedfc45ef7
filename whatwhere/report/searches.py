"""What searches found, beside the closed forms, on text that no search saw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["gain", "searches"]

Row = Mapping[str, Any]

_FORMS = ("yarn", "ntk")


def searches(rows: Iterable[Row]) -> str:
    """Markdown of rows that `whatwhere search` wrote: a line a method and length.

    Perplexity of held-out windows, and by how many nats a token a search's result lies below YaRN
    and NTK on the same windows, with the standard error of that difference. ValueError if there is
    no such row.
    """
    own = [r for r in rows if r.get("study") == "search" and r.get("role") == "held_out"]
    if not own:
        raise ValueError("the rows hold no measurement of `whatwhere search`")
    lines = [
        "| length | method | evaluations | held-out perplexity | nats below YaRN | below NTK |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for factor in sorted({row["factor"] for row in own}):
        here = {(*_search(r), r["method"]): r for r in own if r["factor"] == factor}
        # Closed forms once, the result of each search.
        shown = {(k if _found(r) else r["method"]): r for k, r in here.items()}
        ranked = sorted(shown.values(), key=lambda r: (_found(r), -r["value"]))
        best = min(row["value"] for row in ranked)
        lines += [_line(row, here, best) for row in ranked]
    return "\n".join(lines)


def gain(row: Row, other: Row) -> tuple[float, float]:
    """Mean over the windows of nll(other) - nll(row), in nats a token, and its standard error.

    Raises ValueError for rows of different windows.
    """
    parts = [b - a for a, b in zip(row["windows"], other["windows"], strict=True)]
    mean = math.fsum(parts) / len(parts)
    spread = math.fsum((x - mean) ** 2 for x in parts) / max(1, len(parts) - 1)
    return mean, math.sqrt(spread / len(parts))


def _search(row: Row) -> tuple[str, int]:
    return row["optimizer"], row["evaluations"]


def _found(row: Row) -> bool:
    return str(row["method"]).startswith("longrope")


def _line(row: Row, here: Mapping[tuple[str, int, str], Row], best: float) -> str:
    value = f"{math.exp(min(row['value'], 700.0)):.2f}"
    value = f"**{value}**" if row["value"] == best else value
    spent, gains = "–", ["–"] * len(_FORMS)
    if _found(row):
        spent = str(row["evaluations"])
        forms = [here.get((*_search(row), name)) for name in _FORMS]
        gains = ["–" if form is None else _signed(*gain(row, form)) for form in forms]
    length = f"{row['factor']:g}× ({row['eval_length']})"
    return f"| {length} | {row['method']} | {spent} | {value} | {' | '.join(gains)} |"


def _signed(mean: float, error: float) -> str:
    return f"{mean:+.4f} ± {error:.4f}"
