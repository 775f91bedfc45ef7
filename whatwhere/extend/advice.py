"""Which method to take, from rows alone: the lowest perplexity at the target within one's limits.

Methods are compared part by part on the same tokens. What lies within two standard errors of the
best counts as equal, and then retrieval, short texts and cost decide, in this order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from whatwhere.errors import UnknownName, did_you_mean

__all__ = ["NEEDS", "Advice", "Limits", "Measured", "advise", "measured"]

Row = Mapping[str, Any]

NEEDS = ("anything", "transformers", "vllm")


@dataclass(frozen=True)
class Limits:
    """What the user can live with.

    needs: what has to run the model: "anything" (then whatwhere may), plain "transformers", or
    "vllm". extra_cost: more than one product of queries and keys a pair is allowed. fine_tune:
    further training is.
    """

    needs: str = "anything"
    extra_cost: bool = True
    fine_tune: bool = True

    def __post_init__(self) -> None:
        if self.needs not in NEEDS:
            raise UnknownName(did_you_mean("--needs", self.needs, NEEDS))


@dataclass(frozen=True)
class Measured:
    """What the rows say about one method at one target; None where there is no row.

    nll and short: nats a token at the target, and at the trained length with the same setting.
    """

    method: str
    expression: str
    target: int
    train_length: int
    nll: float
    blocks: tuple[float, ...]
    short: float | None
    keys: float | None
    copies: float | None
    terms: int
    reason: str
    vllm: str

    @property
    def perplexity(self) -> float:
        """e^nll."""
        return math.exp(min(self.nll, 700.0))

    def refused(self, limits: Limits) -> str:
        """Why the limits exclude it, or ""."""
        if limits.needs != "anything" and self.reason:
            return self.reason
        if limits.needs == "vllm" and self.vllm:
            return self.vllm
        if not limits.extra_cost and self.terms > 1:
            return f"it forms {self.terms} products of queries and keys per pair of tokens"
        return ""


@dataclass(frozen=True)
class Advice:
    """The method to take (None: no row fits the limits), and sentences with the numbers."""

    best: Measured | None
    sentences: tuple[str, ...]


def measured(rows: Iterable[Row], target: int) -> list[Measured]:
    """Every method that has a perplexity at the target, in the order of the rows."""
    own = [row for row in rows if row.get("engine", "whatwhere") == "whatwhere"]
    own = [row for row in own if row.get("mode") == "one_pass" and "error" not in row]
    found: list[Measured] = []
    for method in dict.fromkeys(row["method"] for row in own):
        mine = [row for row in own if row["method"] == method]
        at = [r for r in mine if r["task"] == "perplexity" and r["eval_length"] == target]
        if not at:
            continue
        row = min(at, key=lambda r: abs(r["factor"] * r["train_length"] - target))
        same = [r for r in mine if r["encoding"] == row["encoding"]]
        found.append(_one(row, same, target))
    return found


def _one(row: Row, same: list[Row], target: int) -> Measured:
    def mean(task: str, length: int) -> float | None:
        values = [r["value"] for r in same if r["task"] == task and r["eval_length"] == length]
        return math.fsum(values) / len(values) if values else None

    return Measured(
        method=row["method"],
        expression=row["encoding"],
        target=target,
        train_length=row["train_length"],
        nll=row["value"],
        blocks=tuple(row.get("blocks", ())),
        short=mean("perplexity", row["train_length"]),
        keys=mean("passkey", target),
        copies=mean("copy", target),
        terms=row.get("terms", 1),
        reason=row.get("reason", ""),
        vllm=row.get("vllm", ""),
    )


def difference(a: Measured, b: Measured) -> tuple[float, float]:
    """Mean of nll(a) - nll(b) over the parts of the text, and its standard error.

    The error is that of successive differences (von Neumann's mean square): a method that breaks
    far into a window makes a trend along it, which a plain standard deviation takes for noise. NTK,
    2 nats a token worse at the end of 65,536 tokens, was "equal" to YaRN by it.
    """
    if len(a.blocks) != len(b.blocks) or len(a.blocks) < 2:
        return a.nll - b.nll, 0.0
    parts = [x - y for x, y in zip(a.blocks, b.blocks, strict=True)]
    mean = math.fsum(parts) / len(parts)
    spread = math.fsum((y - x) ** 2 for x, y in pairwise(parts)) / (2 * (len(parts) - 1))
    return mean, math.sqrt(spread / len(parts))


def advise(rows: Iterable[Row], target: int, limits: Limits | None = None) -> Advice:
    """The method for a target length within limits, with the numbers that say so."""
    limits, rows = limits or Limits(), list(rows)
    every = measured(rows, target)
    allowed = [each for each in every if not each.refused(limits)]
    if not allowed:
        what = "no method was measured" if not every else "no measured method is within the limits"
        return Advice(None, (f"At {target} tokens {what}.",))
    lowest = min(allowed, key=lambda each: each.nll)
    equal = [each for each in allowed if _equal(each, lowest)]
    best = min(equal, key=_preference)
    sentences = [_headline(best, limits), *_against_none(best, every), *_equals(best, equal)]
    sentences += _better_outside(best, every, limits)
    sentences += _finds_more(best, allowed)
    sentences += _next(best, limits)
    return Advice(best, tuple(sentences))


def _equal(each: Measured, lowest: Measured) -> bool:
    mean, error = difference(each, lowest)
    return each is lowest or mean <= 2 * error


def _preference(each: Measured) -> tuple[float, ...]:
    keys = -1.0 if each.keys is None else each.keys
    short = math.inf if each.short is None else round(each.short, 2)
    return (-round(keys, 2), short, each.terms, bool(each.reason), each.nll)


def _headline(best: Measured, limits: Limits) -> str:
    words = {"anything": "", "transformers": " in plain transformers", "vllm": " in vLLM"}
    cost = "" if limits.extra_cost else " at no extra cost a token"
    text = (
        f"For {best.target:,} tokens ({best.target / best.train_length:g} times the trained "
        f"length){words[limits.needs]}{cost}: {best.method}, perplexity {_number(best.perplexity)}"
    )
    if best.keys is not None:
        text += f", {best.keys:.0%} of the pass keys"
    return f"{text} ({_cut(best.expression)})."


def _against_none(best: Measured, every: list[Measured]) -> list[str]:
    plain = next((each for each in every if each.method == "none"), None)
    if plain is None:
        return []
    if plain.method == best.method:
        return ["The model needs no method at this length."]
    text = f"Without any method it has perplexity {_number(plain.perplexity)}"
    if plain.keys is not None:
        text += f" and finds {plain.keys:.0%} of them"
    text += " there."
    if plain.short is not None and best.short is not None:
        cost = best.short - plain.short
        paid = f"{'pays' if cost > 0 else 'gains'} {abs(cost):.3f} nats a token"
        paid = paid if abs(cost) >= 5e-4 else "pays nothing measurable"
        text += (
            f" On texts of the trained length {best.method} {paid} (perplexity "
            f"{_number(math.exp(best.short))}, the model itself {_number(math.exp(plain.short))})."
        )
    return [text]


def _equals(best: Measured, equal: list[Measured]) -> list[str]:
    others = [f"{o.method} ({_number(o.perplexity)})" for o in equal if o is not best]
    if not others:
        return []
    return [
        f"Within two standard errors of the lowest perplexity: {', '.join(others)}; pass keys, "
        "short texts and cost decided."
    ]


def _better_outside(best: Measured, every: list[Measured], limits: Limits) -> list[str]:
    better = [e for e in every if e.refused(limits) and e.nll < best.nll]
    if not better:
        return []
    top = min(better, key=lambda each: each.nll)
    return [
        f"Outside the limits {top.method} reaches {_number(top.perplexity)}; excluded because "
        f"{top.refused(limits)}."
    ]


def _finds_more(best: Measured, allowed: list[Measured]) -> list[str]:
    found = [e for e in allowed if e.keys is not None and best.keys is not None]
    more = [e for e in found if (e.keys or 0) > (best.keys or 0) + 0.1]
    if not more:
        return []
    top = max(more, key=lambda each: (each.keys or 0, -each.nll))
    return [
        f"{top.method} finds more pass keys ({top.keys:.0%} against {best.keys:.0%}) at perplexity "
        f"{_number(top.perplexity)}: take it if retrieval is what counts."
    ]


def _next(best: Measured, limits: Limits) -> list[str]:
    if best.reason and limits.needs == "anything":
        return [f"It runs with whatwhere.hf.use only: {best.reason}."]
    if best.vllm and not best.reason:
        return [f"In vLLM it would differ: {best.vllm}."]
    if limits.fine_tune and best.method != "none":
        searched = "@" in best.method  # such a name stands for a file, and only that is a method
        what = "RESULT.json" if searched else best.method
        text = f"Further training is allowed: whatwhere adapt MODEL --method {what} --to "
        file = f" (RESULT.json: what the search of {best.method} wrote)" if searched else ""
        return [f"{text}{best.target}{file}."]
    return []


def _cut(expression: str) -> str:
    """Short enough to read: searched factors are a number per frequency."""
    return expression if len(expression) <= 60 else f"{expression[:59]}…"


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.4g}" if value < 1e6 else f"{value:.1e}"
