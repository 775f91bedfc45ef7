"""Steps per second of the training engine: several seeds of a small model in one CUDA graph.

Indirect indexing as the PoPE paper trains it: 8 layers of width 512, 8 heads of 64, batch 64,
48 tokens or fewer, bfloat16, AdamW; drawing the batch and updating the weights belong to the step.
"Seed-steps" are steps times seeds: what a study pays.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from whatwhere.bench.ledger import Row
from whatwhere.study.config import Config
from whatwhere.study.model import build_model
from whatwhere.study.stacked import Stacked
from whatwhere.study.step import Graphed, Step
from whatwhere.tasks import draw

__all__ = ["PAPER", "EngineCase", "rows"]


@dataclass(frozen=True)
class EngineCase:
    """What is trained, and how it is timed: the median over `rounds` of `steps` steps each."""

    config: Config
    encodings: tuple[str, ...] = ("rope", "pope")
    seeds: tuple[int, ...] = (1, 2, 4, 8)
    rounds: int = 7
    steps: int = 50
    graph: bool = True


def _paper(device: str = "cuda") -> Config:
    cuda = device != "cpu"
    return Config(
        task="indirect", width=512, layers=8, heads=8, activation="gelu", steps=100_000,
        batch_size=64, train_length=47, lr=2e-4, warmup=4000, beta2=0.99, device=device,
        precision="bfloat16" if cuda else "float32", compile=cuda,
    )  # fmt: skip


PAPER = EngineCase(_paper())


def rows(case: EngineCase = PAPER, say: Callable[[str], None] = lambda _: None) -> Iterator[Row]:
    """A row an encoding and number of seeds: seed-steps per second, ms a step, peak memory."""
    for encoding in case.encodings:
        for count in case.seeds:
            say(f"{encoding}, {count} seed{'s' * (count > 1)}")
            yield _row(case, encoding, count)
            gc.collect()
            torch.compiler.reset()
            if case.config.device != "cpu":
                torch.cuda.empty_cache()


def _row(case: EngineCase, encoding: str, count: int) -> Row:
    config, device = case.config, torch.device(case.config.device)
    data, began = draw("indirect"), time.monotonic()
    cuda = device.type == "cuda"
    base = torch.cuda.memory_allocated() if cuda else 0
    decoders = [build_model(config, encoding, data.vocab_size, s).to(device) for s in range(count)]
    stacked = Stacked(decoders).train()
    step = Step(stacked, data, config, torch.arange(count, device=device))
    one = Graphed(step, device)
    if not case.graph:
        one.side = None
    for _ in range(5):
        one()
    first = step.losses[:5].mean(1).tolist()  # waits for the device
    compiled = time.monotonic() - began
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    times = [_seconds(one, case.steps, device) for _ in range(case.rounds)]
    middle = statistics.median(times)
    row: Row = {
        "study": "engine",
        "implementation": f"{encoding}_{'graph' if case.graph and cuda else 'plain'}",
        "encoding": encoding,
        "layers": config.layers,
        "head_dim": config.width // config.heads,
        "heads": config.heads,
        "kv_heads": config.heads,
        "length": data.length,
        "tokens": count * config.batch_size * data.length,
        "seeds": count,
        "seed_steps_per_s": round(count / middle, 1),
        "step_ms": round(1e3 * middle, 4),
        "fastest_ms": round(1e3 * min(times), 4),
        "slowest_ms": round(1e3 * max(times), 4),
        "compile_s": round(compiled, 1),
        "losses": [round(loss, 4) for loss in first],
    }
    if cuda:
        row["peak_mib"] = round((torch.cuda.max_memory_allocated() - base) / 2**20, 1)
    return row


def _seconds(one: Graphed, count: int, device: torch.device) -> float:
    """Mean time of a step, the host's work included."""
    began = time.perf_counter()
    for _ in range(count):
        one()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / count
