"""Where things are: position tensors for every way of laying out tokens.

A position is an integer, never an array index. Everything the library does with order — causality,
windows, rotation, biases — reads these tensors, so packing, left padding, chunked prefill and
decoding need no flag of their own: each is only another position tensor.

Positions have shape (n,) when all rows of a batch share them and (batch, n) when they do not, and
dtype int64. (int32 overflows in fixed-point phases, floats lose integers: bf16 beyond 256, fp16
beyond 2,048, float32 beyond 16,777,216.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from whatwhere.errors import kind_of, whole_number

__all__ = ["contiguous", "from_cu_seqlens", "from_documents", "left_padded", "packed"]


def contiguous(
    length: int, start: int = 0, *, device: torch.device | str | None = None
) -> Int[Tensor, " n"]:
    """Positions start, start + 1, …, start + length - 1.

    Shapes: returns (length,). Units: tokens.
    Raises ValueError if length is below 1, TypeError if it is no whole number.
    """
    whole_number("length", length)
    whole_number("start", start, least=None)
    return torch.arange(start, start + length, device=device)


def packed(
    lengths: Sequence[int], *, device: torch.device | str | None = None
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Positions and document numbers of documents laid end to end.

    packed([2, 3]) is positions [0, 1, 0, 1, 2] and documents [0, 0, 1, 1, 1].
    Shapes: both (sum of lengths,). Pass the second as `documents` so that no pair crosses over:
    restarting positions alone does not stop a token from seeing the document before it.
    `from_cu_seqlens` gives the same from the running sums that varlen kernels take.
    Raises ValueError if there is no document or one of them is empty.
    """
    if not isinstance(lengths, Sequence):
        raise TypeError(f"lengths is {lengths!r}; give a list of lengths, one per document")
    if not lengths:
        raise ValueError("lengths is empty; give the length of at least one document")
    for number, length in enumerate(lengths):
        whole_number(f"lengths[{number}]", length)
    positions = torch.cat([torch.arange(length, device=device) for length in lengths])
    counts = torch.tensor(list(lengths), device=device)
    return positions, torch.repeat_interleave(torch.arange(len(lengths), device=device), counts)


def from_cu_seqlens(
    cu_seqlens: Int[Tensor, " documents_and_one"], total: int
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Positions and document numbers of packed documents, from where each of them begins.

    cu_seqlens is 0 and the running sums of the lengths, as varlen attention takes it:
    from_cu_seqlens([0, 2, 5], 5) is what packed([2, 3]) is. Nothing is read back from a GPU, so
    the total, cu_seqlens[-1], is given. Tokens beyond cu_seqlens[-1] are one more document (the
    padding of a buffer); a document without tokens keeps its number.
    Shapes: (documents + 1,), int32 or int64 -> both (total,) int64.
    Raises TypeError or ValueError for another dtype or shape; the numbers are not looked at.
    """
    whole_number("total", total)
    if not isinstance(cu_seqlens, Tensor) or cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"cu_seqlens is {kind_of(cu_seqlens)}; give (documents + 1,), int32")
    if cu_seqlens.dim() != 1 or len(cu_seqlens) < 2:
        shape = tuple(cu_seqlens.shape)
        raise ValueError(f"cu_seqlens has shape {shape}; give (documents + 1,), at least (2,)")
    starts = cu_seqlens.to(torch.int64)
    index = torch.arange(total, device=starts.device)
    documents = torch.searchsorted(starts[1:], index, right=True)
    return index - starts[documents], documents


def from_documents(documents: Int[Tensor, "*b n"]) -> Int[Tensor, "*b n"]:
    """Positions that restart at 0 wherever the document number changes along the last axis.

    Shapes: (n,) or (batch, n), as given.
    """
    if not isinstance(documents, Tensor) or documents.is_floating_point() or not documents.dim():
        raise TypeError(f"documents is {kind_of(documents)}; give int64, (n,) or (batch, n)")
    if documents.shape[-1] == 0:
        raise ValueError("documents is empty; a sequence has at least one token")
    index = torch.arange(documents.shape[-1], device=documents.device).expand_as(documents)
    first = torch.ones_like(documents, dtype=torch.bool)
    first[..., 1:] = documents[..., 1:] != documents[..., :-1]
    return index - torch.where(first, index, 0).cummax(dim=-1).values


def left_padded(valid: Bool[Tensor, "b n"]) -> Int[Tensor, "b n"]:
    """Positions of rows padded on the left: the first real token of each row stands at 0.

    p[b, t] = max(0, sum(valid[b, :t + 1]) - 1). Padding itself gets 0 and must be hidden with
    `k_valid`; array indices in its place shift every shorter prompt (encodings.md §1).
    Shapes: (batch, n) bool -> (batch, n) int64.
    """
    if not isinstance(valid, Tensor) or valid.dtype != torch.bool or not valid.dim():
        raise TypeError(f"valid is {kind_of(valid)}; give a bool tensor, True at real tokens")
    return (valid.cumsum(dim=-1) - 1).clamp(min=0)
