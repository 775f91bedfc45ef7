"""The training loop: large batches, no host sync between log lines, stops and goes on anywhere."""

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

from whatwhere.extend.base.books import Tokens
from whatwhere.extend.base.llama import Llama, export
from whatwhere.extend.base.needles import Batches
from whatwhere.extend.base.plan import Plan, learning_rate
from whatwhere.study import checkpoint
from whatwhere.study.rows import append, commit, device_name, mend, read_rows, versions

__all__ = ["LOG_EVERY", "Training"]

LOG_EVERY = 25
VALID_POINTS = 10


class Training:
    """A model on its way to `plan.steps`, in `out`: plan.json, rows.jsonl, checkpoint.pt, model/.

    A training that was killed goes on from its checkpoint with the same batches and the same
    state: on a CPU the same bits, on a GPU the same up to the order in which its atomics add.
    FloatingPointError if the loss is not finite.
    """

    def __init__(
        self,
        plan: Plan,
        batches: Batches,
        valid: Tokens,
        out: Path,
        device: str = "cpu",
        compiled: bool = False,
        tokenizer: Path | None = None,
        say: Callable[[str], Any] = lambda line: None,
    ) -> None:
        self.plan, self.batches, self.out, self.say = plan, batches, out, say
        out.mkdir(parents=True, exist_ok=True)
        self.device, self.tokenizer = torch.device(device), tokenizer
        self.valid = windows(valid, plan.length, plan.valid_windows)
        torch.set_float32_matmul_precision("high")
        self.model = Llama(plan.sizes, plan.seed).to(self.device)
        self.optimizer = optimizer_of(self.model, plan)
        self.loss = torch.compile(self._loss, dynamic=False) if compiled else self._loss
        self.step, self.seconds = 0, 0.0
        self.sum, self.counted = torch.zeros((), device=self.device), 0
        self._resume()
        self._logged = self.step, self.seconds

    def run(self, every: float = 30.0, stop: Callable[[], bool] = lambda: False) -> bool:
        """Train to the end, or until stop() holds; a checkpoint every `every` seconds.

        True if the training is finished.
        """
        plan, asked = self.plan, False
        marks = {round(plan.steps * (i + 1) / VALID_POINTS) for i in range(VALID_POINTS)}
        saved = clock = time.monotonic()
        while self.step < plan.steps and not asked:
            self._update()
            asked, last = stop(), self.step == plan.steps
            logs = self.step % LOG_EVERY == 0 or last
            if not logs and not asked and self.step not in marks:
                continue
            mean = float(self.sum) / self.counted  # the one host sync
            self.seconds, clock = self.seconds + time.monotonic() - clock, time.monotonic()
            if logs:
                self._log(mean)
            if self.step in marks:
                self._validate(self.model)
            if asked or last or time.monotonic() - saved >= every:
                self.save()
                saved = time.monotonic()
            clock = time.monotonic()
        return self.step == plan.steps

    def finish(self) -> None:
        """Score the weights as they are shipped: rounded to float16, computed in float32."""
        torch.set_float32_matmul_precision("highest")
        if any(row["precision"] == "float16 weights" for row in read_rows(self.rows)):
            return
        model = Llama(self.plan.sizes).to(self.device)
        model.load_state_dict({k: v.half().float() for k, v in self.model.state_dict().items()})
        self._validate(model, "float16 weights")

    def save(self) -> None:
        """The checkpoint, and the model as it stands in the form that is shipped."""
        state: dict[str, Any] = {
            "step": self.step,
            "seconds": self.seconds,
            "sum": self.sum.cpu(),
            "counted": self.counted,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        checkpoint.save(self.out / "checkpoint.pt", state)
        if self.tokenizer is not None:
            export(self.model, self.tokenizer, self.out / "model")

    def steps_in(self, seconds: float, warm: int = 6, timed: int = 24) -> int:
        """How many steps take `seconds` here, measured on steps that are then taken back."""
        model = {name: value.clone() for name, value in self.model.state_dict().items()}
        for count in (warm, timed):
            self._synchronize()
            started = time.monotonic()
            for _ in range(count):
                self._update()
            self._synchronize()
        per_step = (time.monotonic() - started) / timed  # type: ignore[possibly-undefined]
        self.model.load_state_dict(model)
        self.optimizer = optimizer_of(self.model, self.plan)
        self.step, self.counted = 0, 0
        self.sum.zero_()
        return max(LOG_EVERY, int(seconds / per_step))

    @property
    def rows(self) -> Path:
        """The file of results."""
        return self.out / "rows.jsonl"

    def _loss(self, tokens: Tensor) -> Tensor:
        logits = self.model(tokens[:, :-1]).float()
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    def _update(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.plan)
        with self._autocast():
            loss = self.loss(self._on_device(self.batches(self.step)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.sum += loss.detach()
        self.counted += 1
        self.step += 1

    def _on_device(self, rows: Tokens) -> Tensor:
        tokens = torch.from_numpy(rows.astype("int32"))
        if self.device.type == "cuda":  # pinned, so that the copy waits for nothing
            tokens = tokens.pin_memory().to(self.device, non_blocking=True)
        return tokens.long()

    def _autocast(self) -> Any:
        if self.plan.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    @torch.no_grad()
    def _validate(self, model: Llama, precision: str = "") -> None:
        """Loss on books that training never sees, and pass keys found at the full length."""
        rows, places = self.batches.passkeys(self.valid)
        asked = zip(
            self._on_device(rows).split(32), torch.from_numpy(places).split(32), strict=True
        )
        total = hits = 0.0
        with nullcontext() if precision else self._autocast():
            for part in self._on_device(self.valid).split(32):
                logits, targets = model(part[:, :-1]).float(), part[:, 1:]
                lost = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
                total += float(lost)
            for part, where in asked:
                best, at = model(part[:, :-1]).argmax(-1), where.to(self.device)
                hits += float((best.gather(1, at - 1) == part.gather(1, at)).all(1).sum())
        n = len(self.valid)
        self._row("valid_nll", total / (n * self.plan.length), n * self.plan.length, precision)
        self._row("passkey", hits / n, n, precision)

    def _log(self, mean: float) -> None:
        plan = self.plan
        if not math.isfinite(mean):
            raise FloatingPointError(f"the loss is {mean} at step {self.step}; lower --lr")
        before, was = self._logged
        speed = (self.step - before) * plan.tokens_per_step / max(self.seconds - was, 1e-9)
        self._row("train_nll", mean, self.counted * plan.tokens_per_step, speed=speed)
        left = (plan.steps - self.step) * plan.tokens_per_step / speed
        self.say(
            f"step {self.step:>6}/{plan.steps}  loss {mean:.4f}  "
            f"{speed / 1e6:.3f} M tokens/s  {left:.0f} s left"
        )
        self.sum.zero_()
        self.counted, self._logged = 0, (self.step, self.seconds)

    def _row(
        self, metric: str, value: float, n: int, precision: str = "", speed: float | None = None
    ) -> None:
        row: dict[str, Any] = {
            "study": "demo_model",
            "encoding": "rope",
            "train_length": self.plan.length,
            "eval_length": self.plan.length,
            "metric": metric,
            "value": value,
            "n": n,
            "seed": self.plan.seed,
            "step": self.step,
            "steps": self.plan.steps,
            "tokens": self.step * self.plan.tokens_per_step,
            "precision": precision or self.plan.precision,
            "seconds": round(self.seconds, 3),
            "commit": commit(),
            "versions": versions(),
            "device": device_name(str(self.device)),
        }
        append(self.rows, row | ({} if speed is None else {"tokens_per_second": round(speed)}))
        if metric != "train_nll":
            self.say(f"step {self.step:>6}  {metric} {value:.4f}  (n = {n})")

    def _resume(self) -> None:
        state = checkpoint.load(self.out / "checkpoint.pt")
        mend(self.rows)
        kept = [row for row in read_rows(self.rows) if state and row["step"] <= state["step"]]
        self.rows.unlink(missing_ok=True)
        for row in kept:  # what a kill left behind its last checkpoint is measured again
            append(self.rows, row)
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.counted = state["step"], state["seconds"], state["counted"]
        self.sum = state["sum"].to(self.device)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def windows(tokens: Tokens, length: int, most: int) -> Tokens:
    """Windows of length + 1 tokens, evenly spread over a stream."""
    import numpy as np

    count = min(most, (len(tokens) - 1) // length)
    if count < 1:
        raise ValueError(f"{len(tokens)} tokens are held out; a window takes {length + 1}")
    starts = np.linspace(0, len(tokens) - length - 1, count).astype(np.int64)
    return tokens[starts[:, None] + np.arange(length + 1)]


def optimizer_of(model: Llama, plan: Plan) -> torch.optim.AdamW:
    """AdamW, fused; matrices decay, the gains of the norms do not."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    gains = [p for p in model.parameters() if p.dim() < 2]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": plan.weight_decay},
            {"params": gains, "weight_decay": 0.0},
        ],
        lr=plan.lr,
        betas=(plan.beta1, plan.beta2),
        fused=True,
    )
