"""Decoding equals one pass: un-rotated keys, in chunks of any size, for every encoding."""

from __future__ import annotations

import pytest
import torch
from conformance.cases import (
    ALL,
    EXACT,
    FEW,
    GROUPS,
    HEADS,
    KINDS,
    TABLE_ROWS,
    TRAINED,
    WIDTH,
    D,
    layer,
    make,
    project,
    stir,
    tokens,
)
from torch import Tensor

from whatwhere import KVCache
from whatwhere.attention import attend
from whatwhere.encodings import Encoding
from whatwhere.nn import Decoder, DecoderConfig

LENGTH = 23  # reaches Dual Chunk's third term: two chunks of 9 tokens back
AWKWARD, SINGLY = (5, 1, 9, 8), (1,) * LENGTH
VOCABULARY = 29
# Some 25 calls a test: shapes are checked where the same calls are made once.
pytestmark = pytest.mark.usefixtures("unchecked")


def poison(cache: KVCache) -> None:
    """NaN in every place that no token has filled: reading one shows."""
    for tensor in (*cache._keys, *cache._values):
        if tensor is not None:
            tensor[:, :, len(cache) :] = float("nan")


def streamed(encoding: Encoding, x: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """One layer's attention, chunk after chunk through a cache, at the horizon of the whole."""
    rule = encoding.rule(x.shape[1])
    cache = KVCache(1, x.shape[1] + 3)
    positions = torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1)
    outputs = []
    for part, at in zip(x.split(sizes, 1), positions.split(sizes, 1), strict=True):
        raw = project(encoding, rule, part, at)
        cache.advance(at)
        keys, values = cache.update(0, raw.k, raw.v)
        poison(cache)
        outputs.append(attend(raw.q, keys, values, rule, q_pos=at, k_pos=cache.positions))
    return torch.cat(outputs, dim=2)


@pytest.mark.parametrize("text", KINDS)
@torch.no_grad()
def test_a_layer_streams_as_it_runs_in_one_pass(text: str, device: torch.device) -> None:
    encoding = make(text, device)
    x = tokens(LENGTH, device)
    expected = layer(encoding, x, torch.arange(LENGTH, device=device), LENGTH)
    for sizes in (AWKWARD, SINGLY):
        torch.testing.assert_close(streamed(encoding, x, sizes), expected, **EXACT)


def decoder(text: str, device: torch.device, layers: int = 2, **options: object) -> Decoder:
    """A small float64 decoder in evaluation, its encoding's parameters stirred."""
    torch.manual_seed(5)
    sizes = {"width": WIDTH, "heads": HEADS, "head_dim": D, "kv_heads": GROUPS, "hidden": 24}
    lengths = {"train_length": TRAINED, "max_length": TABLE_ROWS}
    config = DecoderConfig(VOCABULARY, **sizes, **lengths, layers=layers, encoding=text, **options)
    model = Decoder(config)
    stir(model.encodings)
    with torch.no_grad():  # logits of ordinary size: initial ones hide differences
        for block in model.blocks:
            for parameter in block.parameters():
                if parameter.dim() == 2:
                    parameter.mul_(8.0)
        model.embedding.weight.mul_(20.0)
    return model.to(device=device, dtype=torch.float64).eval()


def numbers(n: int, device: torch.device, batch: int = 2) -> Tensor:
    """Token numbers."""
    generator = torch.Generator().manual_seed(8)
    return torch.randint(VOCABULARY, (batch, n), generator=generator).to(device)


def stream(model: Decoder, x: Tensor, sizes: tuple[int, ...], horizon: int | None = None) -> Tensor:
    """Logits of the chunks, through one cache."""
    cache = model.new_cache(x.shape[1] + 3)
    logits = []
    for part in x.split(sizes, dim=1):
        logits.append(model(part, cache=cache, horizon=horizon))
        poison(cache)
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("text", ALL)
@torch.no_grad()
def test_a_decoder_streams_as_it_runs_in_one_pass(text: str, device: torch.device) -> None:
    """At one horizon, which only length-dependent encodings need to be told."""
    model = decoder(text, device)
    horizon = LENGTH if model.active[0].length_dependent else None
    x = numbers(LENGTH, device)
    expected = model(x, horizon=horizon)
    assert expected.std() > 0.1
    for sizes in (AWKWARD, SINGLY) if text in FEW else (AWKWARD,):
        torch.testing.assert_close(stream(model, x, sizes, horizon), expected, **EXACT)


CHANGING = [
    text for text in ALL if text[:5] == "rope+" and make(text, torch.device("cpu")).length_dependent
]


def test_some_encodings_depend_on_the_length() -> None:
    assert len(CHANGING) > 10


@pytest.mark.parametrize("text", CHANGING)
@torch.no_grad()
def test_what_streaming_a_length_dependent_encoding_can_not_keep(
    text: str, device: torch.device
) -> None:
    """Each step has its own horizon, the length so far.

    Equal: the last token of a single layer, since its keys are un-rotated and turn by the newest
    horizon. Different: earlier tokens, which saw shorter horizons, and the last token of a deeper
    model, whose later keys come from such tokens. Up to the training length nothing differs where
    the method leaves short texts alone.
    """
    x, last = numbers(LENGTH, device), SINGLY
    single, deep = decoder(text, device, layers=1), decoder(text, device, layers=2)
    expected, found = single(x), stream(single, x, last)
    torch.testing.assert_close(found[:, -1], expected[:, -1], **EXACT)
    early = (found - expected)[:, :-1].abs().amax()
    assert early > 1e-6
    assert (stream(deep, x, last) - deep(x))[:, -1].abs().max() > 1e-6


@pytest.mark.parametrize("text", ["rope", "pope+dual_chunk", "alibi", "learned", "rope+logn"])
@torch.no_grad()
def test_a_rejected_draft_leaves_no_trace(text: str, device: torch.device) -> None:
    """Crop after three wrong tokens, go on with the right ones."""
    model = decoder(text, device)
    x = numbers(LENGTH, device)
    cache = model.new_cache(LENGTH)
    model(x[:, :20], cache=cache)
    model((x[:, 20:23] + 1) % VOCABULARY, cache=cache)
    cache.crop(20)
    found = model(x[:, 20:], cache=cache)
    torch.testing.assert_close(found, model(x)[:, 20:], **EXACT)
