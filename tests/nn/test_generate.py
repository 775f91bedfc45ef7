"""Generation with the cache gives the tokens of one pass."""

from __future__ import annotations

import pytest
import torch
from conformance.cases import FEW, TABLE_ROWS
from conformance.test_batches import padded
from conformance.test_decoding import VOCABULARY, decoder, numbers
from torch import Tensor

from whatwhere.nn import Decoder, DecoderConfig

PROMPT, NEW = 7, 12
pytestmark = pytest.mark.usefixtures("unchecked")  # some 12 forward passes a test


def speaker(text: str, device: torch.device) -> Decoder:
    """A model that does not only echo: its head is not its embedding."""
    return decoder(text, device, tie_embeddings=False)


def greedy(model: Decoder, prompt: Tensor, **options: object) -> Tensor:
    return model.generate(prompt, max_new_tokens=NEW, temperature=0.0, **options)


def constant(text: str) -> bool:
    return not decoder(text, torch.device("cpu"), layers=1).active[0].length_dependent


@pytest.mark.parametrize("text", [text for text in FEW if constant(text)])
@torch.no_grad()
def test_greedy_is_the_argmax_of_one_pass(text: str, device: torch.device) -> None:
    model = speaker(text, device)
    prompt = numbers(PROMPT, device)
    found = greedy(model, prompt)
    assert found.shape == (2, PROMPT + NEW)
    assert torch.equal(found[:, :PROMPT], prompt)
    logits = model(found[:, :-1])[:, PROMPT - 1 :]
    assert torch.equal(logits.argmax(-1), found[:, PROMPT:])
    assert len(found[:, PROMPT:].unique()) > 2  # no fixed point that any bug would share


@pytest.mark.parametrize("text", ["rope+logn(form=length)", "rope+yarn(factor=dynamic)"])
@torch.no_grad()
def test_length_dependent_generation_is_streaming(text: str, device: torch.device) -> None:
    """Each token at the horizon of its own step: equal to a loop of calls, not to one pass."""
    model = speaker(text, device)
    prompt = numbers(PROMPT, device)
    found, cache, fed = greedy(model, prompt), model.new_cache(PROMPT + NEW), prompt
    for step in range(NEW):
        following = model(fed, cache=cache)[:, -1].argmax(-1)
        assert torch.equal(following, found[:, PROMPT + step])
        fed = following[:, None]


@pytest.mark.parametrize("text", [text for text in FEW if constant(text)])
@torch.no_grad()
def test_padded_prompts_go_on_as_if_alone(text: str, device: torch.device) -> None:
    model = speaker(text, device)
    prompt, starts = numbers(PROMPT, device), (0, 3)
    found = greedy(model, prompt, valid=padded(PROMPT, starts, device))
    for row, start in enumerate(starts):
        alone = greedy(model, prompt[row : row + 1, start:])
        assert torch.equal(found[row, start:], alone[0])


@torch.no_grad()
def test_sampling(device: torch.device) -> None:
    model = speaker("pope", device)
    prompt = numbers(PROMPT, device)

    def sample(seed: int, **options: object) -> Tensor:
        generator = torch.Generator(device).manual_seed(seed)
        return model.generate(prompt, max_new_tokens=NEW, generator=generator, **options)

    assert torch.equal(sample(1), sample(1))
    assert not torch.equal(sample(1), sample(2))
    assert torch.equal(sample(1, top_k=1), greedy(model, prompt))
    # Temperature 1: shares of the first new token are its probabilities, within five errors.
    probability = model(prompt[:1])[0, -1].softmax(-1)
    many = model.generate(
        prompt[:1].expand(4000, -1),
        max_new_tokens=1,
        generator=torch.Generator(device).manual_seed(3),
    )[:, -1]
    share = torch.bincount(many, minlength=VOCABULARY) / 4000
    error = (probability * (1 - probability) / 4000).sqrt()
    assert ((share - probability).abs() <= 5 * error + 1e-3).all()
    few = sample(4, top_k=3)
    logits = model(few[:, :-1])[:, PROMPT - 1 :]
    best = logits.topk(3, -1).indices
    assert (best == few[:, PROMPT:, None]).any(-1).all()


@torch.no_grad()
def test_a_stopped_row_repeats_the_stop(device: torch.device) -> None:
    model = speaker("rope", device)
    prompt = numbers(PROMPT, device)
    free = greedy(model, prompt)
    stop = int(free[0, PROMPT + 2])
    found = greedy(model, prompt, stop=stop)
    for row in range(2):
        hits = (free[row, PROMPT:] == stop).nonzero().flatten().tolist()
        end = PROMPT + (hits[0] if hits else NEW)
        assert torch.equal(found[row, :end], free[row, : min(end, found.shape[1])])
        assert (found[row, end:] == stop).all()


def test_it_leaves_the_model_as_it_was(device: torch.device) -> None:
    model = decoder("learned", device, dropout=0.5)
    for training in (True, False):
        model.train(training)
        greedy(model, numbers(PROMPT, device))
        assert model.training is training
    with pytest.raises(ValueError, match=str(TABLE_ROWS)):
        model.generate(numbers(PROMPT, device), max_new_tokens=TABLE_ROWS)


def test_a_table_of_positions_is_used_to_its_end() -> None:
    model = Decoder(
        DecoderConfig(
            vocab_size=11, width=16, layers=1, heads=2, encoding="learned", train_length=8
        )
    )
    prompt = torch.zeros(1, 5, dtype=torch.int64)
    assert model.generate(prompt, max_new_tokens=4).shape == (1, 9)  # the ninth is never read
    with pytest.raises(ValueError, match="need 9 positions, but the encoding has 8"):
        model.generate(prompt, max_new_tokens=5)
