"""Cached content: what of a key knows no position, stored once, read by every rule it fits."""

from __future__ import annotations

import pytest
import torch
from conformance.cases import ALL, BATCH, DV, EXACT, GROUPS, D, draw, layer, make, project, tokens
from conformance.test_decoding import decoder, numbers, poison

from whatwhere import KVCache
from whatwhere.attention import attend
from whatwhere.content import Content
from whatwhere.maps import PLAIN, Map, Polar, Rotate
from whatwhere.phases import Angles, to_turns
from whatwhere.regions import EVERYWHERE
from whatwhere.rule import ScoreRule, Term

LENGTH = 23
ANGLES = Angles(torch.tensor(to_turns([0.7, 0.1, 0.01])), 1.2)
MAPS: dict[str, Map] = {
    "plain": PLAIN,
    "rotate": Rotate(ANGLES),
    "softplus": Polar(ANGLES),
    "relu": Polar(ANGLES, "relu"),
    "identity": Polar(ANGLES, "identity"),
}


@pytest.mark.parametrize("name", MAPS)
def test_a_map_is_its_content_and_the_rest(name: str) -> None:
    mapping, x, at = MAPS[name], draw((2, 3, 5, 8), torch.device("cpu")), torch.arange(5)[None]
    split = mapping.of_content()(mapping.content(x), at)
    assert torch.equal(split, mapping(x, at))
    assert mapping.content(x).shape == x.shape
    assert mapping.of_content().content == Content()
    assert mapping.content.channels == (3 if name in ("softplus", "relu") else 0)


@pytest.mark.parametrize("channels", [3, 8])
def test_content_keeps_the_dtype_where_autocast_does_not(
    channels: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder under autocast stores keys; on CUDA softplus gives float32 there, on a CPU not."""
    x = draw((2, 3, 5, 8), device).bfloat16()
    with torch.autocast(device.type, torch.bfloat16):
        assert Content("softplus", channels)(x).dtype == torch.bfloat16
    monkeypatch.setattr(
        "whatwhere.content.magnitude", lambda x, kind: torch.nn.functional.softplus(x.float())
    )
    assert Content("softplus", channels)(x).dtype == torch.bfloat16


def test_terms_share_a_content_or_keys_stay_raw() -> None:
    polar = Term(PLAIN, Polar(ANGLES), EVERYWHERE)
    near = Term(PLAIN, Polar(ANGLES).slowed(4.0), EVERYWHERE)
    relu = Term(PLAIN, Polar(ANGLES, "relu"), EVERYWHERE)
    assert ScoreRule((polar, near)).content == Content("softplus", 3)
    assert ScoreRule((polar, relu)).content == Content()
    assert ScoreRule((polar, relu)).of_content().terms == (polar, relu)
    assert ScoreRule().content == Content()


@pytest.mark.parametrize("text", [text for text in ALL if text.startswith("pope")])
@torch.no_grad()
def test_every_rule_of_pope_is_split(text: str, device: torch.device) -> None:
    """Also those of several terms: Dual Chunk, ReRoPE and the others share one content."""
    encoding = make(text, device)
    rule = encoding.rule(LENGTH)
    kind = "identity" if "identity" in text else "relu" if "relu" in text else "softplus"
    assert rule.content.kind == kind
    x, here = tokens(LENGTH, device), torch.arange(LENGTH, device=device)
    raw = project(encoding, rule, x, here)
    cache = KVCache(1, LENGTH)
    cache.follow(LENGTH, batch=BATCH, device=device)
    k, v = cache.update(0, raw.k, raw.v, rule.content)
    assert (kind == "identity") == torch.equal(k, raw.k)
    found = attend(raw.q, k, v, rule.of_content(), q_pos=here, k_first=0)
    torch.testing.assert_close(found, layer(encoding, x, here, LENGTH), **EXACT)


def test_content_is_rounded_once() -> None:
    x = draw((1, 1, 64, 16), torch.device("cpu")).to(torch.bfloat16)
    exact = torch.nn.functional.softplus(x.double())
    assert torch.equal(Content("softplus", 16)(x), exact.to(torch.bfloat16))
    assert torch.equal(Content("softplus", 10)(x)[..., 10:], x[..., 10:])


@torch.no_grad()
def test_a_cache_is_read_by_every_rule_of_its_content(device: torch.device) -> None:
    """Filled while the spectrum was plain, read with YaRN and Dual Chunk: as if YaRN's all along.

    One layer: keys of deeper ones depend on what the earlier layers saw.
    """
    for base in ("rope", "pope"):
        model, x = decoder(base, device, layers=1), numbers(LENGTH, device)
        cache = model.new_cache(LENGTH)
        model(x[:, :20], cache=cache)
        changed = f"{base}+yarn(factor=4)+dual_chunk"
        model.use(changed)
        poison(cache)
        found = model(x[:, 20:], cache=cache)
        expected = decoder(changed, device, layers=1)
        expected.load_state_dict(model.state_dict())
        torch.testing.assert_close(found, expected(x)[:, 20:], **EXACT)


@pytest.mark.usefixtures("unchecked")
def test_another_content_is_refused(device: torch.device) -> None:
    cache = KVCache(2, 9)
    k, v = draw((BATCH, GROUPS, 1, D), device), draw((BATCH, GROUPS, 1, DV), device)
    soft, relu = Content("softplus", D), Content("relu", D)
    assert cache.content is None
    cache.follow(1, batch=BATCH, device=device)
    cache.update(0, k, v, soft)
    for other in (relu, Content(), None, Content("softplus", D - 1)):
        with pytest.raises(ValueError, match=f"softplus magnitudes of {D} channels.*new cache"):
            cache.update(1, k, v, other)
    cache.update(1, k, v, soft)
    assert cache.content == soft
    cache.follow(1)
    with pytest.raises(ValueError, match="raw keys"):
        cache.update(0, k, v)
    cache.crop(0)  # nothing is left of the old content
    cache.follow(1, batch=BATCH, device=device)
    assert torch.equal(cache.update(0, k, v)[0], k)
