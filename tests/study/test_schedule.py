"""The learning rate, on the host and on the device, and the steps that are validated."""

from itertools import pairwise

import pytest
import torch
from study.toy import learning_rate as plain
from study.toy import toy_config

from whatwhere.study.schedule import learning_rate, valid_steps


def test_the_schedule_warms_up_and_ends_at_a_tenth():
    config = toy_config(steps=1000, warmup=20, lr=2.0, final_lr=0.1)
    rates = [float(learning_rate(torch.tensor(step), config)) for step in range(1000)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[19] == rates[20] == 2.0
    assert rates[510] == pytest.approx(1.1)  # half of the way from 20 to 1000
    assert rates[999] == pytest.approx(0.2, rel=1e-4)
    assert all(a >= b for a, b in pairwise(rates[20:]))


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("final", [0.1, 1.0])
def test_the_device_computes_the_same(warmup, final, device):
    config = toy_config(steps=10, warmup=warmup, lr=3e-4, final_lr=final)
    for step in range(10):
        there = float(learning_rate(torch.tensor(step, device=device), config))
        assert there == pytest.approx(plain(step, config), rel=1e-6)


def test_the_last_step_is_always_validated():
    assert valid_steps(toy_config(steps=7, valid_points=3)) == {2, 5, 7}
    assert valid_steps(toy_config(steps=2, valid_points=8)) == {1, 2}
    assert max(valid_steps(toy_config(steps=1000, valid_points=7))) == 1000
