"""Positions and documents from running sums of lengths."""

import pytest
import torch

from whatwhere.positions import from_cu_seqlens, packed


@pytest.mark.parametrize("lengths", [[2, 3], [1], [7, 1, 1, 4]])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_running_sums_are_what_packed_is(lengths: list[int], dtype: torch.dtype) -> None:
    sums = torch.tensor([0, *lengths]).cumsum(0).to(dtype)
    got, wanted = from_cu_seqlens(sums, sum(lengths)), packed(lengths)
    assert [x.dtype for x in got] == [torch.int64, torch.int64]
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_empty_documents_keep_their_number_and_padding_is_one_more_document() -> None:
    positions, documents = from_cu_seqlens(torch.tensor([0, 2, 2, 5]), 7)
    assert positions.tolist() == [0, 1, 0, 1, 2, 0, 1]
    assert documents.tolist() == [0, 0, 2, 2, 2, 3, 3]


def test_no_number_is_read_back() -> None:
    """A meta tensor has none: asking for one would raise."""
    sums = torch.empty(4, dtype=torch.int32, device="meta")
    assert [x.shape for x in from_cu_seqlens(sums, 10)] == [(10,), (10,)]


@pytest.mark.parametrize(
    ("sums", "total", "error", "message"),
    [
        ([0, 2], 2, TypeError, "cu_seqlens is list"),
        (torch.tensor([0.0, 2.0]), 2, TypeError, "float32"),
        (torch.tensor([[0, 2]]), 2, ValueError, r"shape \(1, 2\)"),
        (torch.tensor([0]), 2, ValueError, "at least"),
        (torch.tensor([0, 2]), 0, ValueError, "total is 0"),
    ],
)
def test_bad_input_is_named(
    unchecked: None, sums: object, total: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        from_cu_seqlens(sums, total)  # type: ignore[arg-type]
