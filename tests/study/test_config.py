"""Parameters are checked when they are written down, and survive a file."""

import dataclasses
import json

import pytest

from whatwhere.errors import UnknownName
from whatwhere.study import Config
from whatwhere.study.model import decoder_config


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
    later = {"head_dim", "hidden", "activation", "qk_norm", "tie_embeddings", "accumulate"}
    assert every - set(config.identity()) == {"encodings", "seeds"} | later


def test_a_later_field_is_written_where_it_is_not_the_default():
    """config.json files of earlier versions lack it; with it they would belong to nobody."""
    config = Config(activation="gelu", qk_norm=True, head_dim=8, hidden=40, tie_embeddings=False)
    kept = json.loads(json.dumps(config.to_dict()))
    assert kept["activation"] == "gelu"
    assert (kept["qk_norm"], kept["head_dim"], kept["hidden"]) == (True, 8, 40)
    assert Config.from_dict(kept).to_dict() == kept
    sizes = decoder_config(config, "rope", 11)
    assert (sizes.activation, sizes.qk_norm, sizes.channels, sizes.units) == ("gelu", True, 8, 40)
    assert not sizes.tie_embeddings


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
        ({"activation": "gleu"}, "did you mean 'gelu'"),
        ({"hidden": 0}, "hidden is 0"),
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
