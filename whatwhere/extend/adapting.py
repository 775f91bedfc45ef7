"""`whatwhere adapt`: a few hundred steps at the longer length, with the method in force.

accelerate is the engine: the same command trains on a CPU, on one GPU, or under `accelerate launch`
on many. Batch number `step` is a pure function of (text, seed, step), so a training that was killed
goes on with the same batches, on a CPU ends with the same bits, and may go on with another number
of processes: each takes every n-th window of the same batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from whatwhere import hf
from whatwhere.extend.adaptation import Adaptation, Batches, begin, trainable
from whatwhere.extend.forward import Reader
from whatwhere.extend.models import Source
from whatwhere.extend.saving import save
from whatwhere.study import checkpoint
from whatwhere.study.rows import append, commit, device_name, mend, read_rows, versions

__all__ = ["Adaptation", "adapt"]


def adapt(
    plan: Adaptation,
    source: Source,
    model: Any,
    text: Tensor,
    out: Path,
    say: Callable[[str], None] = lambda line: None,
    stop: Callable[[], bool] = lambda: False,
    every: float = 30.0,
    cpu: bool = False,
) -> Path:
    """Train, or go on with what `out` holds; the folder of what was trained.

    out holds plan.json, rows.jsonl, checkpoint.pt, and at the end adapter/ or model/. Of several
    processes the first writes and speaks. Raises KeyboardInterrupt once stop() holds in any, after
    a checkpoint; ValueError where `out` holds another training, the text is too short or the batch
    has fewer windows than there are processes; FloatingPointError for a loss that is not finite.
    """
    training = _Training(plan, source, model, text, out, say, cpu)
    training.run(stop, every)
    return training.finish()


class _Training:
    def __init__(
        self, plan: Adaptation, source: Source, model: Any, text: Tensor, out: Path,
        say: Callable[[str], None], cpu: bool,
    ) -> None:  # fmt: skip
        from accelerate import Accelerator
        from accelerate.utils import set_seed

        self.plan, self.source, self.out = plan, source, out
        self.made, self.batches = plan.check(source), Batches(plan, text)
        self.valid = self.batches.held_out(source.train_length)
        begin(plan, text, out)
        set_seed(plan.seed)
        mixed = "bf16" if plan.precision == "bfloat16" else "no"
        self.engine = Accelerator(mixed_precision=mixed, cpu=cpu)
        if plan.batch_size < self.engine.num_processes:
            raise ValueError(
                f"--batch-size {plan.batch_size} is below the {self.engine.num_processes} "
                "processes: give each of them a window"
            )
        self.say = say if self.main else _silent
        self.bare = trainable(model, plan).to(self.engine.device)
        hf.use(self.bare, self.made.expression, train_length=source.train_length)
        weights = [p for p in self.bare.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=plan.lr, weight_decay=plan.weight_decay)
        self.model, self.optimizer = self.engine.prepare(self.bare, optimizer)
        self.step, self.seconds = 0, 0.0
        self._resume()

    @property
    def rows(self) -> Path:
        return self.out / "rows.jsonl"

    @property
    def main(self) -> bool:
        return bool(self.engine.is_main_process)

    def run(self, stop: Callable[[], bool], every: float) -> None:
        if self.step == 0 and self._missing(0):
            self._validate()
        saved = clock = time.monotonic()
        self.model.train()
        while self.step < self.plan.steps:
            loss = self._gradient()
            due = self.main and time.monotonic() - saved >= every
            loss, asked, due = self._together(loss, stop(), due)
            self._update(loss)
            now = time.monotonic()
            self.seconds, clock = self.seconds + now - clock, now
            last = self.step == self.plan.steps
            if last or self.step % max(1, self.plan.steps // 20) == 0:
                self._log(loss)
            if asked or due or last:
                self._save()
                saved = time.monotonic()
            if asked and not last:
                raise KeyboardInterrupt
            clock = time.monotonic()

    def finish(self) -> Path:
        if self._missing(self.plan.steps):
            self._validate()
        lora = self.plan.train == "lora"
        folder = self.out / ("adapter" if lora else "model")
        if self.main and not folder.exists():
            if lora:
                self.bare.save_pretrained(str(folder))
            else:
                text, length = self.made.expression, self.plan.target
                self.say(save(self.bare, self.source, text, folder, in_force=True, length=length))
        self.engine.wait_for_everyone()
        return folder

    def _missing(self, step: int) -> bool:
        """Whether the held-out loss of a step is to be measured, as the first process sees it."""
        from accelerate.utils import broadcast_object_list

        there = any(r["step"] == step and r["role"] == "valid" for r in read_rows(self.rows))
        told = [not there]
        broadcast_object_list(told)
        return told[0]

    def _gradient(self) -> float:
        """Gradients of the batch's mean loss; this process's share of that loss."""
        plan, engine = self.plan, self.engine
        mine = self.batches(self.step)[engine.process_index :: engine.num_processes]
        total = 0.0
        for number, part in enumerate(mine.split(1)):  # long windows fill the memory: one at a time
            part = part.to(engine.device)
            last = number == len(mine) - 1  # gradients meet once a step
            with nullcontext() if last else engine.no_sync(self.model):
                with engine.autocast():
                    logits = self._logits(part[:, :-1])
                loss = F.cross_entropy(logits.float().flatten(0, 1), part[:, 1:].flatten())
                # Processes' gradients are averaged; their numbers of windows may differ by one.
                engine.backward(loss * (engine.num_processes / plan.batch_size))
            total += float(loss.detach()) / plan.batch_size
        return total

    def _together(self, loss: float, asked: bool, due: bool) -> tuple[float, bool, bool]:
        """The whole loss; whether any process was asked to stop, or holds that it is time to save.

        All have to know: one that stopped or saved alone would be waited for for ever.
        """
        if self.engine.num_processes == 1:
            return loss, asked, due
        told = torch.tensor([loss, asked, due], dtype=torch.float64, device=self.engine.device)
        total, stops, saves = self._sum(told).tolist()
        return total, stops > 0, saves > 0

    def _update(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {self.step}; lower --lr")
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate(self.step)
        self.engine.clip_grad_norm_(self.model.parameters(), self.plan.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def _logits(self, tokens: Tensor) -> Tensor:
        try:
            return self.model(input_ids=tokens, use_cache=False).logits
        except ValueError as error:  # on a CPU attention refuses what is no number
            if "NaN" not in str(error):
                raise
            raise FloatingPointError(
                f"the model's vectors are not finite at step {self.step}; lower --lr"
            ) from None

    def _validate(self) -> None:
        """Loss on the held-out end, at the trained length and the target; windows are shared."""
        engine = self.engine
        self.bare.eval()
        for length, samples in self.valid.items():
            total = torch.zeros((), dtype=torch.float64, device=engine.device)
            for window in samples[engine.process_index :: engine.num_processes]:
                with engine.autocast():
                    losses = Reader(self.bare).losses(window[None].to(engine.device))
                total += losses.double().sum()
            n = len(samples) * length
            value = float(self._sum(total)) / n
            self._row("valid", length, value, n)
            self.say(f"step {self.step:>5}  held-out perplexity at {length}: {math.exp(value):.3f}")
        self.model.train()

    def _sum(self, value: Tensor) -> Tensor:
        found = self.engine.reduce(value, "sum")
        assert isinstance(found, Tensor)
        return found

    def _log(self, loss: float) -> None:
        left = self.seconds / max(1, self.step) * (self.plan.steps - self.step)
        self.say(f"step {self.step:>5}/{self.plan.steps}  loss {loss:.4f}  {left:.0f} s left")
        self._row("train", self.plan.target, loss, self.plan.batch_size * self.plan.target)

    def _row(self, role: str, length: int, value: float, n: int) -> None:
        if not self.main:
            return
        plan, device = self.plan, str(self.engine.device)
        append(
            self.rows,
            {
                "study": "adapt", "model": self.source.name, "method": plan.method,
                "encoding": self.made.expression, "train": plan.train, "role": role,
                "train_length": self.source.train_length, "eval_length": length,
                "task": "perplexity", "mode": "one_pass", "metric": "nll", "value": value, "n": n,
                "step": self.step, "steps": plan.steps, "seed": plan.seed,
                "tokens": self.step * plan.batch_size * plan.target,
                "seconds": round(self.seconds, 3), "precision": plan.precision,
                "processes": self.engine.num_processes, "device": device_name(device),
                "commit": commit(), "versions": versions(),
            },
        )  # fmt: skip

    def _save(self) -> None:
        if self.main:
            trained = {n: p.detach().cpu() for n, p in self.bare.named_parameters()
                       if p.requires_grad}  # fmt: skip
            state = {
                "step": self.step, "seconds": self.seconds, "trained": trained,
                "optimizer": self.optimizer.state_dict(),
            }  # fmt: skip
            checkpoint.save(self.out / "checkpoint.pt", state)
        self.engine.wait_for_everyone()

    def _resume(self) -> None:
        state = checkpoint.load(self.out / "checkpoint.pt")
        if self.main:
            mend(self.rows)
            reached = state["step"] if state else 0
            kept = [row for row in read_rows(self.rows) if row["step"] <= reached]
            self.rows.unlink(missing_ok=True)
            for row in kept:  # what a kill left behind its last checkpoint is measured again
                append(self.rows, row)
        self.engine.wait_for_everyone()
        if state is None:
            return
        own = dict(self.bare.named_parameters())
        with torch.no_grad():
            for name, value in state["trained"].items():
                own[name].copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.say(f"going on at step {self.step}")


def _silent(line: str) -> None:
    """What processes other than the first say."""
