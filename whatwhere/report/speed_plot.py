"""The figure of speeds: time and memory over RoPE with cuDNN, against length."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whatwhere.report.plot import apart
from whatwhere.report.speed import FLOPS, Row, Speed, speeds
from whatwhere.report.style import RC

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["digest", "drawn", "speed_figure"]


@dataclass(frozen=True)
class _Curve:
    label: str
    colour: str
    width: float = 1.5
    dash: str = "-"


#: What is drawn, RoPE in blues, PoPE in warm colours, ours thick; Okabe and Ito's palette.
CURVES: Mapping[str, _Curve] = {
    "rope_fused": _Curve("RoPE, ours", "#0072B2", 2.2),
    "rope_fa2": _Curve("RoPE, FA2", "#56B4E9"),
    "rope_flex": _Curve("RoPE, Flex", "#3b7d9e", dash="--"),
    "pope_fused": _Curve("PoPE, ours", "#D55E00", 2.6),
    "pope_expand_cudnn": _Curve("PoPE, compiled", "#882255"),
    "pope_flex": _Curve("PoPE, Flex", "#E69F00", dash="--"),
    "pope_package": _Curve("PoPE-pytorch", "#5f5f5f"),
}
_MOST = {"sum": 3.3, "memory": 2.7}
"""Where the scales end; what lies above is named at the top edge."""


def speed_figure(rows: Iterable[Row], out_stem: str | PathLike[str]) -> list[Path]:
    """Draw out_stem.png and .svg: a column a head dim, time ratios above, memory ratios below.

    Causal rows with as many KV heads as heads, the encoding included. The dashed grey line is the
    ratio of multiplications. Returns the files; none if no row has an anchor.
    """
    import matplotlib as mpl

    mpl.use("Agg", force=False)
    import matplotlib.pyplot as plt

    found = drawn(rows)
    dims = sorted({each.head_dim for each in found if _long_enough(found, each.head_dim)})
    if not dims:
        return []
    stem, paths = Path(out_stem), list[Path]()
    stem.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(RC):
        canvas, grid = plt.subplots(
            2, len(dims), figsize=(1.2 + 4.7 * len(dims), 6.1), squeeze=False, sharex="col",
            sharey="row", gridspec_kw={"height_ratios": (1.7, 1), "wspace": 0.5, "hspace": 0.13},
        )  # fmt: skip
        for column, dim in enumerate(dims):
            here = [each for each in found if each.head_dim == dim]
            for line, what in enumerate(("sum", "memory")):
                grid[line][column].set_ylim(*_limits(found, what))
                _panel(grid[line][column], here, what)
            grid[0][column].set_title(f"head dim {dim}")
            grid[1][column].set_xlabel("tokens of a sequence")
        grid[0][0].set_ylabel("time, forward + backward\n(RoPE with cuDNN = 1)")
        grid[1][0].set_ylabel("peak memory\n(RoPE with cuDNN = 1)")
        for suffix in ("png", "svg"):
            paths.append(stem.with_name(f"{stem.name}.{suffix}"))
            metadata: Any = {"Description": digest(found)}
            metadata |= {"Date": None} if suffix == "svg" else {}
            canvas.savefig(paths[-1], bbox_inches="tight", metadata=metadata)
        plt.close(canvas)
    return paths


def drawn(rows: Iterable[Row]) -> list[Speed]:
    """What of the rows the figure shows."""
    return [each for each in speeds(rows) if each.plain and each.anchor and each.name in CURVES]


def digest(found: Iterable[Speed]) -> str:
    """Names, places and ratios in a few letters; the files carry it as their description, so that
    a figure can be held against rows whatever drew it."""
    points = [
        (each.name, each.head_dim, each.length, f"{each.over():.3f}", f"{each.over('memory'):.3f}")
        for each in found
    ]
    return "rows " + hashlib.sha256(repr(sorted(points)).encode()).hexdigest()[:16]


def _long_enough(found: Sequence[Speed], dim: int) -> bool:
    return len({each.length for each in found if each.head_dim == dim}) > 2


def _limits(found: Sequence[Speed], what: str) -> tuple[float, float]:
    values = [ratio for points in _curves(found, what).values() for _, ratio in points]
    return min([*values, 1.0]) - 0.12, min(_MOST[what], max([*values, FLOPS]) + 0.15)


def _curves(found: Sequence[Speed], what: str) -> dict[str, list[tuple[int, float]]]:
    """(length, ratio) of everything drawn; what never leaves the line of memory 1 is that line."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for name in CURVES:
        points = [(s.length, s.over(what)) for s in found if s.name == name]
        known = sorted((n, ratio) for n, ratio in points if ratio is not None)
        on_the_line = all(abs(ratio - 1) < 0.01 for _, ratio in known)
        if known and not (what == "memory" and on_the_line):
            curves[name] = known
    return curves


