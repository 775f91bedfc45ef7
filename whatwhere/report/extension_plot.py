"""Figures of methods that make a model longer: perplexity against length, maps of pass keys."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whatwhere.report.extension import Extension, Line, extension
from whatwhere.report.plot import apart
from whatwhere.report.style import RC
from whatwhere.report.ticks import log_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["extension_figures"]

Row = Mapping[str, Any]

_COLOURS = {
    "none": "#222222",
    "pi": "#8c6d46",
    "ntk": "#E69F00",
    "dynamic_ntk": "#b58900",
    "by_parts": "#44AA99",
    "yarn": "#56B4E9",
    "llama3": "#332288",
    "abf": "#999933",
    "longrope": "#D55E00",
    "rerope": "#009E73",
    "leaky_rerope": "#117733",
    "self_extend": "#CC79A7",
    "dual_chunk": "#882255",
}
_FREE = ("#D55E00", "#0072B2", "#AA4499", "#661100", "#5f5f5f", "#88CCEE")
_MOST = 4.0
"""The scale ends at this multiple of the best perplexity of the longest target."""

_CROWD = 9
"""More lines than these get two panels."""


def extension_figures(rows: Iterable[Row], folder: str | PathLike[str]) -> list[Path]:
    """Draw folder/figure.png and .svg, and keys.png and .svg where pass keys were measured."""
    import matplotlib as mpl

    mpl.use("Agg", force=False)
    import matplotlib.pyplot as plt

    rows, folder = list(rows), Path(folder)
    found = extension(rows)
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    with mpl.rc_context(RC):
        groups = _groups(found.lines)
        most = max(12, *(len(lines) for lines in groups.values()))
        canvas, grid = plt.subplots(
            1, len(groups), figsize=(6.0 * len(groups), 1.0 + 0.29 * most), squeeze=False,
            gridspec_kw={"wspace": 0.74},
        )  # fmt: skip
        for axes, (title, lines) in zip(grid.flat, groups.items(), strict=True):
            _lengths(axes, found, lines)
            axes.set_title(title or _title(found), fontweight="normal" if title else "bold")
        grid[0, 0].set_ylabel("perplexity")
        if len(groups) > 1:
            _headline(canvas, _title(found), grid[0, 0])
        paths += _saved(canvas, folder / "figure")
        plt.close(canvas)
        maps, counts = _maps(rows, found)
        if maps:
            columns = min(6, len(maps))
            lines = math.ceil(len(maps) / columns)
            canvas, grid = plt.subplots(
                lines, columns, figsize=(0.7 + 1.45 * columns, 0.7 + 1.5 * lines), squeeze=False,
                sharex=True, sharey=True, gridspec_kw={"hspace": 0.42, "wspace": 0.12},
            )  # fmt: skip
            _draw_maps(grid, maps)
            _headline(canvas, f"Pass keys found, in per cent of {counts}: depth of the key (down), "
                      "length of the text (right)", grid[0, 0])  # fmt: skip
            paths += _saved(canvas, folder / "keys")
            plt.close(canvas)
    return paths


def _title(found: Extension) -> str:
    return f"{found.model}: trained at {found.train_length} tokens, read further"


def _headline(canvas: Any, text: str, first: Axes) -> None:
    """A title over all axes, a line above the first one's own."""
    box = first.get_position()
    canvas.text(
        box.x0, box.y1 + 0.36 / canvas.get_figheight(), text, ha="left", va="bottom",
        fontsize=10, fontweight="bold",
    )  # fmt: skip


