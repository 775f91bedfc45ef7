"""A whole comparison: what is trained, what is evaluated, what a row says."""

import math

import pytest
import torch
from study.toy import toy_config, toy_task

from whatwhere.study import Observer, nll, open_directory, read_rows, run
from whatwhere.study.plan import Unit, check, costs, span, units
from whatwhere.study.training import Training
from whatwhere.tasks import Windows

TASK = toy_task()

KEYS = {
    "study", "encoding", "trained_as", "options", "train_length", "eval_length", "mode", "task",
    "metric", "seed", "steps", "commit", "versions", "device", "seconds",
}  # fmt: skip


class Counter(Observer):
    """What was done, and when to stop."""

    def __init__(self, stop_after=10**9):
        self.steps, self.rows, self.work, self.total, self.calls = 0, [], 0.0, 0.0, stop_after

    def begin(self, total, done):
        self.total, self.work = total, done

    def step(self, step, loss, work):
        self.steps += 1
        self.work += work

    def evaluated(self, row, work):
        self.rows.append(row)
        self.work += work

    def skipped(self, work):
        self.work += work

    def stop(self):
        self.calls -= 1
        return self.calls < 0


def compare(path, observer=None, **changes):
    config = toy_config(**changes)
    with open_directory(path, config, TASK) as directory:
        return run(config, TASK, directory, observer)


def test_a_comparison(tmp_path):
    torch.manual_seed(7)
    drawn = torch.rand(3)
    torch.manual_seed(7)
    observer = Counter()
    found = compare(tmp_path, observer, seeds=(0, 4))
    assert torch.equal(torch.rand(3), drawn)  # the caller's generator is as it was
    assert [(row["encoding"], row["seed"], row["eval_length"]) for row in found] == [
        (encoding, seed, length)
        for seed in (0, 4)
        for encoding in ("nope", "rope", "rope+yarn")
        for length in (8, 16, 64)
    ]
    assert read_rows(tmp_path / "rows.jsonl") == found == observer.rows
    assert observer.steps == 2 * 2 * 6  # rope+yarn trains nothing
    assert observer.work == pytest.approx(observer.total)
    for row in found:
        assert row.keys() >= KEYS | {"value", "n"}
        assert "error" not in row
        assert (row["n"], row["train_length"], row["steps"]) == (128, 8, 6)
        assert math.isfinite(row["value"])
    yarn = next(row for row in found if row["encoding"] == "rope+yarn" and row["eval_length"] == 64)
    assert yarn["trained_as"] == "rope"
    assert yarn["options"]["factor"] == 8.0
    assert "factor=8, train_length=8" in yarn["options"]["encoding"]["spectrum"]
    assert yarn["options"]["encoding"]["name"] == "rescaled"
    assert yarn["options"]["width"] == 12
    # A report puts rows into one table whose other options agree: only these two know the length.
    fixed = [
        {k: v for k, v in row["options"].items() if k not in ("encoding", "factor")}
        for row in found
    ]
    assert all(options == fixed[0] for options in fixed)


def test_values_are_those_of_the_trained_model(tmp_path):
    found = {(row["encoding"], row["eval_length"]): row["value"] for row in compare(tmp_path)}
    windows = Windows(TASK, toy_config().train_length)
    training = Training(toy_config(), windows, "rope", (0,), tmp_path / "again.pt")
    training.run(Observer(), 0.0, 1e9)
    model = training.models()[0]
    assert found["rope", 64] == nll(model, TASK.test, 64, 128)[0]
    model.use("rope+yarn(factor=8)")
    assert found["rope+yarn", 64] == nll(model, TASK.test, 64, 128)[0]
    # At the training length YaRN's factor is 1: the plain encoding.
    assert found["rope+yarn", 8] == pytest.approx(found["rope", 8], rel=1e-6)
    assert found["rope+yarn", 64] != found["rope", 64]


def test_what_fails_becomes_a_row_and_the_others_go_on(tmp_path):
    found = compare(tmp_path, encodings=("learned", "nope"))
    failed = [row for row in found if "error" in row]
    assert [(row["encoding"], row["eval_length"]) for row in failed] == [
        ("learned", 16),
        ("learned", 64),
    ]
    for row in failed:
        assert "outside the learned table of 8 positions" in row["error"]
        assert "value" not in row
        assert "n" not in row


def test_a_training_that_breaks_off_fails_all_its_rows(tmp_path):
    observer = Counter()
    found = compare(tmp_path, observer, encodings=("rope", "rope+yarn"), lr=1e38, warmup=0)
    assert len(found) == 6
    assert all("training broke off at step" in row["error"] for row in found)
    assert observer.work == pytest.approx(observer.total)
    again = Counter()
    assert compare(tmp_path, again, encodings=("rope", "rope+yarn"), lr=1e38, warmup=0) == found
    assert (again.steps, again.rows) == (0, [])


def test_nothing_is_done_twice(tmp_path):
    first = compare(tmp_path, encodings=("rope",))
    again = Counter()
    assert compare(tmp_path, again, encodings=("rope",)) == first
    assert (again.steps, again.rows) == (0, [])
    more = Counter()
    found = compare(tmp_path, more, encodings=("rope+yarn", "nope", "rope"))
    assert more.steps == 6  # nope alone; rope's weights are there
    assert len(more.rows) == 6
    assert [row for row in found if row["encoding"] == "rope"] == first


@pytest.mark.parametrize("calls", [1, 4, 7, 9, 12])
def test_stopped_anywhere_it_goes_on(tmp_path, calls):
    def timeless(rows):
        return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]

    whole = timeless(compare(tmp_path / "whole", dropout=0.2))
    with pytest.raises(KeyboardInterrupt):
        compare(tmp_path / "parts", Counter(calls), dropout=0.2)
    rest = Counter()
    assert timeless(compare(tmp_path / "parts", rest, dropout=0.2)) == whole
    assert rest.steps <= 12 - min(calls, 6)


def test_units_share_the_trained_part():
    config = toy_config(
        encodings=("rope+yarn", "pope", "rope", "rope(layout=interleaved)+logn"), seeds=(2, 0)
    )
    assert units(config)[:3] == [
        Unit("rope", 2, ("rope+yarn", "rope")),
        Unit("pope", 2, ("pope",)),
        Unit("rope(layout=interleaved)", 2, ("rope(layout=interleaved)+logn",)),
    ]
    assert [unit.seed for unit in units(config)] == [2, 2, 2, 0, 0, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encodings": ("rope", "pop")}, "'pop'; did you mean 'pope'"),
        ({"encodings": ("rope+yarn+ntk",)}, "both replace the spectrum"),
        ({"encodings": ("nope+yarn",)}, "nope"),
        ({"width": 13}, "width is 13"),
        ({"train_length": 700}, "train split has 600 tokens"),
        ({"eval_lengths": (8, 160)}, "test split has 150 tokens"),
        ({"eval_lengths": (8, 144)}, "at most 140"),
        ({"device": "cuda:99"}, "cuda:99"),
    ],
)
def test_what_can_not_work_is_refused_before_any_work(changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        check(toy_config(**changes), TASK)


def test_longer_evaluations_cost_more():
    config = toy_config()
    assert span(config, TASK) == 128
    estimate = costs(config, TASK)
    assert 0 < estimate.evaluation[8] < estimate.evaluation[16] < estimate.evaluation[64]
