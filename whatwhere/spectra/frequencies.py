"""`Frequencies`, what every spectrum returns, and the geometric ladder that they all start from."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Frequencies:
    """How fast each feature pair turns, and how large it is: pair i at position p has the angle
    p · inv_freq[i] and the cosine and sine of it times `amplitude`.

    `inv_freq` is in radians per token, dim // 2 of them, in float64 precision: form the angles from
    them in float32 or better, with integer positions (a bf16 position stands on a 64-token grid at
    16k). `amplitude` belongs on the query *and* the key side, so scores carry its square.
    `start` is LongRoPE's n̂: positions below it turn with `start_inv_freq` instead.
    Raises ValueError for values that are not finite, negative, or of unequal number.
    """

    inv_freq: tuple[float, ...]
    amplitude: float = 1.0
    start: int = 0
    start_inv_freq: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        start = self.start_inv_freq
        if not self.inv_freq:
            raise ValueError("inv_freq must hold at least one frequency")
        for value in (*self.inv_freq, *(start or ())):
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"a frequency must be finite and not negative, got {value!r}")
        if not math.isfinite(self.amplitude) or self.amplitude <= 0:
            raise ValueError(f"amplitude must be finite and positive, got {self.amplitude!r}")
        if self.start < 0 or (self.start > 0) != (start is not None):
            raise ValueError(
                f"start={self.start} and start_inv_freq go together: both, or 0 and None"
            )
        if start is not None and len(start) != len(self.inv_freq):
            raise ValueError(
                f"start_inv_freq has {len(start)} frequencies, inv_freq has {len(self.inv_freq)}"
            )

    @property
    def wavelengths(self) -> tuple[float, ...]:
        """Tokens per full turn, 2π / inv_freq; infinity for a pair that does not turn."""
        return tuple(math.tau / value if value else math.inf for value in self.inv_freq)

    def turns_within(self, length: int) -> tuple[float, ...]:
        """Full turns of each pair over `length` tokens, length · inv_freq / 2π.

        Below 1 the pair never saw all its angles in training at that length: those are the pairs
        that fail first on longer text (YaRN, arXiv 2309.00071, section 3.1).
        """
        if length < 1:
            raise ValueError(f"length must be at least 1 token, got {length}")
        return tuple(length * value / math.tau for value in self.inv_freq)


def ladder(dim: int, base: float) -> tuple[float, ...]:
    """The geometric ladder base^(-2i/dim), i = 0 .. dim/2 - 1, in radians per token."""
    return tuple(base ** (-2 * i / dim) for i in range(dim // 2))
