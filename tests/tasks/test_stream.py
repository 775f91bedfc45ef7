"""Windows as examples: the windows of the stream, uniform starts, functions of numbers alone."""

import pytest
import torch
from tasks.graphs import a_graph_draws_what_the_cpu_draws

from whatwhere import tasks
from whatwhere.errors import UnknownName
from whatwhere.tasks import Task, Windows
from whatwhere.tasks.stream import Stream


def made(train=57, valid=23, test=31, vocab_size=100_000) -> Task:
    """Streams in which every token tells its place and its split."""
    first = torch.arange(train), torch.arange(1000, 1000 + valid), torch.arange(2000, 2000 + test)
    return Task("made", vocab_size, *first, unit="token", describe="made", metadata={"a": 1})


def test_a_training_window_starts_at_its_number():
    data = Windows(made(), 5)
    assert data.sizes == {"train": 52, "valid": 4, "test": 6}
    inputs, targets = data.examples("train", torch.arange(52))
    assert torch.equal(inputs, torch.arange(52)[:, None] + torch.arange(5))
    assert torch.equal(targets, inputs + 1)
    assert targets.max() == 56  # the last token of the stream
    assert inputs.is_contiguous()
    assert targets.is_contiguous()


@pytest.mark.parametrize("length", [1, 5, 22])
@pytest.mark.parametrize("split", ["valid", "test"])
def test_held_out_windows_are_those_of_windows(split, length):
    task = made()
    inputs, targets = tasks.windows(task.splits()[split], length)
    batches = list(Windows(task, length).held_out(split, 3))
    assert torch.equal(torch.cat([each for each, _ in batches]), inputs)
    assert torch.equal(torch.cat([each for _, each in batches]), targets)
    scored = torch.cat([each.flatten() for _, each in batches])
    assert len(scored.unique()) == len(scored) == (len(task.splits()[split]) - 1) // length * length
    first = next(Windows(task, length).held_out(split, 3, limit=1))[0]
    assert torch.equal(first, inputs[:1])


def test_a_batch_of_seeds_is_each_seeds_own():
    data = Windows(made(train=5000), 7)
    inputs, targets = data.batch(torch.tensor([4, 9]), torch.tensor(11), 6)
    assert inputs.shape == targets.shape == (2, 6, 7)
    for row, seed in enumerate((4, 9)):
        alone, aims = data.batch(seed, 11, 6)
        assert torch.equal(inputs[row], alone)
        assert torch.equal(targets[row], aims)
    assert torch.equal(data.batch(4, 11, 2)[0], inputs[0, :2])
    assert not torch.equal(inputs[0], inputs[1])
    assert not torch.equal(data.batch(4, 12, 6)[0], inputs[0])


def test_examples_take_numbers_of_any_shape():
    data, numbers = Windows(made(), 3), torch.tensor([[[4], [0]], [[50], [7]]])
    inputs, targets = data.examples("train", numbers)
    assert inputs.shape == targets.shape == (2, 2, 1, 3)
    assert torch.equal(inputs.view(4, 3), data.examples("train", numbers.flatten())[0])


def test_starts_are_uniform_over_all_places():
    data = Windows(made(train=12), 3)
    starts = torch.cat([data.batch(0, step, 50)[0][:, 0] for step in range(90)])
    counts = torch.bincount(starts, minlength=9)
    assert len(counts) == 9
    # 4500 draws from 9 places: 500 each, standard deviation 21; five of them either way.
    assert (counts - 500).abs().max() < 105


@pytest.mark.parametrize("vocab_size", [256, 1 << 15, 50_257, 1 << 16, (1 << 16) + 1, 1 << 30])
def test_a_small_copy_holds_every_token(vocab_size):
    tokens = torch.tensor([0, 1, vocab_size // 2, vocab_size - 2, vocab_size - 1])
    stream = Stream(tokens, vocab_size)
    read = stream(torch.tensor([[4, 3], [0, 2]]))
    assert read.dtype == torch.int64
    assert torch.equal(read, tokens[torch.tensor([[4, 3], [0, 2]])])
    assert stream._kept[tokens.device].element_size() == (2 if vocab_size <= 1 << 16 else 4)


def test_it_is_described_by_its_task():
    data = Windows(made(), 5)
    assert (data.name, data.unit, data.vocab_size, data.length) == ("made", "token", 100_000, 5)
    assert data.describe == "made; windows of 5"
    assert data.metadata == {"a": 1, "length": 5, "examples": data.sizes}


@pytest.mark.usefixtures("unchecked")
def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"length=23 is too long: valid .* 23 tokens, .* takes 24"):
        Windows(made(), 23)
    with pytest.raises(ValueError, match="length is 0"):
        Windows(made(), 0)
    with pytest.raises(TypeError, match=r"length is 8\.0"):
        Windows(made(), 8.0)
    with pytest.raises(UnknownName, match="did you mean 'valid'"):
        Windows(made(), 5).examples("validation", torch.arange(2))
    with pytest.raises(UnknownName, match="did you mean 'valid'"):
        next(Windows(made(), 5).held_out("validation", 2))
    with pytest.raises(IndexError):
        Windows(made(), 5).examples("test", torch.tensor([6]))


@pytest.mark.gpu
def test_a_cuda_graph_draws_what_the_cpu_draws():
    a_graph_draws_what_the_cpu_draws(Windows(made(train=5000), 9))
