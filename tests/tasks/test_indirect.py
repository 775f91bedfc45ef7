"""Indirect indexing: every example is right, drawn as the options say, and a function of numbers.

The paper's rules are checked on the text, by a solver of a few lines that shares nothing with the
generator.
"""

import pytest
import torch
from tasks.graphs import a_graph_draws_what_the_cpu_draws

from whatwhere import tasks
from whatwhere.errors import UnknownName
from whatwhere.tasks.drawn import IGNORED, below, exact_match, fold
from whatwhere.tasks.indirect import CHARACTERS, TARGETS, Indirect, shifts, text

MANY = 3000


def read(line: str, wrap: bool = False) -> tuple[str, int]:
    """Solve one line: (string, shift); asserts the paper's rules and the answer."""
    source, letter, shift, answer = (part.strip() for part in line.split(","))
    assert source.isalpha()
    assert source.isascii()
    assert len(set(source)) == len(source)
    assert shift[0] in "+-"
    assert shift != "-0"
    place = source.index(letter) + int(shift)
    assert wrap or 0 <= place < len(source)
    assert source[place % len(source)] == answer
    return source, int(shift)


def lines(task: Indirect, split: str = "train", count: int = MANY) -> list[str]:
    inputs, targets = task.examples(split, torch.arange(count))
    whole = torch.cat([inputs, targets.amax(1, keepdim=True)], 1)  # of the texts, `text` is slow
    return ["".join([CHARACTERS[token] for token in row]) for row in whole.tolist()]


def test_the_printed_examples_of_the_paper_follow_these_rules():
    assert read("QEOHoUbKfeSrMVNlCzXu, z, -3, N")[1] == -3


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("pad", ["left", "right"])
def test_every_answer_is_right(target, pad):
    task = Indirect(target=target, pad=pad, spaces=pad == "right")
    seen = [read(line, target == "wrap") for line in lines(task)]
    assert {len(source) for source, _ in seen} == set(range(20, 41))
    assert {shift for _, shift in seen} == set(range(-15, 16))


def test_the_answer_is_the_only_target_and_never_an_input():
    for pad in ("left", "right"):
        inputs, targets = Indirect(pad=pad).examples("valid", torch.arange(300))
        scored = targets != IGNORED
        assert torch.equal(scored.sum(1), torch.ones(300, dtype=torch.long))
        after = torch.arange(47) > scored.long().argmax(1)[:, None]
        assert (inputs[after] == 0).all()
        assert scored[:, -1].all() == (pad == "left")
        assert inputs.dtype == targets.dtype == torch.int64


def test_padding_moves_the_text_and_nothing_else():
    assert lines(Indirect(pad="left"))[:50] == lines(Indirect(pad="right", width=70))[:50]
    inputs, _ = Indirect(width=64).examples("train", torch.arange(9))
    assert inputs.shape == (9, 64)
    assert (inputs[:, :17] == 0).all()


def test_score_all_trains_on_every_token_of_the_text():
    inputs, targets = Indirect(score="all", pad="right").examples("train", torch.arange(50))
    length = (inputs != 0).sum(1)
    assert torch.equal((targets != IGNORED).sum(1), length)  # one token less, and the answer
    for row, aim, size in zip(inputs, targets, length.tolist(), strict=True):
        assert torch.equal(row[1:size], aim[: size - 1])


def frequencies(values, choices):
    counts = torch.bincount(torch.tensor(values) - min(choices), minlength=len(choices))
    return counts / counts.sum()


