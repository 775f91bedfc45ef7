"""What a run tells while it works, and how it is asked to stop."""

from __future__ import annotations

from typing import Any

__all__ = ["Observer"]


class Observer:
    """Hears of progress; every method does nothing until a subclass says otherwise.

    Work is counted in floating-point operations, estimated: encodings and lengths differ by
    orders of magnitude, so neither steps nor rows would give a fair time left.
    """

    def begin(self, total: float, done: float) -> None:
        """All the work of this run, and how much of it was done before."""

    def train(self, name: str, seed: int, step: int, steps: int) -> None:
        """A training begins or goes on at `step`."""

    def waits(self, name: str) -> None:
        """Another run trains this; called again and again until that run is through."""

    def step(self, step: int, loss: float, work: float) -> None:
        """One optimizer step is done; `loss` is its training loss in nats per token."""

    def valid(self, step: int, value: float) -> None:
        """A point of the validation curve, nats per token."""

    def trained(self, name: str, seed: int, seconds: float, failed: str | None) -> None:
        """A training is finished; `failed` is the reason if it broke off."""

    def evaluate(self, encoding: str, seed: int, length: int) -> None:
        """An evaluation begins."""

    def evaluated(self, row: dict[str, Any], work: float) -> None:
        """A row was written."""

    def skipped(self, work: float) -> None:
        """Work that turned out to be done, or not worth doing."""

    def stop(self) -> bool:
        """Whether to save and raise KeyboardInterrupt at the next step or batch."""
        return False
