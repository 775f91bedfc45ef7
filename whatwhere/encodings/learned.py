"""Learned absolute positions: a table row per position, added to the token embedding."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from whatwhere.encodings.base import Encoding, Shape, check_embedding, check_length

__all__ = ["Learned"]


@final
class Learned(Encoding):
    """x_t = E[token_t] + P[t], P of shape (max_length, width), normal with standard deviation 0.02.

    There is no row past the table: positions beyond it raise instead of reading another token's
    row. Source: BERT (arXiv 1810.04805), GPT-2.
    """

    name = "learned"
    cite = "learned"

    def __init__(self, shape: Shape, max_length: int | None = None) -> None:
        super().__init__(shape)
        rows = check_length("max_length", max_length)
        self.table = nn.Parameter(torch.empty(rows, shape.model_width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the table anew."""
        nn.init.normal_(self.table, std=0.02)

    @property
    def relative(self) -> bool:
        """False: every position has a code of its own."""
        return False

    @property
    def max_length(self) -> int | None:
        """Rows of the table."""
        return self.table.shape[0]

    def embed(
        self, x: Float[Tensor, "b n width"], positions: Int[Tensor, "#b n"]
    ) -> Float[Tensor, "b n width"]:
        """x plus the row of each position. Raises ValueError beyond the table."""
        check_embedding(x, positions, self.table.shape[1])
        # On a GPU this waits for the device; reading past the table would kill the process instead.
        traced = torch.compiler.is_compiling() or x.device.type == "meta"
        if not traced and not (x.is_cuda and torch.cuda.is_current_stream_capturing()):
            least, most = int(positions.min()), int(positions.max())
            if least < 0 or most >= self.table.shape[0]:
                raise ValueError(
                    f"position {most if most >= self.table.shape[0] else least} is outside the "
                    f"learned table of {self.table.shape[0]} positions; train with a larger "
                    "max_length, or use an encoding without a table"
                )
        return x + self.table[positions].to(x.dtype)
