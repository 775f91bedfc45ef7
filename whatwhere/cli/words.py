"""A rule in words: terms, regions, maps, biases and temperatures, as `explain` prints them.

Maps, biases and temperatures that this file does not know describe themselves by the first line of
their docstring, so a new encoding needs no edit here.
"""

from __future__ import annotations

import inspect
from typing import Any

from whatwhere.cli.console import short
from whatwhere.maps import Map, Plain, Polar, Reindex, Rotate
from whatwhere.phases import Angles
from whatwhere.regions import Region
from whatwhere.rule import ScoreRule

__all__ = ["map_words", "region_words", "reindex_words", "rule_words"]


def rule_words(rule: ScoreRule, head_dim: int) -> list[tuple[str, str]]:
    """(what, words) for every part of the rule."""
    lines: list[tuple[str, str]] = []
    count = len(rule.cases)
    for number, term in enumerate(rule.cases, start=1):
        name = "term" if count == 1 else f"term {number} of {count}"
        lines.append((name, region_words(term.region)))
        query, key = map_words(term.query, "i"), map_words(term.key, "j")
        if isinstance(term.query, Plain) and isinstance(term.key, Plain):
            lines.append(("  query, key", query))
        else:
            lines += [("  query", query), ("  key", key)]
        width = term.query.width(head_dim)
        more = "" if width == head_dim else f", {width / head_dim:g} times the head's"
        lines.append(("  features", f"{width} from {head_dim} channels{more}"))
    if rule.value is not None:
        lines.append(("values", map_words(rule.value, "j")))
    if rule.output is not None:
        lines.append(("output", map_words(rule.output, "i")))
    lines += [("bias", _own_words(bias)) for bias in rule.biases]
    lines += [("temperature", _own_words(temperature)) for temperature in rule.temperatures]
    if rule.pairwise is not None:
        lines.append(("pairs", _own_words(rule.pairwise)))
    return lines


def region_words(region: Region) -> str:
    """The pairs of a region, as a condition on query position i and key position j."""
    if region.least is None and region.most is None:
        return "all visible pairs"
    chunk = region.chunk
    gap = "i - j" if chunk == 1 else f"i // {chunk} - j // {chunk}"
    if region.least == region.most:
        return f"pairs with {gap} = {region.least}"
    low = "" if region.least is None else f"{region.least} <= "
    high = "" if region.most is None else f" <= {region.most}"
    return f"pairs with {low}{gap}{high}"


def map_words(each: Map, position: str) -> str:
    """What a map does to a vector at `position` ("i" or "j")."""
    if isinstance(each, Plain):
        return "unchanged"
    if isinstance(each, Rotate):
        count, back = each.angles.count, "" if each.direction == 1 else " backwards"
        text = f"{count} pairs of channels ({each.layout}) turned{back} by {{}}"
        text += ", with xPos's decay" if each.decay is not None else ""
    elif isinstance(each, Polar):
        text = f"{each.magnitude} magnitudes, {each.angles.count} phases at {{}}"
        text += " and δ per head" if each.offset is not None else ""
    else:
        return _own_words(each)
    where = text.format(reindex_words(each.reindex, position))
    return where + _amplitude(each.angles)


def reindex_words(reindex: Reindex | None, position: str) -> str:
    """The position that a map sees, as a formula."""
    if reindex is None or reindex == Reindex():
        return position
    if reindex.modulo == 1:
        value = reindex.offset if reindex.most is None else min(reindex.offset, reindex.most)
        return f"the constant {value}"
    text = position
    if reindex.modulo is not None:
        text = f"{text} mod {reindex.modulo}"
    if reindex.group > 1:
        text = f"({text})" if " " in text else text
        text = f"{text} // {reindex.group}"
    if reindex.offset:
        sign, size = ("+", reindex.offset) if reindex.offset > 0 else ("-", -reindex.offset)
        text = f"({text}) {sign} {size}" if " " in text else f"{text} {sign} {size}"
    return text if reindex.most is None else f"min({text}, {reindex.most})"


def _amplitude(angles: Angles) -> str:
    return "" if angles.amplitude == 1 else f", amplitude {angles.amplitude:.5g}"


def _own_words(thing: Any) -> str:
    text = (inspect.getdoc(type(thing)) or repr(thing)).split("\n\n")[0]
    numbers = [
        f"{key}={short(value)}"
        for key, value in vars(thing).items()
        if isinstance(value, int | float) and key not in ("pointwise", "causal_only")
    ]
    text = " ".join(text.split()).removesuffix(".")
    return f"{text}  [{', '.join(numbers)}]" if numbers else text
