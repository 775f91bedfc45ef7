"""A task in one file: back as it was, found by its name, refused where it is not whole."""

import json
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch

from whatwhere import tasks
from whatwhere.errors import UnknownName
from whatwhere.tasks import Task, restore, save, saved


def made(vocab_size=50_257, name="books") -> Task:
    streams = (torch.arange(vocab_size - size, vocab_size) for size in (70, 20, 30))
    known = {"separator": vocab_size - 1, "pitch_tokens": (2, 40), "tokens": {"train": 70}}
    return Task(name, vocab_size, *streams, unit="token", describe="made", metadata=known)


@pytest.mark.parametrize(("vocab_size", "size"), [(256, 1), (257, 2), (1 << 16, 2), (1 << 17, 4)])
def test_it_comes_back_as_it_was(tmp_path, vocab_size, size):
    task = made(vocab_size)
    save(task, tmp_path / "it.npz", licence="none")
    again = restore(tmp_path / "it.npz")
    for split, stream in task.splits().items():
        assert torch.equal(again.splits()[split], stream)
        assert again.splits()[split].dtype == torch.int64
    assert (again.name, again.vocab_size, again.unit) == ("books", vocab_size, "token")
    assert again.describe == "made"
    assert again.metadata.pop("provenance").keys() == {"licence", "sha256"}
    assert again.metadata == {**task.metadata, "pitch_tokens": [2, 40]}
    with np.load(tmp_path / "it.npz") as file:
        assert file["train"].itemsize == size


def test_the_same_task_gives_the_same_bytes(tmp_path):
    for name in ("one.npz", "two.npz"):
        save(made(), tmp_path / name)
    again = tmp_path / "again.npz"
    save(restore(tmp_path / "one.npz"), again)
    one, two, three = ((tmp_path / n).read_bytes() for n in ("one.npz", "two.npz", "again.npz"))
    assert one == two == three
    save(restore(again), again, seen=True)
    save(restore(again), again, more=1)
    assert restore(again).metadata["provenance"].keys() == {"seen", "more", "sha256"}


def test_a_loader_recognizes_the_file(tmp_path):
    save(made(), tmp_path / "it.npz")
    assert torch.equal(tasks.load("books", tmp_path / "it.npz").train, made().train)
    plain = Task("maestro", 99, *[torch.tensor([1, 40, 2])] * 3, unit="token", describe="")
    plain.metadata.update(special={"BOS": 1, "EOS": 2, "PAD": 0}, pitch_tokens=(20, 60))
    save(plain, tmp_path / "midi.npz")
    data = tasks.pieces("maestro", tmp_path / "midi.npz", length=20)
    assert (data.transpose, data.length, data.sizes["train"]) == (3, 20, None)
    assert tasks.pieces("maestro", tmp_path / "midi.npz", transpose=0).sizes["train"] == 1
    with pytest.raises(ValueError, match="holds task 'books', not 'genome'"):
        tasks.load("genome", tmp_path / "it.npz")


def test_an_empty_split_stays_empty(tmp_path):
    task = made()
    only = Task("books", task.vocab_size, task.test[:0], task.test[:0], task.test, "token", "")
    save(only, tmp_path / "it.npz")
    assert [len(each) for each in restore(tmp_path / "it.npz").splits().values()] == [0, 0, 30]


def rewritten(path, change):
    """The file at `path` with its entries as `change` makes them."""
    with np.load(path) as file:
        entries = dict(file)
    header = json.loads(entries["task"].tobytes())
    change(entries, header)
    if "task" in entries:
        entries["task"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(path, **entries)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e, h: e["train"].__setitem__(3, 1), "a hash differs"),
        (lambda e, h: h.update(format=2), "of format 2, this version reads 1"),
        (lambda e, h: h.pop("unit"), ": 'unit'"),
        (lambda e, h: h.update(vocab_size=9), "must be 0..8"),
        (lambda e, h: e.pop("task"), "task"),
        (lambda e, h: e.pop("valid"), "valid"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(tmp_path, change, message):
    path = tmp_path / "it.npz"
    save(made(), path)
    rewritten(path, change)
    with pytest.raises(ValueError, match=rf"it\.npz' is no task that .*{message}"):
        restore(path)


def test_what_is_no_saved_task_is_refused(tmp_path):
    path = tmp_path / "it.npz"
    save(made(), path)
    content = path.read_bytes()
    for other in (b"", b"no archive", content[: len(content) // 2], json.dumps([1]).encode()):
        path.write_bytes(other)
        with pytest.raises(ValueError, match="is no task that"):
            restore(path)
    for place in range(40, len(content), 3):  # zlib, zipfile and NumPy each have their own errors
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        with suppress(ValueError):
            restore(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("task.npy", b"nothing of NumPy's")
    with pytest.raises(ValueError, match="is no task that"):
        restore(path)
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        tasks.load("books", tmp_path / "absent.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(FileNotFoundError, match="that is a folder"):
        tasks.load("books", tmp_path / "folder.npz")
    with pytest.raises(ValueError, match=r"must end in \.npz"):
        save(made(), tmp_path / "it.bin")


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "it.npz"
    save(made(), path)
    with pytest.raises(TypeError, match="JSON"):
        save(made(), path, source=tmp_path)
    assert torch.equal(restore(path).test, made().test)
    assert [each.name for each in tmp_path.iterdir()] == ["it.npz"]
    assert saved.FORMAT == 1


def test_a_task_is_cropped_to_its_first_tokens():
    task = made()
    short = task.cropped(train=25, valid=20)
    assert torch.equal(short.train, task.train[:25])
    assert torch.equal(short.valid, task.valid)
    assert short.test is task.test
    assert short.metadata["tokens"] == {"train": 25, "valid": 20, "test": 30}
    assert short.metadata["cropped"] == {"train": 70, "valid": 20}
    assert short.describe == "made; the first 25 of 70 train, 20 of 20 valid tokens"
    assert task.metadata["tokens"] == {"train": 70}
    with pytest.raises(ValueError, match="train=71, but task 'books' has 70"):
        task.cropped(train=71)
    with pytest.raises(UnknownName, match="did you mean 'train'"):
        task.cropped(trian=5)
