"""The README's table of speeds, from rows: ratios of time to RoPE with cuDNN at the same widths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROWS = Path(__file__).parent / "rows" / "attention-h200.jsonl"
SHOWN = {
    "rope_cudnn": "RoPE, cuDNN (1.00 is)",
    "rope_fa2": "RoPE, FlashAttention-2",
    "pope_fused": "**PoPE, whatwhere**",
    "pope_expand_cudnn": "PoPE, torch.compile + cuDNN",
    "pope_package": "PoPE, PoPE-pytorch 0.2.1",
}
CASES = [(64, 1024), (64, 4096), (64, 16384), (128, 1024), (128, 4096), (128, 16384)]


def table(path: Path = ROWS) -> str:
    """Forward plus backward, encoding included: the anchor in milliseconds, else ratios to it."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    times = {
        (row["implementation"], row["head_dim"], row["length"]): row["forward_ms"]
        + row["backward_ms"]
        for row in rows
        if "forward_ms" in row and row["heads"] == row["kv_heads"]
    }
    lines = [
        "| forward + backward | " + " | ".join(f"d {d}, {n // 1024}k" for d, n in CASES) + " |"
    ]
    lines.append("|---|" + "--:|" * len(CASES))
    for name, title in SHOWN.items():
        cells = [_cell(times, name, d, n) for d, n in CASES]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(times: dict[Any, float], name: str, d: int, n: int) -> str:
    if (name, d, n) not in times:
        return "–"
    if name == "rope_cudnn":
        return f"{times[name, d, n]:.2f} ms"
    return f"{times[name, d, n] / times['rope_cudnn', d, n]:.2f}"


if __name__ == "__main__":
    print(table())
