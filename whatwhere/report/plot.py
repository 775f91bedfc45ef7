"""The figure: the metric against the evaluation length, in multiples of the training length."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whatwhere.report.blocks import Block, blocks, multiple
from whatwhere.report.rows import Row
from whatwhere.report.style import RC, Style, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["figure"]

_ROOM = 4.0
"""A curve is clipped where it leaves more than this many times the range of the ordinary ones."""


def figure(rows: Iterable[Row], out_stem: str | PathLike[str]) -> list[Path]:
    """Draw the rows into out_stem.png and out_stem.svg (…-2 and so on for further blocks).

    Lines are means over seeds, bands their standard deviation. A curve that explodes is clipped,
    and a label on the plot says how far it goes. Returns the files in the order (png, svg) a block;
    a block in which everything failed has no figure.
    """
    import matplotlib as mpl

    mpl.use("Agg", force=False)
    import matplotlib.pyplot as plt

    drawn = [block for block in blocks(rows) if _curves(block)]
    paths: list[Path] = []
    stem = Path(out_stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    for number, block in enumerate(drawn, start=1):
        with mpl.rc_context(RC):
            canvas, axes = plt.subplots(figsize=(7.4, 4.5))
            _draw(axes, block)
            for suffix in ("png", "svg"):
                name = stem.name + (f"-{number}" if number > 1 else "")
                paths.append(stem.with_name(f"{name}.{suffix}"))
                # No date: the same rows give the same file.
                metadata: Any = {"Date": None} if suffix == "svg" else None
                canvas.savefig(paths[-1], bbox_inches="tight", metadata=metadata)
            plt.close(canvas)
    return paths


def _curves(block: Block) -> dict[str, list[tuple[int, float, float]]]:
    """(length, mean, standard deviation or 0) of every encoding that has a value."""
    found: dict[str, list[tuple[int, float, float]]] = {}
    for encoding in block.encodings:
        cells = [(length, block.cell(encoding, length)) for length in block.lengths]
        points = [(n, c.mean, c.spread or 0.0) for n, c in cells if c.mean is not None]
        if points:
            found[encoding] = points
    return found


def _draw(axes: Axes, block: Block) -> None:
    curves, drawing = _curves(block), styles(block.encodings)
    low, high = _limits(block, curves)
    for encoding, points in curves.items():
        style = drawing[encoding]
        x = [length / block.train_length for length, _, _ in points]
        y = [mean for _, mean, _ in points]
        axes.plot(x, y, marker=style.marker, markersize=4.5, linewidth=1.7, **style.line)
        if any(spread for _, _, spread in points):
            below = [mean - spread for _, mean, spread in points]
            above = [mean + spread for _, mean, spread in points]
            axes.fill_between(x, below, above, color=style.colour, alpha=0.16, linewidth=0)
    axes.set_ylim(low, high)
    _horizontal(axes, block)
    _name(axes, block, curves, drawing)
    axes.set_ylabel(block.measure)
    highest = max(mean for points in curves.values() for _, mean, _ in points)
    _title(axes, block, clipped=highest > axes.get_ylim()[1])


def _title(axes: Axes, block: Block, clipped: bool) -> None:
    title = f"trained at {block.train_length} {block.unit}s, evaluated further"
    if block.setting.get("task"):
        title = f"{block.setting['task']}: {title}"
    notes: list[str] = []
    if any(cell.spread is not None for cell in block.cells.values()):
        notes.append(f"mean of {len(block.seeds)} seeds, band: standard deviation")
    if clipped:
        notes.append("↑ leaves the scale, with its highest value")
    axes.set_title(title, pad=22 if notes else 10)
    axes.text(
        0, 1.025, "; ".join(notes), transform=axes.transAxes, fontsize=8.5, color="#555555"
    )  # fmt: skip


def _limits(block: Block, curves: dict[str, list[tuple[int, float, float]]]) -> tuple[float, float]:
    """The y range: all of the ordinary curves, and so much of the exploding ones."""
    low = min(mean - spread for points in curves.values() for _, mean, spread in points)
    tops = sorted(max(mean + s for _, mean, s in points) for points in curves.values())
    ordinary = statistics.median_low(tops)
    high = low + _ROOM * (ordinary - low)
    for top in tops:  # a little more room if that shows another curve in full
        high = top if high < top <= low + 1.5 * (high - low) else high
    if high > tops[-1] or block.sign < 0 or ordinary <= low:
        high = tops[-1]
    margin = 0.06 * (high - low) or 0.1 * (abs(high) or 1.0)
    return low - margin, high + (margin if high == tops[-1] else 0.0)


def _horizontal(axes: Axes, block: Block) -> None:
    axes.set_xscale("log", base=2)
    multiples = [length / block.train_length for length in block.lengths]
    labels = [f"{multiple(n, block.train_length)}\n{n}" for n in block.lengths]
    axes.set_xticks(multiples, labels, minor=False)
    axes.set_xticks([], minor=True)
    first, last = min(1.0, multiples[0]), max(1.0, multiples[-1])
    edge = (last / first) ** 0.04 if last > first else 1.3
    axes.set_xlim(first / edge, last * edge)
    axes.axvspan(first / edge, 1.0, color="#f1f1f1", zorder=0)
    axes.axvline(1.0, color="#999999", linewidth=0.8, linestyle=":")
    axes.set_xlabel(f"evaluation length: multiples of the training length, and {block.unit}s")


def _name(
    axes: Axes,
    block: Block,
    curves: dict[str, list[tuple[int, float, float]]],
    drawing: dict[str, Style],
) -> None:
    """A label for every curve to the right of the plot, pushed apart where they would overlap.

    A thin line leads from the end of a curve to its label; what ends early or leaves the scale has
    its marker before the label instead, because the line would look like a curve.
    """
    low, high = axes.get_ylim()
    ends: list[tuple[float, str]] = []
    for encoding, points in curves.items():
        ends.append(((min(max(points[-1][1], low), high) - low) / (high - low), encoding))
    ends.sort()
    for (place, encoding), height in zip(ends, apart([e[0] for e in ends]), strict=True):
        points, style = curves[encoding], drawing[encoding]
        highest = max(mean for _, mean, _ in points)
        inside = points[-1][0] == block.lengths[-1] and points[-1][1] <= high
        text = encoding if len(encoding) <= 34 else encoding[:33] + "…"
        if points[-1][0] != block.lengths[-1]:
            text += f" (ends at {multiple(points[-1][0], block.train_length)})"
        text += f" ↑ {highest:.3g}" if highest > high else ""
        if not inside:
            axes.plot(
                1.03, height, transform=axes.transAxes, clip_on=False,
                marker=style.marker, markersize=4.5, color=style.colour,
            )  # fmt: skip
        axes.annotate(
            text,
            xy=(points[-1][0] / block.train_length, low + place * (high - low)),
            xytext=(1.045, height),
            textcoords="axes fraction",
            color=style.colour,
            va="center",
            fontsize=9,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": style.colour,
                "lw": 0.6 if inside else 0.0,
                "relpos": (0, 0.5),
                "shrinkA": 2,
                "shrinkB": 4,
            },
        )


def apart(heights: list[float], gap: float = 0.058) -> list[float]:
    """Ascending heights, moved as little as needed to be `gap` apart and within [0, 1]."""
    placed = list(heights)
    for _ in range(200):
        moved = False
        for first in range(len(placed) - 1):
            overlap = gap - (placed[first + 1] - placed[first])
            if overlap > 1e-9:
                placed[first] -= overlap / 2
                placed[first + 1] += overlap / 2
                moved = True
        if not moved:
            break
    shift = max(0.0, -placed[0]) - max(0.0, placed[-1] - 1.0) if placed else 0.0
    return [height + shift for height in placed]
