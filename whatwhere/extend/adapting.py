"""`whatwhere adapt`: a few hundred steps at the longer length, with the method in force.

accelerate is the engine: the same command trains on a CPU, on one GPU, or under `accelerate launch`
on many. Batch number `step` is a pure function of (text, seed, step), so a training that was killed
goes on with the same batches, and on a CPU ends with the same bits.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from whatwhere import hf
from whatwhere.errors import UnknownName, changes, did_you_mean, real_number, whole_number
from whatwhere.extend import methods
from whatwhere.extend.forward import Reader
from whatwhere.extend.models import Source
from whatwhere.extend.objective import windows
from whatwhere.extend.saving import save
from whatwhere.study import checkpoint
from whatwhere.study.rows import append, commit, device_name, mend, read_rows, versions

__all__ = ["Adaptation", "adapt"]

VALID_SHARE = 0.1
"""Of the text, its end: never trained on."""


@dataclass(frozen=True)
class Adaptation:
    """What a short training is: method, target, and how it is trained.

    train: "lora" (rank, alpha twice the rank, on all linear layers) or "full". batch_size windows
    of `target` tokens a step, over all processes. Raises ValueError or UnknownName by name.
    """

    model: str
    method: str
    target: int
    train: str = "lora"
    steps: int = 200
    batch_size: int = 8
    lr: float = 1e-3
    warmup: int = 20
    rank: int = 16
    weight_decay: float = 0.0
    clip: float = 1.0
    valid_windows: int = 8
    seed: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.train not in ("lora", "full"):
            raise UnknownName(did_you_mean("--train", self.train, ("lora", "full")))
        if self.precision not in ("float32", "bfloat16"):
            raise UnknownName(did_you_mean("--precision", self.precision, ("float32", "bfloat16")))
        for name in ("target", "steps", "batch_size", "rank", "valid_windows"):
            whole_number(name, getattr(self, name))
        whole_number("warmup", self.warmup, least=0)
        real_number("lr", self.lr, above=0)

    def check(self, source: Source) -> methods.Made:
        """The method's expression. ValueError for a target below the trained length."""
        factor = self.target / source.train_length
        if factor < 1:
            raise ValueError(
                f"--to {self.target} is below the trained length {source.train_length}; give a "
                "longer one"
            )
        return methods.make(self.method, factor, source.train_length)

    def rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine from lr to 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        return self.lr * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps))) / 2


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

    out holds plan.json, rows.jsonl, checkpoint.pt, and at the end adapter/ or model/. Raises
    KeyboardInterrupt once stop() holds, after a checkpoint; ValueError where `out` holds another
    training or the text is too short; FloatingPointError for a loss that is not finite.
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

        self.plan, self.source, self.out, self.say = plan, source, out, say
        self.made = plan.check(source)
        held = max(plan.target + 1, int(len(text) * VALID_SHARE))
        self.text, valid = text[:-held], text[-held:]
        self.valid = {
            length: windows(valid, length, plan.valid_windows)
            for length in dict.fromkeys((source.train_length, plan.target))
        }
        windows(self.text, plan.target, 1)  # long enough, or refused
        _same(out, asdict(plan))
        set_seed(plan.seed)
        mixed = "bf16" if plan.precision == "bfloat16" else "no"
        self.engine = Accelerator(mixed_precision=mixed, cpu=cpu)
        bare = _trainable(model, plan).to(self.engine.device)
        hf.use(bare, self.made.expression, train_length=source.train_length)
        weights = [p for p in bare.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=plan.lr, weight_decay=plan.weight_decay)
        self.bare = bare
        self.model, self.optimizer = self.engine.prepare(bare, optimizer)
        self.step, self.seconds = 0, 0.0
        self._resume()

    @property
    def rows(self) -> Path:
        return self.out / "rows.jsonl"

    @property
    def main(self) -> bool:
        return bool(self.engine.is_main_process)

    def run(self, stop: Callable[[], bool], every: float) -> None:
        if self.step == 0 and not read_rows(self.rows):
            self._validate()
        saved = clock = time.monotonic()
        self.model.train()
        while self.step < self.plan.steps:
            loss = self._update()
            asked = stop()
            now = time.monotonic()
            self.seconds, clock = self.seconds + now - clock, now
            if self.step % max(1, self.plan.steps // 20) == 0 or self.step == self.plan.steps:
                self._log(loss)
            if asked or now - saved >= every or self.step == self.plan.steps:
                self._save()
                saved = time.monotonic()
            if asked and self.step < self.plan.steps:
                raise KeyboardInterrupt
            clock = time.monotonic()

    def finish(self) -> Path:
        done = any(r["step"] == self.plan.steps and r["role"] == "valid" for r in self._found())
        if not done:
            self._validate()
        lora = self.plan.train == "lora"
        folder = self.out / ("adapter" if lora else "model")
        if self.main and not folder.exists():
            if lora:
                self.bare.save_pretrained(str(folder))
            else:
                self.say(save(self.bare, self.source, self.made.expression, folder, in_force=True))
        self.engine.wait_for_everyone()
        return folder

    def _found(self) -> list[dict[str, Any]]:
        return read_rows(self.rows)

    def _update(self) -> float:
        plan, engine = self.plan, self.engine
        for group in self.optimizer.param_groups:
            group["lr"] = plan.rate(self.step)
        rows = self._batch(self.step)[engine.process_index :: engine.num_processes]
        total = 0.0
        for part in rows.split(1):  # one window at a time: long ones fill the memory
            part = part.to(engine.device)
            with engine.autocast():
                logits = self._logits(part[:, :-1])
            loss = F.cross_entropy(logits.float().flatten(0, 1), part[:, 1:].flatten())
            engine.backward(loss / len(rows))
            total += float(loss.detach()) / len(rows)
        if not math.isfinite(total):
            raise FloatingPointError(f"the loss is {total} at step {self.step}; lower --lr")
        engine.clip_grad_norm_(self.model.parameters(), plan.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return total

    def _logits(self, tokens: Tensor) -> Tensor:
        try:
            return self.model(input_ids=tokens, use_cache=False).logits
        except ValueError as error:  # on a CPU attention refuses what is no number
            if "NaN" not in str(error):
                raise
            raise FloatingPointError(
                f"the model's vectors are not finite at step {self.step}; lower --lr"
            ) from None

    def _batch(self, step: int) -> Tensor:
        """(batch, target + 1) tokens from random places, equal for equal steps."""
        random = np.random.default_rng([self.plan.seed, step])
        room = len(self.text) - self.plan.target
        starts = torch.from_numpy(random.integers(room, size=self.plan.batch_size))
        return self.text[starts[:, None] + torch.arange(self.plan.target + 1)]

    def _validate(self) -> None:
        """Loss on the held-out end, at the trained length and the target."""
        self.bare.eval()
        for length, samples in self.valid.items():
            with self.engine.autocast():
                losses = [Reader(self.bare).losses(w[None].to(self.engine.device)) for w in samples]
            value = float(torch.cat(losses).double().mean())
            n = len(samples) * length
            self._row("valid", length, value, n)
            self.say(f"step {self.step:>5}  held-out perplexity at {length}: {math.exp(value):.3f}")
        self.model.train()

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
            kept = [row for row in self._found() if row["step"] <= reached]
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


def _trainable(model: Any, plan: Adaptation) -> Any:
    if plan.train == "full":
        return model.float()
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError("LoRA needs peft: pip install 'whatwhere[extend]'") from error
    torch.manual_seed(plan.seed)
    config = LoraConfig(
        r=plan.rank, lora_alpha=2 * plan.rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)


def _same(out: Path, wanted: dict[str, Any]) -> None:
    """Begin a directory, or agree with the one that was begun."""
    file = out / "plan.json"
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(wanted, indent=2) + "\n")
        return
    found = json.loads(file.read_text())
    differing = changes(found, wanted)
    if differing:
        raise ValueError(f"--out {out} was begun otherwise: {'; '.join(differing)}; give a new one")
