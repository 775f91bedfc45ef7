"""A training on a task's streams: its groups, its failures, and that it goes on."""

import re

import pytest
import torch
from study.toy import toy_config, toy_task

from whatwhere.study import Observer, checkpoint
from whatwhere.study.model import build_model
from whatwhere.study.stacked import Stacked
from whatwhere.study.step import Step
from whatwhere.study.training import Training
from whatwhere.tasks import Windows

WINDOWS = Windows(toy_task(), toy_config().train_length)


class StopAfter(Observer):
    """Asks to stop after some steps; counts all."""

    def __init__(self, steps=10**9):
        self.left, self.losses = steps, []

    def step(self, step, loss, work):
        self.left -= 1
        self.losses.append(loss)

    def stop(self):
        return self.left <= 0


def test_only_matrices_of_the_decoder_decay():
    config = toy_config()
    model = build_model(config, "pope", WINDOWS.vocab_size, 0)
    step = Step(Stacked([model]), WINDOWS, config, torch.tensor([0]))
    decays, rest = step.optimizers[0].param_groups
    assert (decays["weight_decay"], rest["weight_decay"]) == (0.01, 0.0)
    names = {id(value): key for key, value in model.named_parameters()}
    free = {names[id(value)] for value in rest["params"]}
    assert {name for name in free if "encodings" in name} == {
        "encodings.0.delta",
        "encodings.1.delta",
    }
    assert all("norm" in name or "encodings" in name for name in free)
    assert len(decays["params"]) + len(rest["params"]) == len(names)


def test_it_learns(tmp_path):
    observer = StopAfter()
    config = toy_config(steps=90, width=32, lr=1e-2, batch_size=8)
    training = Training(config, WINDOWS, "rope", (0,), tmp_path / "a.pt")
    training.run(observer, 0.0, 1e9)
    assert sum(observer.losses[-10:]) / 10 < 0.75 * observer.losses[0]
    steps = [point["step"] for point in training.curve]
    valid = [point["valid_nll"] for point in training.curve]
    assert steps == [30, 60, 90]
    assert valid[-1] < valid[0]


def states(path, config, encoding, stops):
    """The finished state after being stopped (and saved) every `stops` steps."""
    while True:
        training = Training(config, WINDOWS, encoding, (3,), path)
        try:
            training.run(StopAfter(stops), 0.0, 1e9)
        except KeyboardInterrupt:
            continue
        return checkpoint.load(path)


@pytest.mark.parametrize("encoding", ["rope", "pope(delta_init=uniform)"])
def test_stopping_changes_no_bit(tmp_path, encoding):
    config = toy_config(dropout=0.3, steps=7)
    whole = states(tmp_path / "whole.pt", config, encoding, 100)
    torch.manual_seed(99)
    parts = states(tmp_path / "parts.pt", config, encoding, 2)
    assert parts["curve"] == whole["curve"]
    assert parts["models"][0].keys() == whole["models"][0].keys()
    for key, value in whole["models"][0].items():
        assert torch.equal(parts["models"][0][key], value), key
    other = states(tmp_path / "other.pt", toy_config(dropout=0.3, steps=8), encoding, 100)
    assert not torch.equal(
        other["models"][0]["embedding.weight"], whole["models"][0]["embedding.weight"]
    )


def test_a_loss_that_is_no_number_ends_the_training(tmp_path):
    config = toy_config(lr=1e38, warmup=0, steps=50)
    training = Training(config, WINDOWS, "rope", (0,), tmp_path / "a.pt")
    observer = StopAfter()
    training.run(observer, 0.0, 1e9)
    assert re.match("training broke off at step [0-9]+: .*(nan|NaN|inf)", training.failed[0] or "")
    assert len(observer.losses) < 50
    again = Training(config, WINDOWS, "rope", (0,), tmp_path / "a.pt")
    again.run(observer, 0.0, 1e9)
    assert again.failed == training.failed
    assert len(observer.losses) < 50  # and it is not tried again


def test_a_damaged_checkpoint_says_what_to_delete(tmp_path):
    path = tmp_path / "a.pt"
    Training(toy_config(), WINDOWS, "rope", (0,), path).run(Observer(), 0.0, 1e9)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(OSError, match=r"a\.pt is damaged .* delete it"):
        Training(toy_config(), WINDOWS, "rope", (0,), path)


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    Training(toy_config(), WINDOWS, "rope", (0,), tmp_path / "a.pt").run(Observer(), 0.0, 1e9)
    with pytest.raises(OSError, match=r"seeds was \[0\] and is now \[1\]"):
        Training(toy_config(), WINDOWS, "rope", (1,), tmp_path / "a.pt")
