"""One training of several seeds at once, in steps that can be stopped between any two.

    Training(config, data, encoding, seeds, path).run(observer, work, every)

Batches are a function of (seed, step), computed where the model is; the state of optimizers and of
torch's generators is in the checkpoint: a training that was killed goes on with the bits of one
that was not (on a CPU with the same number of threads; on a GPU with deterministic kernels, which
this module asks torch for). accelerate is the engine: one CPU, one GPU (the whole step is one CUDA
graph), or several processes under `accelerate launch`, each with its rows of the same batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from whatwhere.errors import changes
from whatwhere.nn import Decoder
from whatwhere.study import checkpoint
from whatwhere.study.config import Config
from whatwhere.study.deterministic import deterministic
from whatwhere.study.held_out import scores
from whatwhere.study.model import build_model, derived_seed
from whatwhere.study.observer import Observer
from whatwhere.study.schedule import valid_steps
from whatwhere.study.stacked import Stacked
from whatwhere.study.step import KEPT, Graphed, Step
from whatwhere.tasks import Drawn

__all__ = ["Training"]

FORMAT = 1
"""Raise it when a checkpoint of the same configuration would be continued differently."""

_NO_PART = (
    "task",
    "data",
    "encodings",
    "seeds",
    "device",
    "compile",
    "eval_lengths",
    "eval_tokens",
)
"""Fields of a configuration that are said elsewhere, or on which no training depends."""

_PATIENCE = 0.5  # seconds between two looks at what a GPU has done


class Training:
    """Decoders with one encoding, one a seed, on their way to `config.steps`.

    `start` are the states of other trainings' decoders (one a seed) to begin with instead of drawn
    weights, `keep_best` keeps each seed's weights of its lowest validation loss. `run` continues
    from the checkpoint at `path` if there is one, and leaves one there at the end.

    Attributes: curve, a dict a seed and point of the validation curve (seed, step, train_nll since
    the point before, valid_nll, valid_accuracy); failed, per seed None or why its loss is not
    finite; seconds; step; finished. Raises ValueError for what can not be trained, OSError for a
    checkpoint of another training.
    """

    def __init__(
        self,
        config: Config,
        data: Drawn,
        encoding: str,
        seeds: Sequence[int],
        path: Path,
        *,
        keep_best: bool = False,
        start: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> None:
        from accelerate import Accelerator

        self.config, self.data, self.encoding, self.path = config, data, encoding, path
        self.seeds, self.keep_best = tuple(seeds), keep_best
        self.accelerator = Accelerator(cpu=config.device == "cpu")
        self.device = self.accelerator.device
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        _check(config, self.seeds, world)
        decoders = [build_model(config, encoding, data.vocab_size, seed) for seed in self.seeds]
        for decoder, state in zip(decoders, start or [], strict=bool(start)):
            decoder.load_state_dict(dict(state))
        self.stacked = Stacked([decoder.to(self.device) for decoder in decoders])
        wrapped: nn.Module | None = None
        if world > 1:
            wrapped = self.accelerator.prepare_model(self.stacked)
            self.stacked.link()  # it moves parameters, even to where they are
        numbers = torch.tensor(self.seeds, device=self.device)
        self._one = Step(self.stacked, data, config, numbers, (rank, world), wrapped)
        torch.manual_seed(derived_seed(self.seeds[0], f"dropout {rank}" if rank else "dropout"))
        self.step, self.seconds, self.finished = 0, 0.0, False
        self.curve: list[dict[str, Any]] = []
        self.failed: list[str | None] = [None] * len(self.seeds)
        self.best: list[dict[str, Any] | None] = [None] * len(self.seeds)
        self._sum = torch.zeros(len(self.seeds), dtype=torch.float64)
        self._counted = 0
        self._resume()

    def run(self, observer: Observer, work: float, every: float = 60.0) -> None:
        """Train to the end; a checkpoint every `every` seconds (more rarely if it took over a
        fiftieth of that; 0: after every step). `work` is one step's, for progress.

        KeyboardInterrupt, after saving, when observer.stop() says so.
        """
        started = saved = time.monotonic()
        cost = 0.0
        before, marks = self.seconds, sorted(valid_steps(self.config))
        graphed = Graphed(self._one, self.device)
        if self.accelerator.num_processes > 1:
            graphed.side = None  # its all-reduces wait for other processes
        few = 1
        with deterministic(self.device):
            while not self.finished:
                began = time.monotonic()
                mark = next((m for m in marks if m > self.step), self.config.steps)
                count = min(few, KEPT, mark - self.step)
                self._advance(graphed, count, observer, work)
                pace = (time.monotonic() - began) / count
                few = 1 if self.device.type == "cpu" else max(1, int(_PATIENCE / max(pace, 1e-6)))
                if self.step == mark and not all(self.failed):
                    self._validate(observer)
                self.finished = self.step == self.config.steps or all(self.failed)
                self.seconds = before + time.monotonic() - started
                stop = self._agreed(observer.stop())
                due = time.monotonic() - saved >= (every and max(every, 50 * cost))
                if stop or self.finished or self._agreed(due):
                    began = time.monotonic()
                    self.save()
                    saved = time.monotonic()
                    cost = saved - began
                if stop and not self.finished:
                    raise KeyboardInterrupt

    def models(self, best: bool = False) -> list[Decoder]:
        """The decoders, one a seed; with `best` (needs keep_best) at their lowest validation loss.

        They share memory with the training: `best` replaces the weights of a finished one.
        """
        if best:
            if not (self.keep_best and self.finished):
                raise ValueError("best needs keep_best=True and a training that is finished")
            for decoder, kept in zip(self.stacked.decoders, self.best, strict=True):
                if kept is not None:
                    decoder.load_state_dict(kept["model"])
        return [decoder.eval() for decoder in self.stacked.decoders]

    def save(self) -> None:
        """Put everything that `run` needs to go on at `path`; a finished one keeps no optimizer."""
        state: dict[str, Any] = self._identity() | {
            "step": self.step,
            "seconds": self.seconds,
            "curve": self.curve,
            "failed": self.failed,
            "finished": self.finished,
            "models": [decoder.state_dict() for decoder in self.stacked.decoders],
            "best": self.best,
            "sum": self._sum,
            "counted": self._counted,
        }
        if not self.finished:
            state |= self._one.state()
            state["random"] = checkpoint.random_state(self.device)
        if self.accelerator.is_main_process:
            checkpoint.save(self.path, state)
        self.accelerator.wait_for_everyone()

    def _identity(self) -> dict[str, Any]:
        what = {"format": FORMAT, "encoding": self.encoding, "seeds": list(self.seeds)}
        sizes = {k: v for k, v in self.config.to_dict().items() if k not in _NO_PART}
        return what | {"config": sizes, "data": self.data.describe}

    def _resume(self) -> None:
        state = checkpoint.load(self.path)
        if state is None:
            return
        wanted = self._identity()
        found = {key: state.get(key) for key in wanted}
        if found != wanted:
            flat = [each | (each.pop("config") or {}) for each in (found, wanted)]
            differing = "; ".join(changes(*flat))
            raise OSError(
                f"{self.path} holds another training: {differing}; delete it to train again"
            )
        for name in ("step", "seconds", "curve", "failed", "finished", "best"):
            setattr(self, name, state[name])
        self._sum, self._counted = state["sum"], state["counted"]
        for decoder, each in zip(self.stacked.decoders, state["models"], strict=True):
            decoder.load_state_dict(each)
        if not self.finished:
            self._one.load(state)
            if self.accelerator.is_main_process:  # the others' dropout goes on with their own
                checkpoint.restore_random_state(state["random"], self.device)

    def _advance(self, one: Graphed, count: int, observer: Observer, work: float) -> None:
        """`count` steps, then their losses, read at once."""
        self.stacked.train()
        for done in range(count):
            try:
                one()
            except ValueError as error:  # on a CPU attention refuses what is not finite itself
                count = done
                self._break_off(str(error))
                break
        rows = [(self.step + k) % KEPT for k in range(count)]
        losses, norms = self._one.losses[rows].cpu().double(), self._one.norms[rows].cpu()
        for k in range(count):
            self.step += 1
            self._judge(losses[k], norms[k])
            observer.step(self.step, float(losses[k].mean()), work)
        self._sum += losses.sum(0)
        self._counted += count

    def _break_off(self, reason: str) -> None:
        said = f"training broke off at step {self.step}: {reason}"
        self.failed = [each or said for each in self.failed]

    def _judge(self, losses: Tensor, norms: Tensor) -> None:
        for s, (loss, norm) in enumerate(zip(losses.tolist(), norms.tolist(), strict=True)):
            if self.failed[s] is None and not (math.isfinite(loss) and math.isfinite(norm)):
                what = f"the loss is {loss}, the norm of the gradient {norm}"
                self.failed[s] = f"training broke off at step {self.step - 1}: {what}"

    def _validate(self, observer: Observer) -> None:
        """A point of the curve, and each seed's weights where it is the lowest."""
        found = scores(
            self.stacked, self.data, "valid", self.config.valid_tokens, self.config.precision
        )
        means = self._sum / max(1, self._counted)
        self._sum, self._counted = torch.zeros_like(self._sum), 0
        for s, seed in enumerate(self.seeds):
            value = found.nll[s]
            self.curve.append({
                "seed": seed, "step": self.step, "train_nll": float(means[s]),
                "valid_nll": value, "valid_accuracy": found.accuracy[s],
            })  # fmt: skip
            kept = self.best[s]
            if self.keep_best and self.failed[s] is None and not (kept and kept["nll"] <= value):
                model = self.stacked.decoders[s].state_dict()
                copied = {name: tensor.detach().cpu().clone() for name, tensor in model.items()}
                self.best[s] = {"step": self.step, "nll": value, "model": copied}
        observer.valid(self.step, sum(found.nll) / len(found.nll))

    def _agreed(self, flag: bool) -> bool:
        """Whether any process says so: all of them must stop and save at the same step."""
        if self.accelerator.num_processes == 1:
            return flag
        told = torch.tensor(float(flag), device=self.device)
        return bool(cast(Tensor, self.accelerator.reduce(told, "sum")) > 0)


def _check(config: Config, seeds: tuple[int, ...], world: int) -> None:
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds is {seeds}; give one or more different ones")
    if config.batch_size % (world * config.accumulate):
        raise ValueError(
            f"batch_size is {config.batch_size}, no multiple of {world} process(es) times "
            f"accumulate {config.accumulate}"
        )
