"""A table of ratios from rows: pure text, no torch."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
ANCHORS = ("rope_cudnn", "rope_compiled_cudnn")


def table(rows: list[Row]) -> str:
    """Each implementation over the anchor of its case: forward, backward, sum, memory."""
    timed = [row for row in rows if "backward_ms" in row]
    lines = [
        f"{'case':16s} {'implementation':20s} {'fwd ms':>8s} {'bwd ms':>8s} {'MiB':>7s}"
        f" {'fwd':>6s} {'bwd':>6s} {'sum':>6s} {'mem':>6s}   worst error"
    ]
    cases = dict.fromkeys(key(row) for row in timed)
    for case in sorted(cases):
        here = [row for row in timed if key(row) == case]
        anchors = [row for row in here if row["implementation"] in ANCHORS]
        anchor = min(anchors, key=total) if anchors else None
        for row in sorted(here, key=total):
            mark = " <- anchor" if row is anchor else ""
            lines.append(_line(row, anchor) + mark)
    failed = [row for row in rows if "implementation" in row and "backward_ms" not in row]
    lines += [f"FAILED {name(row)} {row['implementation']}: {row['error'][:150]}" for row in failed]
    lines += _preparation(rows)
    return "\n".join(lines)


def key(row: Row) -> tuple[int, int, int]:
    return row["head_dim"], row["heads"] // row["kv_heads"], row["length"]


def name(row: Row) -> str:
    d, grouped, n = key(row)
    return f"d{d} n{n}" + (f" gqa{grouped}" if grouped > 1 else "")


def total(row: Row) -> float:
    return row["forward_ms"] + row["backward_ms"]


def _line(row: Row, anchor: Row | None) -> str:
    worst = max(row["error_of"].values())
    text = (
        f"{name(row):16s} {row['implementation']:20s} {row['forward_ms']:8.3f}"
        f" {row['backward_ms']:8.3f} {row['peak_mib']:7.0f}"
    )
    if anchor is None:
        return text
    ratios = [row[which] / anchor[which] for which in ("forward_ms", "backward_ms")]
    ratios += [total(row) / total(anchor), row["peak_mib"] / anchor["peak_mib"]]
    return text + "".join(f" {ratio:6.3f}" for ratio in ratios) + f"   {worst:.1e}"


def _preparation(rows: list[Row]) -> list[str]:
    kernels = [row for row in rows if "of_copy" in row]
    best: dict[tuple[Any, ...], Row] = {}
    for row in kernels:
        case = (row["prep"], row["direction"], row["head_dim"], row["heads"] // row["kv_heads"])
        if case not in best or row["ms"] < best[case]["ms"]:
            best[case] = row
    copied = next((row["copy_gb_s"] for row in rows if "copy_gb_s" in row), None)
    lines = [f"preparation kernels, best sizes; a copy moves {copied} GB/s"] if best else []
    for (encoding, direction, d, grouped), row in sorted(best.items()):
        lines.append(
            f"{encoding} {direction:8s} d{d} gqa{grouped}: {row['ms']:.3f} ms, {row['gb_s']} GB/s,"
            f" {row['of_copy']:.2f} of copy, tile/warps/heads {row['sizes']}"
        )
    return lines
