"""Tasks whose examples are made, not read: a question, an answer, and a number that is right.

A `Drawn` task is a function from the number of an example to the example. Nothing is stored: an
example, and with it a batch, is a pure function of integers, computed on the device of those
integers by integer arithmetic alone, so that a CPU and every GPU see the same data, a run that was
killed goes on with the batches it would have seen, and one CUDA graph can hold the sampling (`seed`
and `step` may be tensors). `Task` is the other kind: streams of tokens that lie in memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, overload

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from whatwhere.errors import UnknownName, did_you_mean, whole_number

IGNORED = -100
"""The target of a token that is no part of the answer: what cross_entropy leaves out by default."""

SPLITS = ("train", "valid", "test")

Batch = tuple[Int64[Tensor, "*batch length"], Int64[Tensor, "*batch length"]]
"""Inputs and targets; targets[..., i] is the token after inputs[..., i], or `IGNORED`."""


class Drawn(ABC):
    """Examples by number: `length` input tokens of which only the answer's targets are scored.

    `sizes` are the numbers of examples of train, valid and test; train may be None: every batch is
    new. `seed` chooses the data set; the seed of a run, given to `batch`, only the order in which
    it is seen. `unit`, `describe` and `metadata` are as in `Task`. `scored`, where it is a number,
    says that only that many last tokens of an example can have targets: what others' logits would
    cost can be saved.
    """

    name: str
    vocab_size: int
    length: int
    unit: str
    describe: str
    metadata: dict[str, Any]
    sizes: dict[str, int | None]
    scored: int | None = None

    @abstractmethod
    def examples(self, split: str, numbers: Int64[Tensor, "*batch"]) -> Batch:
        """The examples `numbers` of `split`: inputs and targets, both (*batch, length).

        On the device of `numbers`. UnknownName (a ValueError) for another split.
        """

    def batch(
        self,
        seed: int | Tensor,
        step: int | Tensor,
        batch_size: int,
        device: torch.device | str | None = None,
    ) -> Batch:
        """A training batch: inputs and targets, both (batch_size, length), drawn on `device`.

        A pure function of (seed, step): drawn with replacement from the training examples, or, when
        sizes["train"] is None, examples that no other step and no other seed sees. `seed` of shape
        (s,) gives the batches of s runs at once, (s, batch_size, length), each equal to its own.
        """
        whole_number("batch_size", batch_size)
        if self.sizes["train"] == 0:
            raise ValueError(f"task {self.name!r} has nothing to train on")
        if isinstance(seed, Tensor):
            device = seed.device
        elif isinstance(step, Tensor):
            device = step.device
        key = fold(fold(seed, _BATCHES), step)
        rows = torch.arange(batch_size, device=device)
        key = key.to(rows.device)[..., None] if isinstance(key, Tensor) else key
        numbers = fold(key, rows)
        size = self.sizes["train"]
        return self.examples("train", numbers if size is None else below(numbers, size))

    def held_out(
        self,
        split: str,
        batch_size: int,
        device: torch.device | str | None = None,
        limit: int | None = None,
    ) -> Iterator[Batch]:
        """The examples 0, 1, 2, ... of `split`, at most `limit`, in batches; the last may be short.

        UnknownName for another split, ValueError for a training set without an end and no `limit`.
        """
        size = self._size(split)
        whole_number("batch_size", batch_size)
        if limit is not None:
            size = min(whole_number("limit", limit), size or limit)
        if size is None:
            raise ValueError(f"{split} of task {self.name!r} has no end; give limit=N")
        for first in range(0, size, batch_size):
            yield self.examples(
                split, torch.arange(first, min(first + batch_size, size), device=device)
            )

    def _size(self, split: str) -> int | None:
        if split not in self.sizes:
            raise UnknownName(did_you_mean("split", split, self.sizes))
        return self.sizes[split]


def exact_match(
    logits: Float[Tensor, "*batch length vocab"], targets: Int64[Tensor, "*batch length"]
) -> Bool[Tensor, "*batch"]:
    """Per example: is the most likely token right at every place of the answer? No target: True.

    Where two tokens share the largest logit, torch.argmax decides.
    """
    return ((logits.argmax(-1) == targets) | (targets == IGNORED)).all(-1)


@overload
def fold(key: int, data: int) -> int: ...
@overload
def fold(key: Tensor, data: Tensor | int) -> Tensor: ...
@overload
def fold(key: Tensor | int, data: Tensor) -> Tensor: ...
@overload
def fold(key: Tensor | int, data: Tensor | int) -> Tensor | int: ...
def fold(key: Tensor | int, data: Tensor | int) -> Tensor | int:
    """A 64-bit key from a key and data, both integers, broadcast: SplitMix64's mixing function.

    int64 multiplication wraps alike on every device. Two ints give an int: a tensor of one number
    beside those of a GPU would be copied there, which a CUDA graph refuses. Source: Steele, Lea and
    Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014), with the constants of its
    variant 13.
    """
    x = _wrapped(_times(key, _GOLDEN) + _times(data, _ODD))
    x = _times(x ^ _shifted(x, 30), _MIX_1)
    x = _times(x ^ _shifted(x, 27), _MIX_2)
    x = x ^ _shifted(x, 31)
    # Once more: key and data enter linearly above, and pairs of them must not cancel.
    x = _times(_wrapped(x + _GOLDEN), _MIX_1)
    return x ^ _shifted(x, 32)


def below(bits: Tensor, bound: Tensor | int) -> Tensor:
    """Integers in [0, bound) from 64-bit keys; of 2^63 keys at most `bound` fall unevenly."""
    return (bits & 0x7FFF_FFFF_FFFF_FFFF) % bound


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


_BATCHES = 0x6261746368
_GOLDEN = _signed(0x9E3779B97F4A7C15)
_ODD = _signed(0xD1342543DE82EF95)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _times(x: Tensor | int, factor: int) -> Tensor | int:
    return _wrapped(x * factor)


def _wrapped(x: Tensor | int) -> Tensor | int:
    """As int64 wraps."""
    return _signed(x & ((1 << 64) - 1)) if isinstance(x, int) else x


def _shifted(x: Tensor | int, places: int) -> Tensor | int:
    """Logical shift to the right: torch's own copies the sign."""
    return (x >> places) & ((1 << (64 - places)) - 1)
