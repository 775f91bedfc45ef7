"""Stacked decoders are the decoders: logits, gradients, memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from whatwhere.nn import Decoder, DecoderConfig
from whatwhere.study import shared
from whatwhere.study.stacked import Stacked
from whatwhere.study.step import losses_of

SEEDS, BATCH, LENGTH, VOCABULARY = 3, 2, 12, 30


def made(encoding: str, device: torch.device, **options: Any) -> list[Decoder]:
    config = DecoderConfig(
        VOCABULARY, width=32, layers=2, heads=4, encoding=encoding, train_length=16, **options
    )
    decoders = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        decoders.append(Decoder(config).to(device))
    return decoders


def asked(device: torch.device) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(VOCABULARY, (SEEDS, BATCH, LENGTH), generator=generator).to(device)


@pytest.mark.parametrize("encoding", ["rope", "pope", "learned", "sinusoidal", "alibi", "t5"])
@pytest.mark.parametrize(
    "options",
    [{}, {"kv_heads": 2, "qk_norm": True, "activation": "gelu", "tie_embeddings": False}],
    ids=["plain", "other"],
)
def test_each_seed_is_its_decoder(
    encoding: str, options: dict[str, Any], device: torch.device
) -> None:
    decoders, tokens = made(encoding, device, **options), asked(device)
    wanted, gradients = [], []
    for decoder, row in zip(decoders, tokens, strict=True):
        logits = decoder(row)
        logits.square().mean().backward()
        wanted.append(logits.detach())
        gradients.append([parameter.grad for parameter in decoder.parameters()])
        decoder.zero_grad()
    stacked = Stacked(decoders)
    logits = stacked(tokens)
    logits.square().mean((1, 2, 3)).sum().backward()
    stacked.share_gradients()
    torch.testing.assert_close(logits.detach(), torch.stack(wanted), rtol=1e-5, atol=1e-6)
    for decoder, true in zip(decoders, gradients, strict=True):
        for parameter, gradient in zip(decoder.parameters(), true, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)
    stacked.forget_gradients()
    assert all(p.grad is None for decoder in decoders for p in decoder.parameters())


@pytest.mark.parametrize("encoding", ["rope", "pope"])
@pytest.mark.parametrize("last", [1, 5, 12])
def test_the_last_places_alone(encoding: str, last: int, device: torch.device) -> None:
    stacked, tokens = Stacked(made(encoding, device)), asked(device)
    part = stacked(tokens, last)
    assert part.shape == (SEEDS, BATCH, last, VOCABULARY)
    torch.testing.assert_close(part, stacked(tokens)[:, :, -last:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tied", [True, False])
def test_a_large_vocabulary_of_an_odd_number_is_padded(
    tied: bool, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPT-2's 50,257 columns of 16 bits each: rows begin at multiples of 16 bytes."""
    found = {}
    for least in (VOCABULARY, VOCABULARY + 1):
        monkeypatch.setattr(shared, "LARGE", least)
        monkeypatch.setattr(shared, "PADDED", {"cpu", "cuda"})
        stacked, tokens = Stacked(made("rope", device, tie_embeddings=tied)), asked(device)
        with torch.autocast(device.type, torch.bfloat16):
            logits = stacked(tokens, None, True)
            plain = stacked(tokens)
        assert plain.shape[-1] == VOCABULARY
        assert torch.equal(plain, logits[..., :VOCABULARY])
        losses_of(logits, tokens, VOCABULARY).sum().backward()
        found[least] = logits, [each.grad for each in stacked.parameters()]
    (padded, gradients), (narrow, wanted) = found.values()
    assert (padded.shape[-1], narrow.shape[-1]) == (64, VOCABULARY)
    assert not padded[..., VOCABULARY:].any()
    torch.testing.assert_close(padded[..., :VOCABULARY], narrow, rtol=0.02, atol=1e-3)
    for mine, true in zip(gradients, wanted, strict=True):
        assert mine.shape == true.shape
        assert (mine - true).norm() <= 0.01 * true.norm()


def test_products_that_are_small_or_exact_are_not_padded(device: torch.device) -> None:
    x = torch.zeros(1, device=device)
    assert shared.aligned(50257, x) == 50257  # float32: no fast kernel to lose
    half = 50304 if device.type == "cuda" else 50257
    assert shared.aligned(50257, x.bfloat16()) == half
    assert [shared.aligned(count, x.bfloat16()) for count in (90, 50304, 50264)] == [
        90,
        50304,
        50264,
    ]


def test_a_decoder_reads_what_the_stack_learns(device: torch.device) -> None:
    decoders = made("pope", device)
    stacked, tokens = Stacked(decoders), asked(device)
    before = decoders[1](tokens[1])
    with torch.no_grad():
        for parameter in stacked.parameters():
            parameter.mul_(1.5)
    after = decoders[1](tokens[1])
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, stacked(tokens)[1], rtol=1e-5, atol=1e-5)


def test_what_can_not_be_stacked(device: torch.device) -> None:
    with pytest.raises(ValueError, match="same DecoderConfig"):
        Stacked([])
    with pytest.raises(ValueError, match="same DecoderConfig"):
        Stacked([made("rope", device)[0], made("pope", device)[0]])
