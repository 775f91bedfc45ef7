"""Tokens per second of a whole model, RoPE beside PoPE in one run, and what attention saves.

A GPT of 124M parameters: 12 layers of width 768, 12 heads of 64, vocabulary 50,304, 1,024 tokens,
batch 32, bfloat16 autocast, torch.compile, cross-entropy and a fused AdamW step; random tokens.
Both models stay in memory and take turns, so that clocks and neighbours are the same for both.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from whatwhere.attention import Call, Where, attend, backend_reasons
from whatwhere.bench.ledger import Row
from whatwhere.encodings import make
from whatwhere.nn import Decoder, DecoderConfig

__all__ = ["GPT", "ModelCase", "rows", "saved_bytes"]

ENCODINGS = ("rope", "pope")


@dataclass(frozen=True)
class ModelCase:
    """Sizes of the model and of its training step.

    compile: "blocks" (one graph that all blocks share, and the loss: seconds), "model" (all in one
    graph: minutes for both encodings) or "none".
    """

    layers: int = 12
    width: int = 768
    heads: int = 12
    vocab_size: int = 50304
    length: int = 1024
    batch: int = 32
    compile: str = "blocks"
    rounds: int = 9
    steps: int = 3

    def config(self, encoding: str) -> DecoderConfig:
        """GPT-2's shape: an MLP of 4 widths with GELU, embeddings tied."""
        return DecoderConfig(
            self.vocab_size,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            activation="gelu",
            encoding=encoding,
            train_length=self.length,
        )


GPT = ModelCase()


class _Training:
    """One model with its optimizer and a compiled step."""

    def __init__(self, encoding: str, case: ModelCase, device: torch.device) -> None:
        torch.manual_seed(0)
        self.device = device
        self.model = Decoder(case.config(encoding)).to(device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-4, fused=device.type == "cuda"
        )
        self.entropy = F.cross_entropy
        self.loss = torch.compile(self._loss) if case.compile == "model" else self._loss
        if case.compile == "blocks":
            self.entropy = torch.compile(F.cross_entropy)
            for block in self.model.blocks:
                block.compile()
        shape = (case.batch, case.length + 1)
        drawn = torch.randint(case.vocab_size, shape, generator=torch.Generator().manual_seed(1))
        self.tokens = drawn.to(device)

    def _loss(self, tokens: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16):
            logits = self.model(tokens[:, :-1])
            return self.entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    def step(self) -> Tensor:
        """Forward, backward, update."""
        loss = self.loss(self.tokens)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()


def rows(
    case: ModelCase = GPT, device: str = "cuda", say: Callable[[str], None] = lambda _: None
) -> Iterator[Row]:
    """A row of each encoding: tokens per second (median over rounds, with the spread), step time,
    peak memory, seconds of compilation; then a row each of what one attention call saves."""
    place = torch.device(device)
    trainings: dict[str, _Training] = {}
    found: dict[str, Row] = {}
    for encoding in ENCODINGS:
        say(f"{encoding}: building, compiling")
        trainings[encoding], found[encoding] = _prepared(encoding, case, place)
    times: dict[str, list[float]] = {encoding: [] for encoding in ENCODINGS}
    for number in range(case.rounds):
        say(f"round {number + 1} of {case.rounds}")
        # Turn and turn about: whoever goes first has the warmer chip.
        for encoding in ENCODINGS if number % 2 else reversed(ENCODINGS):
            times[encoding].append(_seconds(trainings[encoding].step, case.steps, place))
    tokens = case.batch * case.length
    for encoding, seconds in times.items():
        middle = statistics.median(seconds)
        yield found[encoding] | {
            "tokens_per_s": round(tokens / middle, 1),
            "step_ms": round(1e3 * middle, 4),
            "fastest_ms": round(1e3 * min(seconds), 4),
            "slowest_ms": round(1e3 * max(seconds), 4),
        }
    trainings.clear()
    gc.collect()
    for encoding in ENCODINGS:
        yield _name(encoding, case, "saved") | saved_bytes(encoding, case, place)


def _prepared(encoding: str, case: ModelCase, place: torch.device) -> tuple[_Training, Row]:
    cuda, began = place.type == "cuda", time.monotonic()
    base = torch.cuda.memory_allocated() if cuda else 0
    training = _Training(encoding, case, place)
    losses = [float(training.step()) for _ in range(3)]
    row = _name(encoding, case, "model")
    row["parameters"] = sum(each.numel() for each in training.model.parameters())
    row["compile_s"] = round(time.monotonic() - began, 1)
    row["losses"] = [round(loss, 4) for loss in losses]
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        training.step()
        torch.cuda.synchronize()
        row["peak_mib"] = round((torch.cuda.max_memory_allocated() - base) / 2**20, 1)
    return training, row


def _name(encoding: str, case: ModelCase, study: str) -> Row:
    return {
        "study": study,
        "implementation": f"{encoding}_{case.compile}",
        "encoding": encoding,
        "layers": case.layers,
        "head_dim": case.width // case.heads,
        "heads": case.heads,
        "kv_heads": case.heads,
        "length": case.length,
        "tokens": case.batch * case.length,
    }


def _seconds(step: Callable[[], Any], count: int, place: torch.device) -> float:
    """Mean time of a step over `count` of them, the host's work included as in a training."""
    _wait(place)
    began = time.perf_counter()
    for _ in range(count):
        step()
    _wait(place)
    return (time.perf_counter() - began) / count


def _wait(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize()


def saved_bytes(encoding: str, case: ModelCase, place: torch.device) -> Row:
    """Bytes that autograd keeps for the backward pass of one attention call of the model.

    Each storage counts once; raw queries, keys and values count where they are kept.
    """
    n, d = case.length, case.width // case.heads
    made = make(encoding, heads=case.heads, head_dim=d, width=case.width, train_length=n).to(place)
    shape = (case.batch, n, case.heads, d)
    dtype = torch.bfloat16
    leaves = [torch.randn(shape, device=place, dtype=dtype).requires_grad_() for _ in range(3)]
    q, k, v = (x.transpose(1, 2) for x in leaves)
    where, kept = Where(n, n, device=place), dict[int, int]()

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return x

    rule = made.rule(n)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        out = attend(q, k, v, rule, where=where)
    reasons = backend_reasons(rule, Call(q, k, v, where, d**-0.5))
    chosen = next(name for name, reason in reasons.items() if reason is None)
    del out
    return {"saved_bytes": sum(kept.values()), "backend": chosen}
