"""Who stands where, and who may see whom: everything about a call that is not a vector.

Made once per forward pass and shared by all layers; masks derived from it are computed on first
use and kept with it, so no layer pays twice and nothing outlives the call.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from whatwhere.errors import flag, kind_of, whole_number

__all__ = ["Where"]

_INTEGERS = (torch.int64, torch.int32)


@dataclass(eq=False)
class Where:
    """Positions of queries and keys, and the pairs that are visible.

    A pair (i, j) of positions is visible if all of these hold:
      causal:          j <= i
      window w:        i - j < w, and j - i < w as well (w positions, the query's own included)
      documents:       q_documents == k_documents
      k_valid:         the key is no padding
    Shapes: (n,) or (batch, n); kept as (1 or batch, n). Positions default to 0, 1, …, which is
    allowed only where queries and keys are equally many: with a cache there is no right default
    ("top-left" and "bottom-right" masks are both someone's bug).
    k_first says without a tensor of positions that keys follow one another: they stand at k_first,
    k_first + 1, … (a whole number, or (batch,), negative by a row's left padding), and those before
    position 0 are hidden as padding. It takes the place of k_pos.
    Raises TypeError or ValueError that name the argument and what would be right.
    """

    queries: int
    keys: int
    q_pos: Any = None
    k_pos: Any = None
    causal: bool = True
    window: int | None = None
    q_documents: Any = None
    k_documents: Any = None
    k_valid: Any = None
    k_first: Any = None
    device: torch.device | str | None = None
    contiguous: bool = field(init=False)
    together: bool = field(init=False)
    only_left_padded: bool = field(init=False)
    derived: dict[Any, Any] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        # Sizes are symbols under torch.compile, which only isinstance and comparisons leave open.
        for name in ("queries", "keys"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | torch.SymInt) or value < 1:
                raise ValueError(f"{name} is {value!r}; attention needs a number of at least 1")
        flag("causal", self.causal)
        if self.window is not None:
            whole_number("window", self.window)  # it counts the query itself
        self.contiguous = self.q_pos is None and self.k_pos is None and self.k_first is None
        # One tensor given for both: queries and keys stand at the same positions.
        self.together = self.q_pos is self.k_pos and self.k_first is None
        if self.contiguous and self.queries != self.keys:
            raise ValueError(
                f"q_pos and k_pos are missing with {self.queries} queries and {self.keys} keys; "
                "only equally many can default to 0, 1, …: pass both"
            )
        self.only_left_padded = self.k_valid is None
        if self.k_first is not None:
            self._follow()
        if (self.q_pos is None) != (self.k_pos is None):
            missing = "q_pos" if self.q_pos is None else "k_pos"
            raise ValueError(f"{missing} is missing; pass q_pos and k_pos together, or neither")
        if (self.q_documents is None) != (self.k_documents is None):
            raise ValueError("pass q_documents and k_documents together, or neither")
        self.q_pos = self._integers("q_pos", self.q_pos, self.queries)
        self.k_pos = self._integers("k_pos", self.k_pos, self.keys)
        if self.q_documents is not None:
            self.q_documents = self._integers("q_documents", self.q_documents, self.queries)
            self.k_documents = self._integers("k_documents", self.k_documents, self.keys)
        if self.k_valid is not None:
            if not isinstance(self.k_valid, Tensor) or self.k_valid.dtype != torch.bool:
                kind = kind_of(self.k_valid)
                raise TypeError(f"k_valid is {kind}; give a bool tensor, True at real keys")
            self.k_valid = self._shaped("k_valid", self.k_valid, self.keys)
        if isinstance(self.k_first, Tensor) or (self.k_first or 0) < 0:
            real = self.k_pos >= 0
            self.k_valid = real if self.k_valid is None else self.k_valid & real

    @property
    def plain_causal(self) -> bool:
        """Whether the visible pairs are exactly the lower triangle of a square."""
        return self.contiguous and self.causal and self._unrestricted

    @property
    def everything(self) -> bool:
        """Whether every pair is visible, known without reading a tensor."""
        return not self.causal and self._unrestricted

    @property
    def _unrestricted(self) -> bool:
        return self.window is None and self.q_documents is None and self.k_valid is None

    @property
    def batch(self) -> int:
        """Batch size of the positions and masks: 1 where all rows share them."""
        tensors = (self.q_pos, self.k_pos, self.q_documents, self.k_documents, self.k_valid)
        return max(tensor.shape[0] for tensor in tensors if tensor is not None)

    def visible(self) -> Bool[Tensor, "#b nq nk"]:
        """The visible pairs, dense; computed once."""
        if "visible" not in self.derived:
            i, j = self.q_pos[:, :, None], self.k_pos[:, None, :]
            seen = self.seen(i, j)
            if self.q_documents is not None:
                seen = seen & (self.q_documents[:, :, None] == self.k_documents[:, None, :])
            if self.k_valid is not None:
                seen = seen & self.k_valid[:, None, :]
            self.derived["visible"] = seen
        return self.derived["visible"]

    def seen(self, i: Int[Tensor, "..."], j: Int[Tensor, "..."]) -> Bool[Tensor, "..."]:
        """The part of visibility that positions alone decide: causality and window."""
        seen = j <= i if self.causal else (j == j) & (i == i)
        if self.window is not None:
            seen = seen & (i - j < self.window) & (j - i < self.window)
        return seen

    def check_batch(self, batch: int, device: torch.device) -> None:
        """Raises ValueError if a tensor's first axis is neither 1 nor the batch size, or if it is
        on another device."""
        for name in ("q_pos", "k_pos", "q_documents", "k_documents", "k_valid"):
            tensor = getattr(self, name)
            if tensor is not None and tensor.shape[0] not in (1, batch):
                raise ValueError(
                    f"{name} has {tensor.shape[0]} rows, the batch has {batch}: give (n,), "
                    f"(1, n) or ({batch}, n)"
                )
            if tensor is not None and tensor.device != device:
                raise ValueError(f"{name} is on {tensor.device}, q on {device}: move one of them")

    def _follow(self) -> None:
        """Key positions from k_first."""
        if self.k_pos is not None:
            raise ValueError("k_first stands in the place of k_pos: pass one of them")
        begin, device = self.k_first, self.device
        if isinstance(begin, Tensor):
            if begin.dtype != torch.int64 or begin.dim() != 1:
                raise TypeError(f"k_first is {kind_of(begin)}; give a whole number or (batch,)")
            begin, device = begin[:, None], begin.device
        else:
            whole_number("k_first", begin, least=None)
            if device is None and isinstance(self.q_pos, Tensor):
                device = self.q_pos.device
        self.k_pos = torch.arange(self.keys, device=device)[None] + begin

    def _integers(self, name: str, value: Any, length: int) -> Tensor:
        if value is None:
            return torch.arange(length, device=self.device)[None]
        if not isinstance(value, Tensor) or value.dtype not in _INTEGERS:
            raise TypeError(f"{name} is {kind_of(value)}; give an int64 tensor")
        return self._shaped(name, value.to(torch.int64), length)

    def _shaped(self, name: str, value: Tensor, length: int) -> Tensor:
        if value.dim() not in (1, 2) or value.shape[-1] != length:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}; give ({length},) or (batch, {length})"
            )
        return value[None] if value.dim() == 1 else value
