"""Stacked decoders are the decoders: logits, gradients, memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from whatwhere.nn import Decoder, DecoderConfig
from whatwhere.study.stacked import Stacked

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
