"""Rows of `whatwhere bench attention` -> ratios of time to RoPE with cuDNN; tables of them.

The anchor of a case is RoPE with cuDNN by the faster of two rotations, on the same device and
commit. A case without an anchor has no ratio; what was not measured has no row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "ANCHORS", "FLOPS", "NAMES", "Speed", "last", "markdown", "read_speed", "render", "row_key",
    "speeds",
]  # fmt: skip

Row = Mapping[str, Any]
ANCHORS = ("rope_cudnn", "rope_compiled_cudnn")
FLOPS = 11 / 7
"""PoPE's multiplications over RoPE's, forward and backward: (3 + 8) / (2 + 5)."""

#: Implementations as readers know them.
NAMES = {
    "rope_cudnn": "RoPE, cuDNN",
    "rope_compiled_cudnn": "RoPE, torch.compile + cuDNN",
    "rope_fa2": "RoPE, FlashAttention-2",
    "rope_flex": "RoPE, FlexAttention",
    "rope_fused": "RoPE, whatwhere",
    "rope_own": "RoPE, our own kernels",
    "pope_fused": "PoPE, whatwhere",
    "pope_own": "PoPE, our own kernels",
    "pope_tiled": "PoPE, our plain Triton",
    "pope_tiled_fast": "PoPE, our plain Triton, atomics",
    "rope_tiled": "RoPE, our plain Triton",
    "pope_cudnn": "PoPE, our preparation + cuDNN",
    "pope_lean": "PoPE, prepared again + cuDNN",
    "pope_expand_cudnn": "PoPE, torch.compile + cuDNN",
    "pope_flex": "PoPE, FlexAttention",
    "pope_flash": "PoPE, padded FlashAttention-2",
    "pope_package": "PoPE, PoPE-pytorch 0.2.1",
    "alibi_fused": "ALiBi, whatwhere",
    "alibi_flex": "ALiBi, FlexAttention",
    "bare_cudnn": "attention alone, cuDNN",
    "bare_own": "attention alone, our own",
}
_CASE = ("head_dim", "heads", "kv_heads", "length", "tokens", "mask", "features")
_DEFAULTS: dict[str, Any] = {"study": "attention", "mask": "causal", "features": 0}


def row_key(row: Row) -> tuple[Any, ...]:
    """What a row measured, whoever measured it; rows from before a column was there have its
    default."""
    return tuple(row.get(key, _DEFAULTS.get(key)) for key in ("study", "implementation", *_CASE))


def read_speed(path: str | PathLike[str]) -> list[Row]:
    """The rows of a JSONL file; a last line that a kill cut off is no row.

    Raises FileNotFoundError, and ValueError that names the line of anything else.
    """
    *lines, _torn = Path(path).read_text(encoding="utf-8").split("\n")
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                raise ValueError(f"{path}, line {number}: no JSON object") from None
    return rows


def last(rows: Iterable[Row]) -> list[Row]:
    """The last row of each key, in the order of their first appearance; a number beats an error."""
    found: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = row_key(row)
        if key not in found or "error" not in row or "error" in found[key]:
            found[key] = row
    return list(found.values())


@dataclass(frozen=True)
class Speed:
    """A timed row beside its case's anchor (None: there is none)."""

    row: Row
    anchor: Row | None

    @property
    def name(self) -> str:
        """The implementation."""
        return self.row["implementation"]

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.row["head_dim"]

    @property
    def length(self) -> int:
        """Tokens of a sequence."""
        return self.row["length"]

    @property
    def ms(self) -> float:
        """Forward and backward together."""
        return _total(self.row)

    @property
    def plain(self) -> bool:
        """Causal, as many KV heads as heads, the encoding included: what the tables show."""
        same = self.row["heads"] == self.row["kv_heads"]
        return same and _case(self.row)[5:] == ("causal", 0)

    def over(self, what: str = "sum") -> float | None:
        """Ratio to the anchor: "forward", "backward", "sum" of times, or "memory"; None without."""
        if self.anchor is None:
            return None
        if what == "sum":
            return self.ms / _total(self.anchor)
        key = "peak_mib" if what == "memory" else f"{what}_ms"
        return self.row[key] / self.anchor[key]


