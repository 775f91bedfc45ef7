"""Pieces as examples: every token a target once, padding never; transposition moves pitches."""

import json

import pytest
import torch
from tasks.graphs import a_graph_draws_what_the_cpu_draws

from whatwhere import tasks
from whatwhere.errors import UnknownName
from whatwhere.tasks import IGNORED, Pieces, Task, borders, chorales_16th
from whatwhere.tasks.pieces import transposed

START, END, PITCHES = 1, 2, (5, 30)  # 0 is padding, 3 and 4 are no pitches
SIZES = [3, 1, 12, 7, 26]
"""Tokens between start and end; with the end as many targets and one more."""


def between(sizes, separator=None, seed=0) -> torch.Tensor:
    """Pieces of `sizes` random tokens, after one separator or between START and END."""
    generator = torch.Generator().manual_seed(seed)
    first, last = ([START], [END]) if separator is None else ([separator], [])
    tokens: list[int] = []
    for size in sizes:
        middle = torch.randint(3, PITCHES[1] + 1, (size,), generator=generator)
        tokens += [*first, *middle.tolist(), *last]
    return torch.tensor(tokens if separator is None else [*tokens, separator])


def made(separator=None, **metadata) -> Task:
    ends = {"special": {"PAD": 0, "BOS": START, "EOS": END}} if separator is None else {}
    ends |= {} if separator is None else {"separator": separator}
    streams = (between(sizes, separator) for sizes in (SIZES, SIZES[1:], SIZES[::-1]))
    known = {**ends, "pitch_tokens": PITCHES, **metadata}
    return Task("made", PITCHES[1] + 1, *streams, unit="note", describe="made", metadata=known)


def whole(task: Task, split: str) -> list[torch.Tensor]:
    starts, counts = borders(task, split)
    pairs = zip(starts.tolist(), counts.tolist(), strict=True)
    return [task.splits()[split][start : start + count + 1] for start, count in pairs]