def _groups(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """Panels by what a method costs: many lines in one can not be told apart."""
    one = [line for line in lines if line.products == 1]
    more = [line for line in lines if line.products > 1]
    if len(lines) <= _CROWD or not one or not more:
        return {"": list(lines)}
    return {
        "one product of queries and keys a pair": one,
        "two or three products: pairs split by distance": more,
    }


def colours(methods: Sequence[str]) -> dict[str, str]:
    """A colour for every method: its own, that of its first part, or a free one."""
    free = iter(_FREE * len(methods))
    first = {m: re.split(r"[+:@]", m)[0] for m in methods}
    taken: dict[str, str] = {}
    for method in methods:  # a search's results have a colour each
        own = None if "@" in method else _COLOURS.get(method) or _COLOURS.get(first[method])
        taken[method] = own or next(free)
    return taken


def _saved(canvas: Any, stem: Path) -> list[Path]:
    paths: list[Path] = []
    for suffix in ("png", "svg"):
        paths.append(stem.with_suffix(f".{suffix}"))
        # No date: the same rows give the same file.
        canvas.savefig(
            paths[-1], bbox_inches="tight", metadata={"Date": None} if suffix == "svg" else None
        )
    return paths


def _lengths(axes: Axes, found: Extension, lines: Sequence[Line]) -> None:
    palette = colours([line.method for line in found.lines])
    lengths = [found.train_length, *found.targets]
    ends: list[tuple[float, str, float]] = []
    values = [v for line in lines for v in (line.short, *line.perplexity) if v is not None]
    last = [v for line in lines if (v := line.perplexity[-1]) is not None]
    low = min(values) * 0.97
    high = min(max(values) * 1.03, _MOST * min(last, default=max(values)))
    plain = next((line.short for line in found.lines if line.method == "none"), None)
    for line in lines:
        # Every curve starts from the untouched model: a method is made for each target anew.
        points = [plain or line.short, *line.perplexity]
        drawn = [(x, y) for x, y in zip(lengths, points, strict=True) if y is not None]
        if not drawn:
            continue
        style: Any = {"color": palette[line.method], "linewidth": 1.5}
        style["linestyle"] = (0, (4, 1.6)) if "+" in line.method else "-"
        if line.method == "none":
            style["linewidth"] = 2.6
        axes.plot([x for x, _ in drawn], [y for _, y in drawn], marker="o", markersize=3, **style)
        ends.append((drawn[-1][1], line.method, drawn[-1][0]))
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.set_xscale("log", base=2)
    labels = [f"{n / found.train_length:g}×\n{n}" for n in lengths]
    axes.set_xticks(lengths, labels, minor=False)
    axes.set_xticks([], minor=True)
    log_ticks(axes, low, high)
    axes.set_xlabel("length of the text: multiples of the trained length, and tokens")
    _name(axes, sorted(ends), palette, low, high)


def _name(
    axes: Axes, ends: list[tuple[float, str, float]], palette: dict[str, str], low: float,
    high: float,
) -> None:  # fmt: skip
    span = math.log(high / low)
    places = [math.log(min(max(y, low), high) / low) / span for y, _, _ in ends]
    gap = min(0.058, 1.0 / max(1, len(ends)))
    for (value, method, x), place, height in zip(ends, places, _within(places, gap), strict=True):
        text = method + (f" ↑ {_short(value)}" if value > high else f"  {_short(value)}")
        axes.annotate(
            text, xy=(x, low * math.exp(place * span)), xytext=(1.06, height),
            textcoords="axes fraction", color=palette[method], va="center", fontsize=8.5,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": palette[method], "lw": 0.6,
                        "relpos": (0, 0.5), "shrinkA": 2, "shrinkB": 3},
        )  # fmt: skip


def _within(places: list[float], gap: float) -> list[float]:
    """Ascending places `gap` apart, none above the axes' top or far below their foot."""
    spread, limit = apart(places, gap), 1.0
    for number in reversed(range(len(spread))):
        spread[number] = min(spread[number], limit)
        limit = spread[number] - gap
    least = -gap
    for number, place in enumerate(spread):
        spread[number] = max(place, least)
        least = spread[number] + gap
    return spread


def _short(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}" if value < 1e5 else f"{value:.0e}"


def _maps(
    rows: Sequence[Row], found: Extension
) -> tuple[dict[str, dict[tuple[int, float], float]], str]:
    """Share of keys by (length, depth) of every method, as made for the length; of how many."""
    counts: set[int] = set()
    maps: dict[str, dict[tuple[int, float], float]] = {}
    for row in rows:
        if row.get("task") != "passkey" or "error" in row or row["engine"] != "whatwhere":
            continue
        length, made = row["eval_length"], round(row["factor"] * row["train_length"])
        counts.add(row["n"])
        place = maps.setdefault(row["method"], {})
        if made == length or (length, row["depth"]) not in place or made == found.targets[-1]:
            place[length, row["depth"]] = row["value"]
    return maps, " or ".join(map(str, sorted(counts)))


def _draw_maps(grid: Any, maps: dict[str, dict[tuple[int, float], float]]) -> None:
    import numpy as np

    lengths = sorted({n for cells in maps.values() for n, _ in cells})
    depths = sorted({d for cells in maps.values() for _, d in cells})
    flat = list(grid.flat)
    for axes, (method, cells) in zip(flat, maps.items(), strict=False):
        values = np.full((len(depths), len(lengths)), np.nan)
        for (length, depth), value in cells.items():
            values[depths.index(depth), lengths.index(length)] = value
        axes.imshow(values, vmin=0, vmax=1, cmap="cividis", aspect="auto")
        size = 8 if len(method) <= 16 else 7  # or long names touch
        axes.set_title(method, fontsize=size, fontweight="normal", pad=3)
        axes.grid(visible=False)
        axes.set_xticks(range(len(lengths)), [str(n) for n in lengths], fontsize=6.5, rotation=45)
        axes.set_yticks(range(len(depths)), [f"{d:g}" for d in depths], fontsize=6.5)
        for (j, i), value in np.ndenumerate(values):
            if not np.isnan(value):
                axes.text(
                    i, j, f"{100 * value:.0f}", ha="center", va="center", fontsize=6,
                    color="white" if value < 0.55 else "black",
                )  # fmt: skip
    for number, axes in enumerate(flat):
        axes.set_visible(number < len(maps))
        below = number + grid.shape[1] < len(maps)
        axes.tick_params(labelbottom=not below, length=0)
