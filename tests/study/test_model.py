"""At a seed every encoding starts with the same weights and sees the same data."""

import pytest
import torch
from study.toy import toy_config

from whatwhere import encodings
from whatwhere.study.model import build_model

NAMES = encodings.encodings()


def weights(name, seed=0):
    """The weights of a decoder by name, those of the encoding apart."""
    config = toy_config(width=24, heads=3, kv_heads=1, train_length=24)
    state = dict(build_model(config, name, 11, seed).named_parameters())
    own = {key: value for key, value in state.items() if key.startswith("encodings.")}
    return {key: value for key, value in state.items() if key not in own}, own


@pytest.mark.parametrize("name", NAMES)
def test_shared_weights_are_the_same_for_every_encoding(name):
    torch.randn(len(name))  # whatever the global generator did before
    mine, _ = weights(name)
    plain, _ = weights("nope")
    assert mine.keys() == plain.keys()
    assert all(torch.equal(mine[key], plain[key]) for key in mine)


@pytest.mark.parametrize("name", ["learned", "shaw", "fire", "pope(delta_init=uniform)"])
def test_an_encodings_own_parameters_depend_on_the_seed_alone(name):
    (_, own), (_, again), (_, other) = weights(name, 3), weights(name, 3), weights(name, 4)
    assert own
    assert all(torch.equal(own[key], again[key]) for key in own)
    assert any(not torch.equal(own[key], other[key]) for key in own)


def test_another_seed_gives_other_weights():
    one, other = weights("rope", 0)[0], weights("rope", 1)[0]
    drawn = [key for key in one if "norm" not in key]
    assert drawn
    assert all(not torch.equal(one[key], other[key]) for key in drawn)