def speeds(rows: Iterable[Row]) -> list[Speed]:
    """Timed rows of attention, the last of each key, with the anchors of their own run.

    A run is a device and a commit: what was measured long ago keeps the ratio it had then.
    """
    timed = [row for row in rows if "backward_ms" in row and "implementation" in row]
    runs: dict[tuple[Any, ...], list[Row]] = {}
    for row in timed:
        runs.setdefault(_run(row), []).append(row)
    anchors = {
        run: min(found, key=_total)
        for run, them in runs.items()
        if (found := [row for row in last(them) if row["implementation"] in ANCHORS])
    }
    return [Speed(row, anchors.get(_run(row))) for row in last(timed)]


def markdown(
    rows: Iterable[Row],
    shown: Sequence[str],
    cases: Sequence[tuple[int, int]],
    bold: Sequence[str] = (),
) -> str:
    """Forward plus backward at (head dim, length): the anchor in milliseconds, ratios to it below.

    `shown` are implementations, in order; one without any number has no line.
    """
    found = {(s.name, s.head_dim, s.length): s for s in speeds(rows) if s.plain}
    head = " | ".join(f"d {d}, {_thousands(n)}" for d, n in cases)
    lines = [f"| forward + backward | {head} |", "|---|" + "--:|" * len(cases)]
    times = [
        next((s.anchor for name in ANCHORS if (s := found.get((name, *case))) is not None), None)
        for case in cases
    ]
    cells = ["–" if row is None else f"{_total(row):.2f} ms" for row in times]
    lines.append(f"| RoPE, cuDNN (1.00 is) | {' | '.join(cells)} |")
    for name in shown:
        ratios = [_ratio(found.get((name, *case))) for case in cases]
        if set(ratios) != {"–"}:
            title = f"**{NAMES[name]}**" if name in bold else NAMES[name]
            lines.append(f"| {title} | {' | '.join(ratios)} |")
    return "\n".join(lines)


def render(rows: Iterable[Row], console: Console) -> None:
    """Every case in the terminal: times, memory, ratios to its anchor, fastest first; failures."""
    from rich.table import Table

    rows = list(rows)
    cases: dict[tuple[Any, ...], list[Speed]] = {}
    for each in speeds(rows):
        cases.setdefault(_case(each.row), []).append(each)
    for case, found in sorted(cases.items()):
        table = Table(
            box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", title_style="bold",
            title=_title(case), title_justify="left",
        )  # fmt: skip
        for name in ("", "fwd ms", "bwd ms", "MiB", "fwd", "bwd", "sum", "mem"):
            table.add_column(name, justify="right" if name else "left", no_wrap=True)
        for each in sorted(found, key=lambda speed: speed.ms):
            row = each.row
            numbers = [f"{row['forward_ms']:.3f}", f"{row['backward_ms']:.3f}"]
            numbers.append(f"{row['peak_mib']:.0f}")
            kinds = ("forward", "backward", "sum", "memory")
            ratios = [each.over(kind) for kind in kinds]
            numbers += ["–" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
            table.add_row(each.name + (" ◂" if row is each.anchor else ""), *numbers)
        console.print(table)
        console.print()
    for row in last(rows):
        if "error" in row and "implementation" in row:
            text = f"failed: {row['implementation']} at {_title(_case(row))}: {row['error']}"
            console.print(text, markup=False, style="dim")


def _run(row: Row) -> tuple[Any, ...]:
    return _case(row), row.get("device"), row.get("commit")


def _case(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(key, _DEFAULTS.get(key)) for key in _CASE)


def _title(case: tuple[Any, ...]) -> str:
    d, heads, groups, length, _, mask, features = case
    text = f"attention alone, {features}/{d}" if features else f"head dim {d}"
    text += f", length {_thousands(length)}"
    text += f", GQA {heads // groups}:1" if heads != groups else ""
    return text + (f", {mask}" if mask != "causal" else "")


def _total(row: Row) -> float:
    return row["forward_ms"] + row["backward_ms"]


def _ratio(speed: Speed | None) -> str:
    ratio = None if speed is None else speed.over()
    return "–" if ratio is None else f"{ratio:.2f}"


def _thousands(length: int) -> str:
    return f"{length // 1024}k" if length % 1024 == 0 else str(length)