def _panel(axes: Axes, found: Sequence[Speed], what: str) -> None:
    low, top = axes.get_ylim()
    curves = _curves(found, what)
    lengths = sorted({each.length for each in found})
    axes.set_xscale("log", base=2)
    axes.set_xlim(lengths[0] / 1.15, lengths[-1] * 1.15)
    axes.set_xticks(lengths, [f"{n // 1024}k" for n in lengths])
    axes.set_xticks([], minor=True)
    axes.axhline(1.0, color="#222222", linewidth=1.1)
    if what == "sum":
        axes.axhline(FLOPS, color="#888888", linewidth=1.0, linestyle=(0, (4, 3)))
    for name, points in curves.items():
        inside = [(n, ratio) for n, ratio in points if ratio <= top]
        curve = CURVES[name]
        if inside:
            axes.plot(
                *zip(*inside, strict=True), color=curve.colour, linewidth=curve.width,
                linestyle=curve.dash, marker="o", markersize=2.2 + curve.width,
            )  # fmt: skip
    _labels(axes, curves, what, (low, top))
    _above(axes, curves, top)


def _labels(
    axes: Axes,
    curves: Mapping[str, Sequence[tuple[int, float]]],
    what: str,
    limits: tuple[float, float],
) -> None:
    """A name beside the end of every curve, and beside the lines of reference."""
    low, top = limits
    anchor = "RoPE, cuDNN (1.00)" if what == "sum" else "RoPE (1.00)"
    ends: list[tuple[float, str, str, bool]] = [(1.0, anchor, "#222222", False)]
    if what == "sum":
        ends.append((FLOPS, f"PoPE's arithmetic ({FLOPS:.2f})", "#777777", False))
    for name, points in curves.items():
        inside = [ratio for _, ratio in points if ratio <= top]
        if inside:
            curve = CURVES[name]
            text = f"{curve.label} ({inside[-1]:.2f})"
            ends.append((inside[-1], text, curve.colour, curve.width > 2))
    ends.sort(key=lambda end: end[0])
    height = 0.062 if what == "sum" else 0.105
    places = apart([(end[0] - low) / (top - low) for end in ends], height)
    for (_, text, colour, ours), place in zip(ends, places, strict=True):
        axes.text(
            1.03, place, text, transform=axes.transAxes, va="center", fontsize=8.6, color=colour,
            fontweight="bold" if ours else "normal",
        )  # fmt: skip


def _above(axes: Axes, curves: Mapping[str, Sequence[tuple[int, float]]], top: float) -> None:
    """Name what lies above the scale, under the upper edge."""
    above = {
        CURVES[name]: [(length, ratio) for length, ratio in points if ratio > top]
        for name, points in curves.items()
    }
    noted = [(curve, points) for curve, points in above.items() if points]
    for line, (curve, points) in enumerate(noted):
        ratios = [ratio for _, ratio in points]
        if len(points) == 1:
            what = f"at {points[0][0] // 1024}k: {ratios[0]:.3g}"
        else:
            what = f"(not shown): {min(ratios):.3g} to {max(ratios):.3g}"
        axes.text(
            0.98, 0.97 - 0.065 * line, f"↑ {curve.label} {what}", transform=axes.transAxes,
            ha="right", va="center", fontsize=8.6, color=curve.colour,
        )  # fmt: skip