def text(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The tokens of one example, the last target included; asserts that padding is at the right."""
    size = int((targets != IGNORED).sum())
    assert (targets[size:] == IGNORED).all()
    assert (targets[:size] != IGNORED).all()
    assert (inputs[size:] == 0).all()
    assert torch.equal(inputs[1:size], targets[: size - 1])
    return torch.cat([inputs[:1], targets[:size]])


@pytest.mark.parametrize("separator", [None, 2])
def test_a_piece_reaches_from_its_start_to_its_end(separator):
    pieces = whole(made(separator), "train")
    first, last = (START, END) if separator is None else (separator, separator)
    assert [len(piece) - 2 for piece in pieces] == SIZES
    assert all(piece[0] == first and piece[-1] == last for piece in pieces)


def test_empty_and_cropped_pieces_are_left_out():
    def task(tokens, **metadata):
        one = torch.tensor(tokens)
        return Task("t", 9, one, one, one, unit="x", describe="", metadata=metadata)

    found = borders(task([2, 2, 5, 6, 2, 2, 7, 2, 8], separator=2), "train")
    assert [each.tolist() for each in found] == [[1, 5], [3, 2]]
    special = {"BOS": START, "EOS": END}
    found = borders(task([7, END, START, END, START, 5, END, START, 6], special=special), "train")
    assert [each.tolist() for each in found] == [[4], [2]]


@pytest.mark.parametrize("length", [1, 4, 8, 13, 40])
@pytest.mark.parametrize("separator", [None, 2])
def test_held_out_scores_every_token_once_and_no_padding(separator, length):
    task = made(separator)
    data = Pieces(task, length)
    rows = [text(*row) for batch in data.held_out("test", 2) for row in zip(*batch, strict=True)]
    assert len(rows) == data.sizes["test"] == sum(-(-(size + 1) // length) for size in SIZES)
    number = 0
    for piece in whole(task, "test"):
        for start in range(0, len(piece) - 1, length):
            assert torch.equal(rows[number], piece[start : start + length + 1])
            number += 1


def test_the_first_window_alone():
    task = made()
    data = Pieces(task, 8, long="first")
    inputs, targets = data.examples("valid", torch.arange(4))
    assert data.sizes["valid"] == 4
    for row, aims, piece in zip(inputs, targets, whole(task, "valid"), strict=True):
        assert torch.equal(text(row, aims), piece[:9])


def test_training_pieces_that_fit_are_whole_and_numbered():
    task = made()
    data = Pieces(task, 27)
    assert data.sizes["train"] == 5
    inputs, targets = data.examples("train", torch.arange(5))
    for row, aims, piece in zip(inputs, targets, whole(task, "train"), strict=True):
        assert torch.equal(text(row, aims), piece)


def test_longer_training_pieces_are_cropped_at_every_place_alike():
    task = made()
    data = Pieces(task, 8)  # of 27 targets of the last piece: 20 places
    assert data.sizes["train"] is None
    piece = whole(task, "train")[4]
    windows = {tuple(window): place for place, window in enumerate(piece.unfold(0, 9, 1).tolist())}
    numbers = 4 + 5 * torch.arange(4000)
    rows = [text(*row) for row in zip(*data.examples("train", numbers), strict=True)]
    counts = torch.bincount(torch.tensor([windows[tuple(row.tolist())] for row in rows]))
    assert len(counts) == 20
    # 4000 draws from 20 places: 200 each, standard deviation 14; five of them either way.
    assert (counts - 200).abs().max() < 70


def test_a_batch_draws_pieces_alike():
    data = Pieces(made(), 27)
    drawn = torch.cat([data.batch(0, step, 50)[1] for step in range(60)])
    counts = torch.bincount((drawn != IGNORED).sum(1), minlength=28)
    assert counts.nonzero().flatten().tolist() == sorted(size + 1 for size in SIZES)
    # 3000 draws from 5 pieces: 600 each, standard deviation 22; five of them either way.
    assert (counts[counts > 0] - 600).abs().max() < 110


@pytest.mark.parametrize("transpose", [0, 3])
def test_a_batch_of_seeds_is_each_seeds_own(transpose):
    data = Pieces(made(), 10, transpose)
    inputs, targets = data.batch(torch.tensor([4, 9]), torch.tensor(11), 6)
    assert inputs.shape == targets.shape == (2, 6, 10)
    for row, seed in enumerate((4, 9)):
        alone, aims = data.batch(seed, 11, 6)
        assert torch.equal(inputs[row], alone)
        assert torch.equal(targets[row], aims)
    assert torch.equal(data.batch(4, 11, 2)[0], inputs[0, :2])
    assert not torch.equal(inputs[0], inputs[1])
    assert not torch.equal(data.batch(4, 12, 6)[0], inputs[0])
    numbers = torch.arange(8)
    shaped = data.examples("train", numbers.view(2, 1, 4))[0]
    assert torch.equal(shaped.view(8, 10), data.examples("train", numbers)[0])


def test_transposition_keeps_everything_but_pitch():
    task = made()
    plain, varied = Pieces(task, 27), Pieces(task, 27, transpose=3)
    assert varied.sizes["train"] is None
    keys = []
    numbers = 7 * torch.arange(400)
    pairs = [zip(*data.examples("train", numbers), strict=True) for data in (plain, varied)]
    for old, new in zip(*pairs, strict=True):
        before, after = text(*old), text(*new)
        note = (before >= PITCHES[0]) & (before <= PITCHES[1])
        assert torch.equal(before[~note], after[~note])
        moved = (after - before)[note]
        assert len((moved % 12).unique()) <= 1  # one key for the example, octaves apart
        assert ((after[note] >= PITCHES[0]) & (after[note] <= PITCHES[1])).all()
        inside = (before[note] >= PITCHES[0] + 3) & (before[note] <= PITCHES[1] - 3)
        assert len(moved[inside].unique()) <= 1
        if inside.any():
            keys.append(int(moved[inside][0]))
    counts = torch.bincount(torch.tensor(keys) + 3, minlength=7)
    assert len(counts) == 7
    assert ((counts / len(keys) - 1 / 7).abs() < 5 * (1 / 7 / len(keys)) ** 0.5).all()


def test_held_out_pieces_are_not_transposed():
    task, numbers = made(), torch.arange(4)
    for split in ("valid", "test"):
        assert torch.equal(
            Pieces(task, 12, transpose=3).examples(split, numbers)[0],
            Pieces(task, 12).examples(split, numbers)[0],
        )


def test_a_note_that_leaves_the_range_goes_an_octave_back():
    tokens = torch.tensor([4, 5, 6, 29, 30, 31])
    assert transposed(tokens, 2, *PITCHES).tolist() == [4, 7, 8, 19, 20, 31]
    assert transposed(tokens, -1, *PITCHES).tolist() == [4, 16, 5, 28, 29, 31]
    assert transposed(tokens, 0, *PITCHES).tolist() == tokens.tolist()


def test_the_chorales_by_name(tmp_path):
    content = {
        split: [[[74, 70, 62 - j, 50 + i % 13] for j in range(2 + i % 9)] for i in range(count)]
        for split, count in chorales_16th.PIECES.items()
    }
    path = tmp_path / "some.json"
    path.write_text(json.dumps(content))
    data = tasks.pieces("chorales_16th", path, length=64)
    assert data.sizes == chorales_16th.PIECES
    assert data.metadata["transpose"] == 0
    assert data.metadata["longest"] == {"train": 41, "valid": 41, "test": 41}
    inputs, targets = next(data.held_out("test", 3))
    read = text(inputs[1], targets[1])
    assert read[0] == read[-1] == data.metadata["separator"]
    pitches = [data.metadata["pitches"][token - 2] for token in read[1:-1].tolist()]
    assert pitches == [pitch for step in content["test"][1] for pitch in step]
    # Their pitches have a gap here (63..69), and 71..73: no semitone apart, no transposition.
    with pytest.raises(ValueError, match="names no pitch tokens"):
        tasks.pieces("chorales_16th", path, transpose=2)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "metadata", "error", "message"),
    [
        ({"length": 0}, {}, ValueError, "length is 0"),
        ({"length": 2.5}, {}, TypeError, r"length is 2\.5"),
        ({"transpose": -1}, {}, ValueError, "transpose is -1"),
        ({"transpose": 13}, {}, ValueError, "an octave, 12, is the most"),
        ({"transpose": 3}, {"transpose": 2}, ValueError, "transposed already, by up to 2"),
        ({"transpose": 3}, {"pitch_tokens": None}, ValueError, "names no pitch tokens"),
        ({"transpose": 3}, {"pitch_tokens": (5, 15)}, ValueError, "names no pitch tokens"),
        ({"long": "spilt"}, {}, UnknownName, "did you mean 'split'"),
        ({}, {"special": {}}, ValueError, "no separator, nor BOS and EOS; Windows cuts any task"),
        (
            {},
            {"special": {"BOS": 2, "EOS": 31}},
            ValueError,
            "train of task 'made' holds no whole piece",
        ),
    ],
)
def test_what_makes_no_pieces_is_refused(options, metadata, error, message):
    with pytest.raises(error, match=message):
        Pieces(made(**metadata), **{"length": 9, **options})


def test_text_without_a_training_part():
    only = made()
    only = Task("only", 31, only.train[:0], only.train[:0], only.test, "note", "", only.metadata)
    for data in (Pieces(only, 9, transpose=1), tasks.Windows(only, 9)):
        assert data.sizes["train"] == data.sizes["valid"] == 0
        assert next(data.held_out("test", 2))[0].shape == (2, 9)
        assert list(data.held_out("valid", 2)) == []
        with pytest.raises(ValueError, match="task 'only' has nothing to train on"):
            data.batch(0, 0, 2)
    with pytest.raises(ValueError, match="has no tokens in valid"):
        Pieces(only, 9).examples("valid", torch.arange(1))
    with pytest.raises(UnknownName, match="did you mean 'valid'"):
        Pieces(only, 9).examples("validation", torch.arange(1))


@pytest.mark.gpu
def test_a_cuda_graph_draws_what_the_cpu_draws():
    a_graph_draws_what_the_cpu_draws(Pieces(made(), 10, transpose=3))
