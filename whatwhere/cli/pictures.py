"""Drawing what `patterns` computes: one figure with a section for each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from whatwhere.cli.patterns import (
    Scores,
    decay_bound,
    relative_angles,
    score_pattern,
    seen_angles,
    smoothed,
)
from whatwhere.encodings import Encoding, parse
from whatwhere.report.style import RC, Style, styles

__all__ = ["Picture"]

_COLUMNS = 3
_POINTS = 512  # columns of a heat map: more than a figure has pixels for


@dataclass
class Picture:
    """Encodings to draw: `make(text, tokens)` builds one for a text of that many tokens."""

    texts: Sequence[str]
    make: Callable[[str, int], Encoding]
    train_length: int
    length: int
    factors: tuple[int, ...]
    seed: int

    def save(self, out: Path, kinds: Iterable[str]) -> list[str]:
        """Draw the kinds below one another into `out`; returns notes on what was left out.

        Raises ValueError if nothing remains to be drawn.
        """
        import matplotlib as mpl

        mpl.use("Agg", force=False)
        import matplotlib.pyplot as plt

        self.styles: dict[str, Style] = styles(self.texts)
        self.notes: list[str] = []
        self._patterns: dict[str, tuple[Encoding, Scores]] = {}
        with mpl.rc_context(RC):
            sections = [s for kind in kinds if (s := _SECTIONS[kind](self)) is not None]
            if not sections:
                raise ValueError("; ".join(self.notes) or "nothing to draw")
            heights = [height for height, _ in sections]
            figure = plt.figure(figsize=(9.6, sum(heights)), layout="constrained")
            parts = figure.subfigures(len(sections), 1, height_ratios=heights, squeeze=False)
            for part, (_, draw) in zip(parts[:, 0], sections, strict=True):
                draw(part)
            out.parent.mkdir(parents=True, exist_ok=True)
            metadata: Any = {"Date": None} if out.suffix == ".svg" else None
            figure.savefig(out, metadata=metadata)
            plt.close(figure)
        return self.notes

    def scores(self) -> tuple[float, Callable[[Any], None]]:
        """Score over distance, a panel for each encoding."""
        rows = -(-len(self.texts) // _COLUMNS)
        return 0.75 + 2.05 * rows, self._draw_scores

    def _draw_scores(self, part: Any) -> None:
        _headline(
            part,
            "Score over distance: equal random content (line: mean, band: standard deviation); "
            "biases head by head, the first darkest",
        )
        columns = min(_COLUMNS, len(self.texts))
        rows = -(-len(self.texts) // columns)
        panels = part.subplots(rows, columns, squeeze=False).flatten()
        for index, (text, axes) in enumerate(zip(self.texts, panels, strict=False)):
            self._score_panel(axes, text)
            if index + columns < len(self.texts):  # another panel stands below
                axes.set_xlabel("")
        for axes in panels[len(self.texts) :]:
            axes.set_axis_off()

    def _score_panel(self, axes: Any, text: str) -> None:
        encoding, found = self._pattern(text)
        colour, distance = self.styles[text].colour, torch.arange(len(found.mean)).numpy()
        title = _short(text)
        if found.bias is not None and not found.content:
            heads = found.bias.shape[0]
            title += f": bias of {heads} heads"
            for head, bias in enumerate(found.bias):
                shade = 1.0 - 0.7 * head / max(1, heads - 1)
                axes.plot(distance, bias.numpy(), color=colour, linewidth=1.3, alpha=shade)
        else:
            mean, std = found.mean.numpy(), found.std.numpy()
            axes.fill_between(
                distance, mean - std, mean + std, color=colour, alpha=0.18, linewidth=0
            )
            axes.plot(distance, mean, color=colour, linewidth=1.0)
        if any(True for _ in encoding.parameters()):
            title += " (untrained)"
        self._over_distance(axes, title)
        if len(distance) < self.length:
            middle = (len(distance) + self.length) / 2
            axes.text(
                middle, 0.5, "no code here", ha="center", va="center", fontsize=8,
                transform=axes.get_xaxis_transform(), color="#777777",
            )  # fmt: skip

    def angles(self) -> tuple[float, Callable[[Any], None]] | None:
        """Angle of every frequency over distance: a column for each encoding, a row per factor."""
        turning = [text for text in self.texts if self._turns(text)]
        left = [text for text in self.texts if text not in turning]
        if left:
            self.notes.append(f"no angles of {', '.join(left)}: nothing turns there")
        if not turning:
            return None
        rows = len(self.factors) * -(-len(turning) // _columns(len(turning)))
        return 0.9 + 1.85 * rows, lambda part: self._draw_angles(part, turning)

    def _draw_angles(self, part: Any, turning: list[str]) -> None:
        _headline(part, "Rotation angle of every frequency (hatched: not shown by training)")
        columns = _columns(len(turning))
        cells = [(factor, text) for factor in self.factors for text in turning]
        wrapped = -(-len(turning) // columns)
        panels = part.subplots(len(self.factors) * wrapped, columns, squeeze=False)
        image: Any = None
        for axes in panels.flat:
            axes.set_axis_off()
        for index, (factor, text) in enumerate(cells):
            block, place = divmod(index, len(turning))
            axes = panels[block * wrapped + place // columns, place % columns]
            axes.set_axis_on()
            image = self._angle_panel(axes, text, factor)
            axes.set_title(_short(text, 84 // columns), fontsize=9)
            if place % columns == 0:
                axes.set_ylabel(f"{factor}× the length\nfrequency, fast first", fontsize=8)
            if block == len(self.factors) - 1:
                axes.set_xlabel("distance i - j", fontsize=8)
        bar = part.colorbar(image, ax=panels, fraction=0.025, pad=0.01)
        bar.set_ticks([0, torch.pi / 2, torch.pi, 1.5 * torch.pi, 2 * torch.pi])
        bar.set_ticklabels(["0", "π/2", "π", "3π/2", "≥ 2π"])
        bar.set_label("angle (radians)", fontsize=8)

    def _angle_panel(self, axes: Any, text: str, factor: int) -> Any:
        from matplotlib.colors import PowerNorm

        length = factor * self.train_length
        trained = self.make(parse(text).trained, self.train_length)
        with torch.no_grad():
            angles = relative_angles(self.make(text, length).rule(length), length)
            seen = seen_angles(trained.rule(self.train_length, training=True), self.train_length)
        assert angles is not None
        assert seen is not None
        step = max(1, length // _POINTS)
        angles, count = angles[:, ::step].abs(), angles.shape[0]
        extent = (0, length, count, 0)
        image = axes.imshow(
            angles.clamp(max=2 * torch.pi).numpy(), aspect="auto", cmap="cividis", extent=extent,
            norm=PowerNorm(0.5, 0, 2 * torch.pi), interpolation="nearest",
        )  # fmt: skip
        # A token's step of slack: interpolation ends within one step of the last trained angle.
        slack = self.train_length / (self.train_length - 1) + 1e-6
        unseen = (angles > seen[:, None] * slack) & (seen < 2 * torch.pi)[:, None]
        if bool(unseen.any()):
            axes.contourf(
                unseen.double().numpy(), levels=[0.5, 1.5], colors="none", hatches=["////"],
                extent=(0, length, 0, count), origin="lower",
            )  # fmt: skip
        axes.axvline(self.train_length, color="white", linewidth=1.2, linestyle="--")
        axes.grid(visible=False)
        axes.tick_params(labelsize=7.5)
        axes.set_xticks(([0] if factor <= 4 else []) + sorted({self.train_length, length}))
        return image

    def decay(self) -> tuple[float, Callable[[Any], None]]:
        """Expected score and upper bound, all encodings in one plot each."""
        return 3.4, self._draw_decay

    def _draw_decay(self, part: Any) -> None:
        _headline(part, "Decay over distance, averaged over a tenth of the distance around it")
        turning = [text for text in self.texts if self._turns(text)]
        panels = part.subplots(1, 2 if turning else 1, squeeze=False)[0]
        falls: dict[str, float] = {}
        for text in self.texts:
            encoding, curve = self._pattern(text)[0], self._pattern(text)[1].mean
            falls[text] = float((curve - curve[0]).min())
            line: dict[str, Any] = {"linewidth": 1.5, **self.styles[text].line}
            panels[0].plot(*_numbers(curve - curve[0]), label=_short(text), **line)
            if text in turning:
                bound = decay_bound(encoding.rule(self.length), self.length)
                assert bound is not None
                panels[1].plot(*_numbers(bound), **line)
        self._over_distance(panels[0], "expected score, less that at distance 0", log=True)
        _clip(panels[0], falls)
        if turning:
            self._over_distance(panels[1], "RoPE's upper bound on a rotated score", log=True)
            panels[1].set_ylim(bottom=0)
        part.legend(
            loc="outside lower center", ncols=min(len(self.texts), 6), frameon=False, fontsize=8.5
        )

    def _over_distance(self, axes: Any, title: str, log: bool = False) -> None:
        """What all plots over distance share: the trained range shaded, up to its length."""
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.set_xlabel("distance i - j" + (" + 1" if log else ""), fontsize=8.5)
        if log:
            axes.set_xscale("log", base=2)
        axes.set_xlim(1 if log else 0, self.length)
        axes.axvspan(1 if log else 0, self.train_length, color="#f1f1f1", zorder=0)
        axes.axvline(self.train_length, color="#999999", linewidth=0.8, linestyle=":")

    def _pattern(self, text: str) -> tuple[Encoding, Scores]:
        """The encoding and its scores at full length, drawn once for all sections."""
        if text not in self._patterns:
            encoding = self.make(text, self.length)
            generator = torch.Generator().manual_seed(self.seed)
            self._patterns[text] = encoding, score_pattern(encoding, self.length, 32, generator)
        return self._patterns[text]

    def _turns(self, text: str) -> bool:
        rule = self.make(text, self.length).rule(self.length)
        return relative_angles(rule, 2) is not None


_SECTIONS: dict[str, Callable[[Picture], Any]] = {
    "scores": Picture.scores,
    "angles": Picture.angles,
    "decay": Picture.decay,
}


def _short(text: str, most: int = 36) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _columns(count: int) -> int:
    """Columns of heat maps: at most five, rows as even as they can be."""
    return -(-count // -(-count // 5))


def _clip(axes: Any, falls: dict[str, float]) -> None:
    """Leave room for the ordinary curves, and say where the others go."""
    ordinary = sorted(falls.values())[len(falls) // 2]
    floor = 1.6 * ordinary
    beyond = [f"{_short(text, 20)} to {low:.0f}" for text, low in falls.items() if low < floor]
    if beyond and ordinary < 0:
        axes.set_ylim(floor, -0.08 * floor)
        axes.text(
            0.02, 0.03, "↓ leaves the scale: " + ", ".join(beyond), fontsize=8, color="#555555",
            transform=axes.transAxes,
        )  # fmt: skip


def _numbers(curve: torch.Tensor) -> tuple[Any, Any]:
    at, mean = smoothed(curve)
    return at.numpy(), mean.numpy()


def _headline(part: Any, text: str) -> None:
    part.suptitle(text, fontsize=10, x=0.01, ha="left")
