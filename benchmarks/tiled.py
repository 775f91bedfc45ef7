"""Times of the plain Triton attention kernels beside the Hopper ones: which backward is faster.

    python -m benchmarks.tiled --out rows.jsonl

Bare features, bfloat16, causal; one row for each kernel, widths and length: forward, the backward
pass in two kernels (deterministic) and in one (atomics). `kernels.attention.FAST` is filled from
these rows. Runs on one GPU of compute capability 8.0 or later.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import triton
from triton.testing import do_bench

from whatwhere.kernels import attention as A
from whatwhere.kernels.pairs import Pairs
from whatwhere.kernels.tiled_sizes import of_device

WIDTHS = ((64, 64), (128, 64), (128, 128), (256, 128), (192, 96))
LENGTHS = (1024, 4096, 16384)
TOKENS = 32768


def rows_of(kernel: str, f: int, dv: int, length: int, groups: int) -> dict[str, object]:
    """One measurement; heads fill 2,048 channels of values, medians in milliseconds."""
    device, heads = torch.device("cuda"), 2048 // dv
    batch, kv_heads = TOKENS // length, heads // groups
    q, k, v, grad = (
        torch.randn(batch, length, h, w, device=device, dtype=torch.bfloat16).transpose(1, 2)
        for h, w in ((heads, f), (kv_heads, f), (kv_heads, dv), (heads, dv))
    )
    pairs, scale = Pairs(), dv**-0.5
    out, lse = A.forward(q, k, v, scale, pairs, kernel)

    def back(deterministic: bool) -> None:
        A.backward(grad, q, k, v, out, lse, scale, pairs, kernel, deterministic)

    def ahead() -> None:
        A.forward(q, k, v, scale, pairs, kernel)

    row: dict[str, object] = {
        "kernel": kernel, "features": f, "values": dv, "length": length, "tokens": TOKENS,
        "heads": heads, "kv_heads": kv_heads, "gpu": of_device(device),
        "forward_ms": do_bench(ahead, return_mode="median"),
        "backward_ms": do_bench(lambda: back(True), return_mode="median"),
        "device": torch.cuda.get_device_name(), "torch": torch.__version__,
        "triton": triton.__version__,
    }  # fmt: skip
    if kernel == "tiled":
        row["fast_backward_ms"] = do_bench(lambda: back(False), return_mode="median")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    device = torch.device("cuda")
    for f, dv in WIDTHS:
        for kernel in ("hopper", "tiled"):
            reason = A.why_not(kernel, f, dv, torch.bfloat16, device)
            for length in LENGTHS:
                row = {"kernel": kernel, "features": f, "values": dv, "error": reason}
                row = row if reason else rows_of(kernel, f, dv, length, 1)
                print(row, flush=True)
                with out.open("a") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
