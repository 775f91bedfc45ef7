"""One training: its schedule, its groups, its failures, and that it goes on to the last bit."""

import math
import re
from itertools import pairwise

import pytest
import torch
from study.toy import toy_config, toy_task

from whatwhere.study import Observer, checkpoint
from whatwhere.study.train import Training, learning_rate, optimizer_of, train_step, valid_steps

TASK = toy_task()


class StopAfter(Observer):
    """Asks to stop after some steps; counts all."""

    def __init__(self, steps=10**9):
        self.left, self.losses = steps, []

    def step(self, step, loss, work):
        self.left -= 1
        self.losses.append(loss)

    def stop(self):
        return self.left <= 0


def test_the_schedule_warms_up_and_ends_at_a_tenth():
    config = toy_config(steps=1000, warmup=20, lr=2.0, final_lr=0.1)
    rates = [learning_rate(step, config) for step in range(1000)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[19] == rates[20] == 2.0
    assert rates[510] == pytest.approx(1.1)  # half of the way from 20 to 1000
    assert rates[999] == pytest.approx(0.2, rel=1e-4)
    assert all(a >= b for a, b in pairwise(rates[20:]))


def test_only_matrices_of_the_decoder_decay(tmp_path):
    training = Training(toy_config(), TASK, "pope", 0, tmp_path / "a.pt")
    decays, rest = optimizer_of(training.model, toy_config()).param_groups
    assert (decays["weight_decay"], rest["weight_decay"]) == (0.01, 0.0)
    names = {id(value): key for key, value in training.model.named_parameters()}
    free = {names[id(value)] for value in rest["params"]}
    assert {name for name in free if "encodings" in name} == {
        "encodings.0.delta",
        "encodings.1.delta",
    }
    assert all("norm" in name or "encodings" in name for name in free)
    assert len(decays["params"]) + len(rest["params"]) == len(names)


def test_one_step_is_clipped_adamw():
    # AdamW's first step moves every weight that has a gradient by lr, whatever its size.
    weight = torch.nn.Parameter(torch.zeros(4, 3))
    optimizer = torch.optim.AdamW([weight], lr=0.5, weight_decay=0.0, eps=1e-12)
    inputs, targets = torch.tensor([[0, 1]]), torch.tensor([[2, 0]])
    loss = train_step(lambda tokens: weight[tokens], optimizer, inputs, targets, clip=1e-3)
    assert float(loss) == pytest.approx(math.log(3))
    assert weight.grad is None
    moved = weight.detach().abs()
    assert torch.allclose(moved[:2], torch.full((2, 3), 0.5))
    assert float(moved[2:].sum()) == 0


def test_it_learns(tmp_path):
    observer = StopAfter()
    config = toy_config(steps=90, width=32, lr=1e-2, batch_size=8)
    training = Training(config, TASK, "rope", 0, tmp_path / "a.pt")
    training.run(observer, 0.0, 1e9)
    assert sum(observer.losses[-10:]) / 10 < 0.75 * observer.losses[0]
    steps, _, valid = zip(*training.curve, strict=True)
    assert steps == (30, 60, 90)
    assert valid[-1] < valid[0]


def states(path, config, encoding, stops):
    """The finished state after being stopped (and saved) every `stops` steps."""
    while True:
        training = Training(config, TASK, encoding, 3, path)
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
    assert parts["model"].keys() == whole["model"].keys()
    for key, value in whole["model"].items():
        assert torch.equal(parts["model"][key], value), key
    other = states(tmp_path / "other.pt", toy_config(dropout=0.3, steps=8), encoding, 100)
    assert not torch.equal(other["model"]["embedding.weight"], whole["model"]["embedding.weight"])


def test_a_loss_that_is_no_number_ends_the_training(tmp_path):
    config = toy_config(lr=1e38, warmup=0, steps=50)
    training = Training(config, TASK, "rope", 0, tmp_path / "a.pt")
    observer = StopAfter()
    training.run(observer, 0.0, 1e9)
    assert re.match("training broke off at step [0-9]+: .*(nan|NaN|inf)", training.failed or "")
    assert len(observer.losses) < 50
    again = Training(config, TASK, "rope", 0, tmp_path / "a.pt")
    again.run(observer, 0.0, 1e9)
    assert again.failed == training.failed
    assert len(observer.losses) < 50  # and it is not tried again


def test_a_damaged_checkpoint_says_what_to_delete(tmp_path):
    path = tmp_path / "a.pt"
    Training(toy_config(), TASK, "rope", 0, path).run(Observer(), 0.0, 1e9)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(OSError, match=r"a\.pt is damaged .* delete it"):
        Training(toy_config(), TASK, "rope", 0, path)


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    Training(toy_config(), TASK, "rope", 0, tmp_path / "a.pt").run(Observer(), 0.0, 1e9)
    with pytest.raises(OSError, match="'seed': 0"):
        Training(toy_config(), TASK, "rope", 1, tmp_path / "a.pt")


def test_the_last_step_is_always_validated():
    assert valid_steps(toy_config(steps=7, valid_points=3)) == {2, 5, 7}
    assert valid_steps(toy_config(steps=2, valid_points=8)) == {1, 2}
    assert max(valid_steps(toy_config(steps=1000, valid_points=7))) == 1000
