"""Rows and documents do not touch: packed = separate, left-padded = separate, anywhere = at 0."""

from __future__ import annotations

import pytest
import torch
from conformance.cases import ALL, BATCH, EXACT, KINDS, TABLE_ROWS, layer, make, tokens
from conformance.test_decoding import decoder, numbers
from torch import Tensor

from whatwhere import positions

# Shapes are checked where the same calls are made once.
pytestmark = pytest.mark.usefixtures("unchecked")
PIECES = (13, 1, 22)
SHIFTS = (1, 7, 1_000, 20_000)


@pytest.mark.parametrize("text", KINDS)
@torch.no_grad()
def test_packed_documents_are_separate_documents(text: str, device: torch.device) -> None:
    encoding = make(text, device)
    at, documents = positions.packed(PIECES, device=device)
    x = tokens(sum(PIECES), device)
    found = layer(encoding, x, at, 22, q_documents=documents, k_documents=documents)
    expected = [
        layer(encoding, piece, torch.arange(piece.shape[1], device=device), 22)
        for piece in x.split(PIECES, dim=1)
    ]
    torch.testing.assert_close(found, torch.cat(expected, dim=2), **EXACT)
    crossing = layer(encoding, x, at, 22)  # restarting positions alone is not enough
    assert (crossing - found).abs().max() > 1e-3


@pytest.mark.parametrize("text", KINDS)
@torch.no_grad()
def test_left_padded_rows_are_separate_rows(text: str, device: torch.device) -> None:
    encoding = make(text, device)
    x, valid = tokens(22, device), padded(22, (0, 9), device)
    at = positions.left_padded(valid)
    found = layer(encoding, x, at, 22, k_valid=valid)
    for row, start in enumerate((0, 9)):
        alone = x[row : row + 1, start:]
        expected = layer(encoding, alone, torch.arange(22 - start, device=device), 22)
        torch.testing.assert_close(found[row : row + 1, :, start:], expected, **EXACT)


def padded(n: int, starts: tuple[int, ...], device: torch.device) -> Tensor:
    """Which tokens are real, where rows begin with so many tokens of padding."""
    return torch.arange(n, device=device) >= torch.tensor(starts, device=device)[:, None]


@pytest.mark.parametrize("text", KINDS)
@torch.no_grad()
def test_a_decoder_keeps_documents_and_rows_apart(text: str, device: torch.device) -> None:
    """Each at the horizon of its own length, which is what length-dependent encodings are given."""
    model = decoder(text, device)
    x = numbers(26, device)
    documents = torch.arange(26, device=device)[None] // 13
    packed = model(x, documents=documents)
    for piece, found in zip(x.split(13, 1), packed.split(13, 1), strict=True):
        torch.testing.assert_close(found, model(piece), **EXACT)
    valid = padded(26, (4, 4), device)
    torch.testing.assert_close(model(x, valid=valid)[:, 4:], model(x[:, 4:]), **EXACT)
    uneven = model(x, valid=padded(26, (0, 9), device), horizon=26)
    for row, start in enumerate((0, 9)):
        expected = model(x[row : row + 1, start:], horizon=26)
        torch.testing.assert_close(uneven[row : row + 1, start:], expected, **EXACT)


@pytest.mark.parametrize("text", ALL)
@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_relative_says_the_truth(text: str, training: bool, device: torch.device) -> None:
    """Shifting all positions changes nothing exactly where `relative` says so."""
    encoding = make(text, device)
    x, here = tokens(25, device), torch.arange(25, device=device)
    limit = encoding.max_length or 10**9
    shifts = [shift for shift in SHIFTS if 25 + shift <= limit]

    def at(shift: int) -> Tensor:
        return layer(encoding, x, here + shift, 25, training=training)

    moved = [(at(shift) - at(0)).abs().max().item() for shift in shifts]
    if encoding.relative:
        # Float64 phases at 20,000 radians are good to 4e-12.
        assert max(moved) < 1e-9
    else:
        assert max(moved) > 1e-4


@pytest.mark.parametrize("text", ALL)
@torch.no_grad()
def test_length_dependent_says_the_truth(text: str, device: torch.device) -> None:
    """Another horizon changes something exactly where `length_dependent` says so."""
    encoding = make(text, device)
    x, here = tokens(13, device), torch.arange(13, device=device)
    at = [layer(encoding, x, here, horizon) for horizon in (12, 13, 40, 500)]
    moved = max((each - at[0]).abs().max().item() for each in at[1:])
    if encoding.length_dependent:
        assert moved > 1e-4
        with pytest.raises(ValueError, match="horizon"):
            encoding.rule()
    else:
        assert moved < 1e-10  # xPos's centre follows the horizon and cancels
        encoding.rule()


@pytest.mark.parametrize("text", KINDS)
@torch.no_grad()
def test_max_length_and_causal_only_say_the_truth(text: str, device: torch.device) -> None:
    encoding = make(text, device)
    x = tokens(2, device)
    last = encoding.max_length
    assert (last is None) == (text.split("+")[0] != "learned")
    layer(encoding, x, torch.tensor([0, (last or 5_000) - 1], device=device), 2)
    if last is not None:
        assert last == TABLE_ROWS
        with pytest.raises((ValueError, IndexError)):
            layer(encoding, x, torch.tensor([0, last], device=device), 2)
    here = torch.arange(2, device=device)
    if encoding.causal_only:
        with pytest.raises(ValueError, match="causal"):
            layer(encoding, x, here, 2, causal=False)
    else:
        both = layer(encoding, x, here, 2, causal=False)
        assert (both - layer(encoding, x, here, 2))[:, :, 0].abs().max() > 1e-3
        assert both.shape[0] == BATCH
