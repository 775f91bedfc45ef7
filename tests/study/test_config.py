"""Parameters are checked when they are written down, and survive a file."""

import dataclasses
import json

import pytest

from whatwhere.errors import UnknownName
from whatwhere.study import Config


def test_what_is_left_out_is_filled_in():
    config = Config(train_length=96, steps=300, heads=6)
    assert config.lengths == (96, 192, 384, 768, 1536)
    found = config.to_dict()
    assert found["eval_lengths"] == [96, 192, 384, 768, 1536]
    assert (found["warmup"], found["kv_heads"]) == (30, 6)
    assert Config(steps=5000).warmup_steps == 100


def test_a_config_survives_json():
    config = Config(encodings=("rope", "pope(delta_init=uniform)"), seeds=(3, 1), dropout=0.1)
    again = Config.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again.to_dict() == config.to_dict()
    with pytest.raises(UnknownName, match="'widht'; did you mean 'width'"):
        Config.from_dict({"widht": 3})


def test_the_identity_is_all_but_the_selection():
    config = Config()
    every = {field.name for field in dataclasses.fields(Config)}
    assert every - set(config.identity()) == {"encodings", "seeds"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"train_length": -4}, "train_length is -4"),
        ({"encodings": ()}, "encodings is empty"),
        ({"seeds": (-1,)}, "seeds is"),
        ({"eval_lengths": (64, 0)}, "eval_lengths is"),
        ({"lr": 0.0}, "lr is 0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"dropout": 1.5}, "dropout is 1.5"),
        ({"precision": "bfloat61"}, "did you mean 'bfloat16'"),
        ({"precision": "bfloat16"}, "for cuda"),
    ],
)
def test_bad_values_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**changes)


def test_repeated_encodings_and_seeds_count_once():
    config = Config(encodings=("rope", "pope", "rope"), seeds=(2, 2))
    assert (config.encodings, config.seeds) == (("rope", "pope"), (2,))
