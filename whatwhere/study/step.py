"""One optimizer step of every stacked seed, as a function of tensors that lie on the device.

Nothing in a step asks the device for a number: the batch is drawn there from the step's number, the
learning rate computed there, gradients clipped there, losses written into a tensor there. So a
whole step fits into one CUDA graph, and a small model trains as fast as its kernels run instead of
as fast as Python launches them. Elsewhere the same function runs as it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from whatwhere.errors import first_line
from whatwhere.nn import Decoder
from whatwhere.study.compiling import compiled
from whatwhere.study.config import Config
from whatwhere.study.schedule import learning_rate
from whatwhere.study.stacked import Stacked
from whatwhere.tasks import IGNORED, Drawn

__all__ = ["KEPT", "Graphed", "Step", "losses_of"]

KEPT = 64
"""Steps whose losses lie on the device until somebody reads them."""


def losses_of(
    logits: Float[Tensor, "s b m columns"], targets: Int64[Tensor, "s b m"], count: int
) -> Float[Tensor, " s"]:
    """Sums of -log p(target) in nats over the targets that are scored, one a seed, float32.

    Only the first `count` columns are logits; compiled, one kernel writes the gradient of all.
    """
    flat = logits[..., :count].float().flatten(0, 2)
    each = F.cross_entropy(flat, targets.flatten(), ignore_index=IGNORED, reduction="none")
    return each.view(len(targets), -1).sum(1)


class Step:
    """Calling it draws the batch of step `number`, updates every seed's weights and counts on.

    `seeds` (s,) int64 chooses the batches; `losses` and `norms` (KEPT, s) hold what the last KEPT
    steps gave, step t in row t mod KEPT: mean losses in nats per target, and norms of the gradient
    before clipping. A seed whose gradient is not finite is left as it was; the others go on.
    `part` (rank, world) makes it one of several processes: each reads its rows of the same batch.
    """

    def __init__(
        self,
        stacked: Stacked,
        data: Drawn,
        config: Config,
        seeds: Int64[Tensor, " s"],
        part: tuple[int, int] = (0, 1),
        wrapped: nn.Module | None = None,
    ) -> None:
        self.stacked, self.data, self.config, self.seeds = stacked, data, config, seeds
        self.model = stacked if wrapped is None else wrapped
        self.part, self.accumulate = part, config.accumulate
        self.device = seeds.device
        self.number = torch.zeros((), dtype=torch.int64, device=self.device)
        self.rate = torch.zeros((), dtype=torch.float32, device=self.device)
        self.losses = torch.zeros(KEPT, len(seeds), device=self.device)
        self.norms = torch.zeros_like(self.losses)
        self.optimizers = [self._optimizer(each) for each in stacked.decoders]
        self._sums, self._batch = losses_of, self._drawn
        if config.compile:
            stacked.compile_blocks()
            self._sums = compiled(losses_of, dynamic=False)
            self._batch = _compiled_draw(self._drawn, self.device)

    def __call__(self) -> None:
        self.rate.copy_(learning_rate(self.number, self.config))
        self.stacked.forget_gradients()
        loss = self._gradients()
        self.stacked.share_gradients()
        norms = torch.stack([
            self._update(optimizer, decoder)
            for optimizer, decoder in zip(self.optimizers, self.stacked.decoders, strict=True)
        ])  # fmt: skip
        # Not index_copy_: its deterministic form sorts.
        here = (torch.arange(KEPT, device=self.device) == self.number % KEPT)[:, None]
        self.losses.copy_(torch.where(here, loss, self.losses))
        self.norms.copy_(torch.where(here, norms, self.norms))
        self.number += 1

    def state(self) -> dict[str, Any]:
        """What `load` takes back: the number of the next step and the optimizers."""
        return {
            "number": int(self.number),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.number.fill_(state["number"])
        for optimizer, each in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(each)
            self._steer(optimizer)

    def _optimizer(self, decoder: Decoder) -> torch.optim.AdamW:
        """AdamW over two groups: matrices of the decoder decay, norms and encodings do not."""
        config = self.config
        own = {id(parameter) for parameter in decoder.encodings.parameters()}
        groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for parameter in decoder.parameters():
            groups[parameter.dim() >= 2 and id(parameter) not in own].append(parameter)
        made = torch.optim.AdamW(
            [
                {"params": groups[True], "weight_decay": config.weight_decay},
                {"params": groups[False], "weight_decay": 0.0},
            ],
            betas=(config.beta1, config.beta2),
            fused=True,
        )
        self._steer(made)
        return made

    def _steer(self, optimizer: torch.optim.AdamW) -> None:
        """Make it read the rate from the device; loading a state puts a copy in its place."""
        for group in optimizer.param_groups:
            group["lr"], group["capturable"] = self.rate, self.device.type == "cuda"

    def _gradients(self) -> Float[Tensor, " s"]:
        """Backward of the whole batch, in `accumulate` pieces; the mean losses."""
        rank, world = self.part
        inputs, targets, counts = self._batch()
        rows = self.config.batch_size // (world * self.accumulate)
        total = torch.zeros_like(self.losses[0])
        for piece in range(self.accumulate):
            first = (rank * self.accumulate + piece) * rows
            here = slice(first, first + rows)
            last = piece + 1 == self.accumulate
            with nullcontext() if last or world == 1 else self.model.no_sync():  # type: ignore[operator]
                loss = self._mean(inputs[:, here], targets[:, here], counts)
                # Processes' gradients are averaged, and the loss is a share of the whole batch's.
                (loss.sum() * world).backward()
            total += loss.detach()
        if world > 1:
            torch.distributed.all_reduce(total)
        return total

    def _drawn(self) -> tuple[Tensor, Tensor, Tensor]:
        """The whole batch, and how many of its targets are scored, one a seed."""
        inputs, targets = self.data.batch(self.seeds, self.number, self.config.batch_size)
        return inputs, targets, (targets != IGNORED).sum((1, 2)).clamp(min=1)

    def _mean(self, inputs: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
        half = self.config.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext():
            logits = self.model(inputs, self.data.scored, padded=True)
        wanted = targets[..., -logits.shape[2] :]
        return self._sums(logits, wanted, self.stacked.config.vocab_size) / counts

    def _update(self, optimizer: torch.optim.AdamW, decoder: Decoder) -> Tensor:
        """Clip and update; the norm before. The fused kernel divides by `grad_scale` on its way."""
        gradients = [p.grad for p in decoder.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        optimizer.grad_scale = ((norm + 1e-6) / self.config.clip).clamp(min=1)  # type: ignore[attr-defined]
        optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        optimizer.step()
        return norm


def _compiled_draw(
    draw: Callable[[], tuple[Tensor, Tensor, Tensor]], device: torch.device
) -> Callable[[], tuple[Tensor, Tensor, Tensor]]:
    """`draw` with its hundred small kernels fused, where that gives the same batch, else itself."""
    if device.type != "cuda":
        return draw  # torch 2.13 computes wrong products of 64 bits on a CPU, or crashes
    # Inductor would join the keys' 64-bit products with the arithmetic of places, which has 32 bits
    # on a GPU: torch 2.11 refuses the kernel that it wrote.
    as_said: dict[str, Any] = {"constant_and_index_propagation": False}
    fused = compiled(draw, dynamic=False, options=as_said)
    wanted = draw()  # first: it may put a stream on the device, which no graph should do
    try:
        wrong = any(not torch.equal(a, b) for a, b in zip(fused(), wanted, strict=True))
        reason = "it gives another batch" if wrong else None
    except Exception as error:  # noqa: BLE001 - a compiler's error must not end a training
        reason = f"{type(error).__name__}: {first_line(error)}"
    if reason is None:
        return fused
    warnings.warn(f"sampling is not compiled ({reason}); steps take a little longer", stacklevel=3)
    return draw


class Graphed:
    """A step that is captured into a CUDA graph after a few ordinary ones, and then replayed.

    The ordinary ones are steps like the others: they do what any step does, and compile what is
    compiled. On a device without graphs every step is an ordinary one.
    """

    def __init__(self, step: Callable[[], None], device: torch.device, warm: int = 3) -> None:
        self.step, self.warm = step, warm
        self.graph: torch.cuda.CUDAGraph | None = None
        self.side = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self) -> None:
        if self.side is None:
            self.step()
        elif self.warm > 0:
            self.warm -= 1
            self.side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.side):
                self.step()
            torch.cuda.current_stream().wait_stream(self.side)
        else:
            if self.graph is None:
                self.graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self.graph, stream=self.side):
                    self.step()
            self.graph.replay()
