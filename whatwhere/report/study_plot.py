"""Figures of a study: perplexity against length, every seed's validation curve, and parts."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import statistics
from collections.abc import Callable, Sequence, Set
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whatwhere.report.rows import Row
from whatwhere.report.study_parts import (
    MARKS,
    asked_panels,
    colours_of,
    label_of,
    position_panels,
)
from whatwhere.report.style import KNOWN, RC, styles
from whatwhere.report.ticks import log_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["source_of", "study_figures"]

Points = dict[str, dict[int, list[float]]]
"""Label -> length -> values, one a seed."""

Curves = dict[str, dict[str, list[tuple[int, float]]]]
"""Training -> seed -> (step, value)."""


def source_of(rows: Sequence[Row], curves: Path) -> str:
    """What figures of these rows and curves carry, to know them by: sixteen letters."""
    text = json.dumps(list(rows), sort_keys=True).encode()
    text += curves.read_bytes() if curves.exists() else b""
    return hashlib.sha256(text).hexdigest()[:16]


def study_figures(rows: Sequence[Row], curves: Path, stem: Path) -> list[Path]:
    """Draw what there is into stem.png/.svg (lengths), stem-curves, stem-positions, stem-asked.

    lengths: perplexity of trainings that were read at several lengths, means over seeds with the
    lowest and highest; a panel for each set of targets. curves: a line a seed, accuracy where the
    rows have it, else nll; a panel for each data set. positions and asked: `study_parts`.
    The same rows give the same files; returns them. Those of vectors carry `source_of`.
    """
    paths: list[Path] = []
    save = partial(_save, source=source_of(rows, curves))
    lengths = _lengths(rows)
    if lengths:
        paths += save(
            stem,
            [partial(_draw_lengths, found=each, probe=probe) for probe, each in lengths.items()],
        )
    accuracy = any(row["metric"] == "accuracy" for row in rows)
    found = _curves(curves, "valid_accuracy" if accuracy else "valid_nll")
    if found:
        name = "share of right answers" if accuracy else "validation loss, nats per token"
        place = stem.with_name(f"{stem.name}-curves") if lengths else stem
        data = {row["data"] for row in rows if isinstance(row.get("data"), str)}
        named = {run: _named(run, data) for run in found}
        tasks: dict[str, Curves] = {}
        for run, seeds in found.items():
            tasks.setdefault(named[run][0], {})[run] = seeds
        encodings = {run: encoding for run, (_, encoding) in named.items()}
        draw = partial(_draw_curves, encodings=encodings, name=name, falls=not accuracy)
        paths += save(place, [partial(draw, found=each) for each in tasks.values()])
    for name, panels in (("positions", position_panels(rows)), ("asked", asked_panels(rows))):
        if panels:
            paths += save(stem.with_name(f"{stem.name}-{name}"), panels)
    return paths


def _lengths(rows: Sequence[Row]) -> dict[str, Points]:
    """Perplexities by length of what has several, by probe: other targets, so other numbers."""
    found: dict[str, Points] = {}
    for row in sorted(rows, key=lambda row: bool(row.get("probe"))):
        if row["metric"] != "nll" or row.get("positions") or "value" not in row:
            continue
        points = found.setdefault(row.get("probe", ""), {}).setdefault(label_of(row), {})
        points.setdefault(row["eval_length"], []).append(math.exp(min(row["value"], 50.0)))
    several = {
        probe: {label: each for label, each in points.items() if len(each) > 1}
        for probe, points in found.items()
    }
    return {probe: points for probe, points in several.items() if points}


def _curves(path: Path, column: str) -> Curves:
    found: Curves = {}
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                value = float(line[column] or "nan")
                if math.isfinite(value):
                    seeds = found.setdefault(line["run"], {})
                    seeds.setdefault(line["seed"], []).append((int(line["step"]), value))
    return found


def _draw_lengths(axes: Axes, found: Points, probe: str) -> None:
    colours = colours_of(found)
    for number, (label, points) in enumerate(found.items()):
        x = sorted(points)
        means = [statistics.fmean(points[n]) for n in x]
        shape: dict[str, Any] = {
            "marker": MARKS[number % len(MARKS)],
            "markersize": 4,
            "linewidth": 1.5,
        }
        axes.plot(x, means, label=label, color=colours[label], **shape)
        low, high = ([pick(points[n]) for n in x] for pick in (min, max))
        axes.fill_between(x, low, high, color=colours[label], alpha=0.15, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    log_ticks(axes, *axes.get_ylim())
    ticks = sorted({n for points in found.values() for n in points})
    axes.set_xticks(ticks, [str(n) for n in ticks], rotation=45)
    band = any(len(values) > 1 for points in found.values() for values in points.values())
    spread = "; band: lowest to highest seed" * band
    axes.set_xlabel(f"evaluation length, tokens (one pass{spread})")
    axes.set_ylabel("perplexity per token")
    axes.set_title(f"{probe}{': ' * bool(probe)}the same targets at every length")


def _named(run: str, data: Set[str]) -> tuple[str, str]:
    """What a run was trained on, and its encoding: jsb_pope is (jsb, pope), pope_free its own.

    One of `data` that comes last (rope_books, nodelta_books) is no part of the encoding's name. A
    share of the steps (s_rope@0.1) changes neither.
    """
    run = run.partition("@")[0]
    front, _, last = run.rpartition("_")
    if last in KNOWN:
        return front, last
    return ("", front) if last in data else ("", run)


def _draw_curves(
    axes: Axes, found: Curves, encodings: dict[str, str], name: str, falls: bool
) -> None:
    """`falls`: of a loss that begins high, what follows the first tenth fills the axes."""
    drawing = styles([encodings[run] for run in found])
    for run, seeds in found.items():
        for count, points in enumerate(seeds.values()):
            x, y = zip(*points, strict=True)
            label = f"{run} ({len(seeds)} seed{'s' * (len(seeds) > 1)})" if count == 0 else None
            colour = drawing[encodings[run]].colour
            axes.plot(x, y, color=colour, linewidth=1.1, alpha=0.8, label=label)
            axes.plot(x[-1], y[-1], "o", color=colour, markersize=2.5)
    axes.set_xlabel("step")
    axes.set_ylabel(name)
    axes.set_title("validation, one line a seed")
    if falls:
        every = [points for seeds in found.values() for points in seeds.values()]
        later = [y for points in every for x, y in points if 10 * x >= points[-1][0]]
        margin = 0.05 * (max(later) - min(later))
        axes.set_ylim(min(later) - margin, max(later) + margin)


def _save(stem: Path, draws: Sequence[Callable[[Axes], None]], source: str) -> list[Path]:
    """One panel for each of `draws`, at most three side by side."""
    import matplotlib as mpl

    mpl.use("Agg", force=False)
    import matplotlib.pyplot as plt

    stem.parent.mkdir(parents=True, exist_ok=True)
    wide, legend = len(draws) > 1, {"frameon": False, "fontsize": 8}
    columns = min(len(draws), 3)
    lines = -(-len(draws) // columns)
    with mpl.rc_context(RC):
        size = (5.2 * columns if wide else 7.4, 4.5 * lines)
        canvas, panels = plt.subplots(lines, columns, figsize=size, squeeze=False)
        for axes in panels.flat[len(draws) :]:
            axes.set_axis_off()
        for axes, draw in zip(panels.flat, draws, strict=False):
            draw(axes)
            if wide:
                axes.legend(**legend)
            else:
                axes.legend(**legend, loc="upper left", bbox_to_anchor=(1.01, 1.0))
        canvas.tight_layout()
        paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("png", "svg")]
        for path in paths:
            # No date: the same rows give the same file.
            vectors = path.suffix == ".svg"
            metadata: Any = {"Date": None, "Identifier": source} if vectors else None
            canvas.savefig(path, bbox_inches="tight", metadata=metadata)
        plt.close(canvas)
    return paths
