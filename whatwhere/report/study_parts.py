"""What a mean hides, from a study's rows: the loss by position within the longest pass, and the
accuracy by what is asked (probes of one name and a number each: "shift -3", "shift +4", …)."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from whatwhere.report.rows import Row
from whatwhere.report.style import styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["MARKS", "asked_of", "asked_panels", "colours_of", "label_of", "position_panels"]

Draw = Callable[["Axes"], None]

MARKS = "os^Dv<>P"
"""Marks of a panel's lines, in turn: two lines of one colour stay apart."""

_ASKED = re.compile(r"(\w+) ([+-]\d+)$")


def label_of(row: Row) -> str:
    """A line's name: the encoding that was evaluated, and the training."""
    return f"{row['encoding']} ({row.get('run', row['encoding'])})"


def colours_of(labels: Iterable[str]) -> dict[str, str]:
    """Of each of a panel's lines (`label_of`) the colour of its encoding."""
    encodings = {label: label.partition(" (")[0] for label in labels}
    drawing = styles(encodings.values())
    return {label: drawing[encoding].colour for label, encoding in encodings.items()}


def asked_of(row: Row) -> tuple[str, int] | None:
    """Name and number of a probe that is one of a series: "shift -3" is ("shift", -3)."""
    found = _ASKED.match(row.get("probe", ""))
    return (found[1], int(found[2])) if found else None


def position_panels(rows: Sequence[Row]) -> list[Draw]:
    """A panel for every longest pass that was read in parts: nll between one position and the
    next, a line an encoding and training, the mean over seeds."""
    passes: dict[tuple[str, int, int], dict[str, dict[tuple[int, int], list[float]]]] = {}
    for row in rows:
        if (part := row.get("positions")) and "value" in row:
            start, end = map(int, part.split("-"))
            one = passes.setdefault((row["data"], row["eval_length"], row["train_length"]), {})
            one.setdefault(label_of(row), {}).setdefault((start, end), []).append(row["value"])
    return [partial(_draw_positions, key=key, found=passes[key]) for key in sorted(passes)]


def asked_panels(rows: Sequence[Row]) -> list[Draw]:
    """A panel for every training and series of probes: accuracy, a line a seed."""
    series: dict[tuple[str, str], dict[Any, dict[int, float]]] = {}
    shown: dict[str, str] = {}
    for row in rows:
        asked = asked_of(row)
        if asked and row["metric"] == "accuracy" and "value" in row:
            run = row.get("run", row["encoding"])
            shown[run] = row["encoding"]
            seeds = series.setdefault((run, asked[0]), {})
            seeds.setdefault(row["seed"], {})[asked[1]] = row["value"]
    return [
        partial(_draw_asked, run=run, name=name, encoding=shown[run], found=seeds)
        for (run, name), seeds in series.items()
    ]


def _draw_positions(
    axes: Axes,
    key: tuple[str, int, int],
    found: Mapping[str, Mapping[tuple[int, int], Sequence[float]]],
) -> None:
    data, length, trained = key
    colours = colours_of(found)
    for number, (label, parts) in enumerate(found.items()):
        spans = sorted(parts)
        edges = [max(1, spans[0][0]), *(end for _, end in spans)]
        means = [statistics.fmean(parts[span]) for span in spans]
        colour = colours[label]
        axes.stairs(means, edges, baseline=None, color=colour, linewidth=1.6, label=label)
        middle = [(edges[n] * edges[n + 1]) ** 0.5 for n in range(len(means))]
        middle[0] = (spans[0][1] / 2) if spans[0][0] == 0 else middle[0]
        axes.plot(middle, means, MARKS[number % len(MARKS)], color=colour, markersize=4)
    ends = sorted({end for parts in found.values() for _, end in parts})
    axes.set_xscale("log", base=2)
    axes.set_xlim(ends[0] / 4, ends[-1])
    axes.set_xticks(ends, [str(end) for end in ends], rotation=45)
    axes.axvline(trained, color="#888888", linewidth=0.9, linestyle=":")
    axes.set_xlabel(f"position in a pass of {length:,} tokens (dotted: trained to {trained:,})")
    axes.set_ylabel("nats per token")
    several = any(len(v) > 1 for parts in found.values() for v in parts.values())
    axes.set_title(f"{data}: loss by position{', mean over seeds' * several}")


def _draw_asked(
    axes: Axes, run: str, name: str, encoding: str, found: Mapping[Any, Mapping[int, float]]
) -> None:
    colour = styles([encoding])[encoding].colour
    for number, (seed, values) in enumerate(sorted(found.items(), key=str)):
        x = sorted(values)
        mark = MARKS[number % len(MARKS)]
        axes.plot(x, [values[n] for n in x], color=colour, linewidth=1.1, alpha=0.8,
                  marker=mark, markersize=3, label=f"seed {seed}")  # fmt: skip
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel(name)
    axes.set_ylabel("share of right answers")
    axes.set_title(f"{run}: accuracy by {name}")