@pytest.mark.parametrize("target", TARGETS)
def test_shifts_are_drawn_as_the_option_says(target):
    """Strings of five letters, shifts -3..3: the distributions by hand, to five standard errors."""
    task = Indirect(lengths=(5, 5), shifts=range(-3, 4), target=target)
    drawn = [read(line, target == "wrap") for line in lines(task, count=20_000)]
    inside = [[abs(s) if 0 <= p + s < 5 else None for s in range(-3, 4)] for p in range(5)]
    by_letter = [
        sum(1 / sum(k is not None for k in row) for row in inside if row[i] is not None)
        for i in range(7)
    ]
    expected = {
        "pair": [2, 3, 4, 5, 4, 3, 2],
        "letter": by_letter,
    }.get(target, [1] * 7)
    share = torch.tensor(expected, dtype=torch.float) / sum(expected)
    found = frequencies([shift for _, shift in drawn], range(-3, 4))
    assert ((found - share).abs() < 5 * (share / 20_000).sqrt()).all()


def test_letters_places_and_lengths_are_uniform():
    task = Indirect(lengths=(3, 6), shifts=(0, 1), target="wrap")
    drawn = lines(task, count=15_000)
    first = frequencies([ord(line[0].lower()) for line in drawn], range(97, 123))
    assert ((first - 1 / 26).abs() < 5 * (1 / 26 / 15_000) ** 0.5).all()
    sizes = frequencies([len(line.split(",")[0]) for line in drawn], range(3, 7))
    assert ((sizes - 1 / 4).abs() < 5 * (1 / 4 / 15_000) ** 0.5).all()
    six = [line for line in drawn if line.index(",") == 6]
    places = frequencies([line.index(line[7]) for line in six], range(6))
    assert ((places - 1 / 6).abs() < 5 * (1 / 6 / len(six)) ** 0.5).all()


def test_the_data_are_a_function_of_their_numbers():
    task, numbers = Indirect(), torch.tensor([7, 3, 999_999])
    inputs, targets = task.examples("train", numbers)
    again, aims = Indirect().examples("train", numbers.flip(0)[:, None])
    assert torch.equal(inputs, again.flip(0)[:, 0])
    assert torch.equal(targets, aims.flip(0)[:, 0])
    assert not torch.equal(inputs, Indirect(seed=1).examples("train", numbers)[0])
    # Pinned: results of today and of next year must be about the same data.
    assert text(inputs[0], targets[0]) == "QTPlHEASbqDxMXLkdRseovcJyfnagO,P,+13,k"


def test_splits_share_no_example():
    task = Indirect(lengths=(20, 20))
    splits = [set(lines(task, split)) for split in ("train", "valid", "test")]
    splits.append(set(lines(Indirect(lengths=(20, 20), seed=1))))
    assert sum(map(len, splits)) == len(set.union(*splits)) == 4 * MANY


def test_a_batch_is_a_function_of_seed_and_step():
    task = Indirect()
    inputs, targets = task.batch(3, 8, 5)
    assert inputs.shape == targets.shape == (5, 47)
    stacked, aims = task.batch(torch.tensor([2, 3]), torch.tensor(8), 5)
    assert torch.equal(stacked[1], inputs)
    assert torch.equal(aims[1], targets)
    assert not torch.equal(stacked[0], inputs)
    assert not torch.equal(task.batch(3, 9, 5)[0], inputs)
    assert not torch.equal(task.batch(8, 3, 5)[0], inputs)
    assert torch.equal(task.batch(3, 8, 9)[0][:5], inputs)


def test_a_training_set_has_the_size_that_was_asked_for():
    few = Indirect(train=10)
    drawn = {tuple(row.tolist()) for step in range(20) for row in few.batch(0, step, 16)[0]}
    assert drawn == {tuple(row.tolist()) for row in few.examples("train", torch.arange(10))[0]}
    fresh = Indirect(train=None)
    drawn = {tuple(row.tolist()) for step in range(20) for row in fresh.batch(0, step, 16)[0]}
    assert len(drawn) == 320


def test_held_out_examples_come_in_order_and_once():
    task = Indirect(valid=10)
    batches = list(task.held_out("valid", 4))
    assert [len(inputs) for inputs, _ in batches] == [4, 4, 2]
    whole = task.examples("valid", torch.arange(10))[0]
    assert torch.equal(torch.cat([inputs for inputs, _ in batches]), whole)
    assert sum(len(inputs) for inputs, _ in task.held_out("test", 64, limit=100)) == 100
    with pytest.raises(ValueError, match="give limit=N"):
        next(Indirect(train=None).held_out("train", 4))
    with pytest.raises(UnknownName, match="did you mean 'valid'"):
        next(task.held_out("validation", 4))


