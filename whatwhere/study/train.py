"""One training, in steps that can be stopped between any two and go on to the last bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from whatwhere.nn import Decoder
from whatwhere.study import checkpoint
from whatwhere.study.config import Config
from whatwhere.study.evaluate import nll
from whatwhere.study.model import build_model, derived_seed
from whatwhere.study.observer import Observer
from whatwhere.tasks import Task, sample_batch

__all__ = ["Training", "learning_rate", "train_step"]

FORMAT = 1
"""Raise it when a checkpoint of the same configuration would be continued differently."""


def learning_rate(step: int, config: Config) -> float:
    """The rate of step 0, 1, …: linear warm-up, then half a cosine from lr to final_lr · lr."""
    warmup = config.warmup_steps
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, config.steps - warmup)
    share = config.final_lr + (1 - config.final_lr) * (1 + math.cos(math.pi * progress)) / 2
    return config.lr * share


def optimizer_of(model: Decoder, config: Config) -> torch.optim.AdamW:
    """AdamW over two groups: matrices of the decoder decay, norms and the encoding's own do not."""
    own = {id(parameter) for parameter in model.encodings.parameters()}
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in model.parameters():
        groups[parameter.dim() >= 2 and id(parameter) not in own].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": groups[True], "weight_decay": config.weight_decay},
            {"params": groups[False], "weight_decay": 0.0},
        ],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        fused=True,
    )


def train_step(
    model: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    inputs: Int64[Tensor, "b n"],
    targets: Int64[Tensor, "b n"],
    clip: float,
    autocast: torch.dtype | None = None,
) -> Float[Tensor, ""]:
    """Forward, backward, clip, update; the mean loss of the batch in nats per token.

    FloatingPointError, before any update, if the loss or the gradient is not finite. The engine of
    a larger study replaces this function and the batches, nothing else.
    """
    context = torch.autocast(inputs.device.type, autocast) if autocast else nullcontext()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    with context:
        logits = model(inputs)
    loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
    if not bool(loss.isfinite()):
        raise FloatingPointError(f"the loss is {float(loss.detach())}")
    loss.backward()
    norm = nn.utils.clip_grad_norm_(parameters, clip)
    if not bool(norm.isfinite()):
        raise FloatingPointError(f"the norm of the gradient is {float(norm)}")
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


class Training:
    """A model with one encoding at one seed on its way to `config.steps`.

    `run` continues from the checkpoint at `path` if there is one, and leaves one there at the end.
    Batches are a function of (seed, step); dropout draws from torch's generators, whose state is in
    the checkpoint: a training that was killed gives the bits of one that was not (on a CPU, with
    the same number of threads).

    Attributes after `run`: model; curve (step, training loss, validation loss); seconds; failed,
    the reason if the loss was not finite, else None.
    """

    def __init__(self, config: Config, task: Task, encoding: str, seed: int, path: Path) -> None:
        self.config, self.task, self.encoding, self.seed = config, task, encoding, seed
        self.path = path
        self.device = torch.device(config.device)
        self.model = build_model(config, encoding, task.vocab_size, seed).to(self.device)
        self.optimizer = optimizer_of(self.model, config)
        torch.manual_seed(derived_seed(seed, "dropout"))
        self.step, self.seconds = 0, 0.0
        self.curve: list[list[float]] = []
        self.failed: str | None = None
        self.finished = False
        self._resume()

    def run(self, observer: Observer, work: float, every: float) -> None:
        """Train to the end; a checkpoint every `every` seconds. `work` is one step's, for progress.

        KeyboardInterrupt, after saving, when observer.stop() says so.
        """
        config, started = self.config, time.monotonic() - self.seconds
        saved = time.monotonic()
        forward = torch.compile(self.model) if config.compile else self.model
        stream = self.task.train.to(self.device)
        half = torch.bfloat16 if config.precision == "bfloat16" else None
        marks = valid_steps(config)
        while not self.finished:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.step, config)
            batch = sample_batch(
                stream, config.train_length, config.batch_size, self.seed, self.step
            )
            self.model.train()
            try:
                loss = float(train_step(forward, self.optimizer, *batch, config.clip, half))
            except (FloatingPointError, ValueError) as error:  # attention refuses NaN itself
                loss, self.failed = math.nan, f"training broke off at step {self.step}: {error}"
            self.step += 1
            observer.step(self.step, loss, work)
            if self.failed is None and self.step in marks:
                self.curve.append([self.step, loss, self._validate(observer)])
            self.finished = self.failed is not None or self.step == config.steps
            self.seconds = time.monotonic() - started
            stop = observer.stop()
            if stop or self.finished or time.monotonic() - saved >= every:
                checkpoint.save(self.path, self.state())
                saved = time.monotonic()
            if stop and not self.finished:
                raise KeyboardInterrupt

    def state(self) -> dict[str, Any]:
        """Everything that `run` needs to go on; a finished training keeps no optimizer."""
        state: dict[str, Any] = {
            "format": FORMAT,
            "encoding": self.encoding,
            "seed": self.seed,
            "step": self.step,
            "seconds": self.seconds,
            "curve": self.curve,
            "failed": self.failed,
            "finished": self.finished,
            "model": self.model.state_dict(),
        }
        if not self.finished:
            state["optimizer"] = self.optimizer.state_dict()
            state["random"] = checkpoint.random_state(self.device)
        return state

    def _resume(self) -> None:
        state = checkpoint.load(self.path)
        if state is None:
            return
        wanted = {"format": FORMAT, "encoding": self.encoding, "seed": self.seed}
        found = {key: state.get(key) for key in wanted}
        if found != wanted:
            raise OSError(f"{self.path} holds {found}, not {wanted}; delete it to train again")
        self.step, self.seconds, self.curve = state["step"], state["seconds"], state["curve"]
        self.failed, self.finished = state["failed"], state["finished"]
        self.model.load_state_dict(state["model"])
        if not self.finished:
            self.optimizer.load_state_dict(state["optimizer"])
            checkpoint.restore_random_state(state["random"], self.device)

    def _validate(self, observer: Observer) -> float:
        length = self.config.train_length
        value, _ = nll(self.model, self.task.valid, length, self.config.valid_tokens)
        observer.valid(self.step, value)
        return value


def valid_steps(config: Config) -> set[int]:
    """The steps after which the validation split is scored; the last one is always among them."""
    points = max(1, min(config.valid_points, config.steps))
    return {round(config.steps * (point + 1) / points) for point in range(points)}
