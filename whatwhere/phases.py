"""Exact phases at any position, in integer arithmetic.

A frequency is kept as a fraction of a turn per token in units of 2^-64, an int64 whose overflow is
the wrap at a full turn: position * turns, computed in int64, *is* the phase modulo one turn.
The error is p * 2^-65 turns — below 1e-7 rad at 2^40 tokens — where float32 p * theta is off by
6e-2 rad at a million tokens and a bf16 table by half a turn (facts: kernels.md §6e).
Integers also survive `module.bfloat16()`, which silently ruins every floating-point inv_freq
buffer it meets (gpt-neox #1003 and many after it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from whatwhere.errors import UnknownName, did_you_mean, whole_number
from whatwhere.spectra import TABLE, Frequencies, Spectrum
from whatwhere.tracing import static

__all__ = ["Angles", "Phases", "to_turns"]

_TURN = 1 << 64
_RADIANS_PER_UNIT = 2.0 * math.pi / _TURN


def to_turns(inv_freq: Sequence[float]) -> list[int]:
    """Radians per token as int64 numbers of 2^-64 turns, wrapped to [-2^63, 2^63).

    Units: radians per token in, 2^-64 turns per token out.
    """
    units = [round(frequency / (2.0 * math.pi) * _TURN) for frequency in inv_freq]
    return [(unit + _TURN // 2) % _TURN - _TURN // 2 for unit in units]


@dataclass(frozen=True, eq=False)
class Angles:
    """Frequencies on a device, ready to turn vectors.

    phase(p)_c = p * turns_c (start_turns_c below position `start`: LongRoPE's n-hat), in radians.
    `amplitude` multiplies cosine and sine on both sides, so scores grow by its square.
    """

    turns: Int[Tensor, " f"]
    amplitude: float = 1.0
    start: int = 0
    start_turns: Int[Tensor, " f"] | None = None

    @property
    def count(self) -> int:
        """Number of frequencies."""
        return self.turns.shape[0]

    def phase(
        self, positions: Int[Tensor, "..."], dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "... f"]:
        """Phase of every frequency at every position, in radians within [-pi, pi).

        Shapes: positions (…) int64 -> (…, f) in `dtype` (float32 or float64).
        """
        turned = positions[..., None] * self.turns
        if self.start_turns is not None and self.start > 0:
            early = positions[..., None] < self.start
            turned = torch.where(early, positions[..., None] * self.start_turns, turned)
        return turned.to(dtype) * _RADIANS_PER_UNIT

    def slowed(self, factor: float) -> Angles:
        """The same angles with every frequency divided by `factor` (below 1: 1 / whole number)."""
        if self.start:
            raise ValueError(
                f"frequencies with a start rule (n_hat = {self.start}) cannot be slowed by "
                f"{factor}: use a spectrum with n_hat = 0"
            )
        if factor >= 1:
            scaled = (self.turns.double() / factor).round().to(torch.int64)
        else:
            inverse = round(1 / factor)
            if abs(inverse * factor - 1) > 1e-9:
                raise ValueError(f"factor is {factor}; below 1 it must be 1 / a whole number")
            scaled = self.turns * inverse
        return Angles(scaled, self.amplitude)


class Phases(nn.Module):
    """A spectrum placed on a device: `at(horizon)` gives the angles for a sequence of that length.

    A spectrum that does not depend on the length becomes an int64 buffer once. It is not part of
    the state dict (a checkpoint must not override the spectrum that the user asked for), and it is
    rebuilt from the spectrum after every move, so `to_empty`, FSDP or a meta device cannot leave
    garbage in it. A length-dependent one is computed at each call; nothing is rewritten in place.
    """

    turns: Tensor
    start_turns: Tensor | None

    def __init__(self, spectrum: Spectrum, dim: int) -> None:
        super().__init__()
        if isinstance(spectrum, str):
            raise UnknownName(did_you_mean("spectrum", spectrum, TABLE))
        if not isinstance(spectrum, Spectrum):
            raise TypeError(f"spectrum is {spectrum!r}; give one such as spectra.yarn(factor=8, …)")
        self.spectrum, self.dim = spectrum, dim
        self._fixed = None if spectrum.length_dependent else spectrum(dim)
        self.register_buffer("turns", torch.zeros(dim // 2, dtype=torch.int64), persistent=False)
        self.register_buffer("start_turns", None, persistent=False)
        self._place()

    def at(self, horizon: int | None = None) -> Angles:
        """The angles for a sequence of `horizon` tokens (needed only if the spectrum varies).

        Raises ValueError if the spectrum depends on the length and no horizon is given.
        """
        if self._fixed is not None:
            return Angles(self.turns, self._fixed.amplitude, self._fixed.start, self.start_turns)
        if horizon is None:
            raise ValueError(
                f"{self.spectrum} depends on the length of the sequence: pass horizon=<its length>"
            )
        frequencies = self.spectrum(self.dim, whole_number("horizon", horizon))
        turns, start_turns = self._tensors(frequencies)
        return Angles(turns, frequencies.amplitude, frequencies.start, start_turns)

    def _tensors(self, frequencies: Frequencies) -> tuple[Tensor, Tensor | None]:
        turns, start = (
            None if row is None else torch.tensor(to_turns(row), device=self.turns.device)
            for row in (frequencies.inv_freq, frequencies.start_inv_freq)
        )
        assert turns is not None
        # Encodings of several head dims meet in one process: without this torch.compile takes the
        # number of frequencies for a size that varies, and kernels are chosen by it.
        if not torch.compiler.is_compiling():
            for row in (turns, start):
                if row is not None:
                    static(row)
        return turns, start

    def _place(self) -> None:
        if self._fixed is not None and self.turns.device.type != "meta":
            self.turns, self.start_turns = self._tensors(self._fixed)

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)
        self._place()
        return self

    def extra_repr(self) -> str:
        return f"{self.spectrum}, dim={self.dim}"