def test_shifts_and_lengths_that_were_not_trained_on():
    far = Indirect(shifts=shifts(16, 30), lengths=(41, 52))
    seen = [read(line) for line in lines(far)]
    assert {abs(shift) for _, shift in seen} == set(range(16, 31))
    assert {len(source) for source, _ in seen} == set(range(41, 53))
    assert far.length == 59
    # Strings too short for the largest shifts ask for smaller ones.
    mixed = [read(line) for line in lines(Indirect(shifts=shifts(16, 30)))]
    assert all(abs(shift) < len(source) for source, shift in mixed)
    assert 0 not in {shift for _, shift in map(read, lines(Indirect(zero=False)))}


def test_exact_match_wants_the_whole_answer():
    targets = torch.tensor([[IGNORED, 1, 2], [IGNORED, 1, 2], [IGNORED, IGNORED, 0]])
    chosen = torch.tensor([[5, 1, 2], [5, 1, 3], [4, 4, 0]])
    logits = torch.nn.functional.one_hot(chosen, 6).float()
    assert exact_match(logits, targets).tolist() == [True, False, True]


def test_keys_are_spread_and_below_is_in_range():
    keys = fold(fold(0, torch.arange(300))[:, None], torch.arange(300)).flatten()
    assert len(keys.unique()) == 90_000
    ones = sum(((keys >> bit) & 1).double().mean() for bit in range(64)) / 64
    assert abs(ones - 0.5) < 0.001
    assert below(keys, 7).unique().tolist() == list(range(7))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lengths": (20, 53)}, ValueError, "<= 52, the number of different letters"),
        ({"lengths": (30, 20)}, ValueError, r"lengths=\(30, 20\)"),
        ({"lengths": (1, 20)}, ValueError, "at least 2"),
        ({"lengths": (2.0, 20)}, TypeError, "lengths is 2.0"),
        ({"target": "wrapped"}, UnknownName, "did you mean 'wrap'"),
        ({"pad": "middle"}, UnknownName, "unknown pad of indirect"),
        ({"score": "last"}, UnknownName, "Known: all, answer"),
        ({"shifts": ()}, ValueError, "holds no shift"),
        ({"shifts": (0,), "zero": False}, ValueError, "holds no shift"),
        ({"shifts": (100,), "target": "wrap"}, ValueError, "two digits"),
        ({"shifts": (25, -30)}, ValueError, "even 25 leaves every string of 20"),
        ({"width": 46}, ValueError, "width=46 is too small: the longest example takes 47"),
        ({"train": 0}, ValueError, "train is 0"),
        ({"valid": None}, TypeError, "valid is None"),
        ({"zero": 1}, TypeError, "zero is 1"),
        ({"seed": 0.5}, TypeError, "seed is 0.5"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_options_that_make_no_examples_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        Indirect(**options)


def test_a_drawn_task_is_found_by_name():
    assert tasks.draw("indirect", pad="right", train=7).metadata["train"] == 7
    assert tasks.draw("indirect").describe.startswith("indirect indexing, strings of 20 to 40")
    with pytest.raises(UnknownName, match="did you mean 'indirect'"):
        tasks.draw("indirekt")
    with pytest.raises(UnknownName, match=r"unknown option of indirect 'shift'; .*'shifts'"):
        tasks.draw("indirect", shift=(1,))
    with pytest.raises(ValueError, match=r"make it with tasks\.draw\('indirect'"):
        tasks.load("indirect")


@pytest.mark.gpu
def test_a_cuda_graph_draws_what_the_cpu_draws():
    a_graph_draws_what_the_cpu_draws(Indirect())
