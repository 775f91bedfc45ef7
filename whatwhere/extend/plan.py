"""What a comparison of methods is: everything its numbers depend on, checked before any weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from whatwhere.errors import UnknownName, did_you_mean, real_number, whole_number
from whatwhere.extend import methods, retrieval
from whatwhere.extend.models import DTYPES

__all__ = ["Plan", "lengths"]


@dataclass(frozen=True)
class Plan:
    """A model, what it is extended to, by which methods, and how much is measured.

    targets: lengths in tokens; each method is made for each and measured there, for the longest
        also at the trained length (what it costs short texts).
    tokens: of the text, scored at every length, the same ones (0: twice the longest target).
    depths, keys: pass keys at these shares of the text, so many each (0: none).
    copies: passages to copy per length. sliding: stride of a sliding window (0: none), of which
        there are sliding_windows.
    streamed: tokens that enter at a time in a second, streamed measurement (0: none), at the
        longest target, and at every one where frequencies follow the length: there results differ.
    stock: measure with transformers' own code as well where a method has rope_parameters.
    Raises ValueError, TypeError or UnknownName that name what is wrong.
    """

    model: str
    targets: tuple[int, ...]
    methods: tuple[str, ...] = methods.DEFAULT
    tokens: int = 0
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    keys: int = 2
    copies: int = 4
    sliding: int = 0
    sliding_windows: int = 8
    streamed: int = 0
    stock: bool = False
    batch_tokens: int = 8192
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    backend: str = "auto"
    adapter: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError("--to is empty; give a length such as 4096, or several: 2x,4x,8x")
        for name in ("keys", "copies", "sliding", "streamed", "tokens"):
            whole_number(name, getattr(self, name), least=0)
        for name in ("batch_tokens", "sliding_windows"):
            whole_number(name, getattr(self, name))
        for depth in self.depths:
            real_number("depths", depth, least=0, most=1, why="a depth is a share of the text")
        if self.dtype not in DTYPES:
            raise UnknownName(did_you_mean("dtype", self.dtype, DTYPES))

    @property
    def longest(self) -> int:
        """The longest target."""
        return max(self.targets)

    @property
    def scored(self) -> int:
        """Tokens that every method is scored on at every length."""
        return self.tokens or 2 * self.longest

    def in_pieces(self, terms: int) -> bool:
        """Whether a method of so many products a pair is computed densely, and so read in pieces.

        Only on CUDA torch has a kernel for several; on a CPU its own is slower than the pieces.
        """
        cuda = self.device.partition(":")[0] == "cuda"
        return terms > 1 and (not cuda or self.backend == "reference")

    def check(self, train_length: int) -> None:
        """ValueError for a target not above the trained length, or methods that can not be."""
        for target in self.targets:
            if target < train_length:
                raise ValueError(
                    f"--to {target} is below the trained length {train_length} (a factor of "
                    f"{target / train_length:.3g}); give a longer one"
                )
            methods.check(self.methods, target / train_length, train_length)
        if self.scored < self.longest:
            raise ValueError(
                f"--tokens {self.scored} do not fill one window of {self.longest}; give more"
            )

    def identity(self) -> dict[str, Any]:
        """What rows in one directory share, as config.json holds it."""
        names = ("model", "tokens", "depths", "keys", "copies", "sliding", "sliding_windows",
                 "streamed", "seed", "dtype", "adapter")  # fmt: skip
        found: dict[str, Any] = {name: getattr(self, name) for name in names}
        found["tokens"], found["depths"] = self.scored, list(self.depths)
        found["sliding_windows"] *= bool(self.sliding)
        found["asked"] = retrieval.ASKED
        return found


def lengths(text: str, train_length: int, name: str = "--to") -> tuple[int, ...]:
    """ "4096" or "2x,4x,8x": tokens, or multiples of the trained length; ascending.

    Raises ValueError for what is no length, and for a factor below 1.
    """
    found: list[int] = []
    for part in text.split(","):
        part = part.strip()
        number, times = part.removesuffix("x"), part.endswith("x")
        try:
            value = float(number) if times else int(number)
        except ValueError:
            value = 0.0
        if value <= 0 or value != value or value == float("inf"):
            raise ValueError(
                f"{name} is {text!r}, of which {part!r} is no length; give tokens such as 4096, or "
                "multiples of the trained length such as 4x"
            )
        if times and value < 1:
            raise ValueError(
                f"{name} {part} is a factor below 1; a model is made longer, not shorter"
            )
        found.append(round(value * train_length) if times else int(value))
    return tuple(sorted(dict.fromkeys(found)))
