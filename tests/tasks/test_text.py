"""Byte-level text, and the table that finds a task by name."""

import pytest
import torch

from whatwhere import tasks
from whatwhere.errors import UnknownName


def test_the_three_shares_are_the_file_in_order(tmp_path):
    content = bytes(range(256)) * 5 + b"\x00\xff tail"
    path = tmp_path / "any.bin"
    path.write_bytes(content)
    task = tasks.text(path)
    assert bytes(torch.cat([task.train, task.valid, task.test]).tolist()) == content
    assert (len(task.train), len(task.valid), len(task.test)) == (1159, 64, 64)
    assert (task.vocab_size, task.unit, task.name) == (256, "byte", "text")
    assert task.train.dtype == torch.int64


def test_the_shortest_file_still_has_a_pair_in_every_share(tmp_path):
    path = tmp_path / "short.txt"
    path.write_bytes(b"x" * 40)
    for stream in tasks.text(path).splits().values():
        tasks.windows(stream, 1)


def test_a_file_that_cannot_be_a_text_is_refused(tmp_path):
    (tmp_path / "short.txt").write_bytes(b"x" * 39)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match=r"has 39 bytes; .* at least 40"):
        tasks.text(tmp_path / "short.txt")
    with pytest.raises(ValueError, match="has 0 bytes"):
        tasks.text(tmp_path / "empty.txt")
    with pytest.raises(ValueError, match="no regular file"):
        tasks.text(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"absent\.txt'?: there is no such file"):
        tasks.text(tmp_path / "absent.txt")


def test_a_task_is_found_by_name(tmp_path):
    path = tmp_path / "some.txt"
    path.write_bytes(b"sixteen bytes..." * 4)
    assert torch.equal(tasks.load("text", data=str(path)).test, tasks.text(path).test)
    with pytest.raises(ValueError, match="needs data=FILE"):
        tasks.load("text")
    with pytest.raises(UnknownName, match="unknown task 'chorale'; did you mean 'chorales'"):
        tasks.load("chorale")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (torch.tensor([0, 4]), r"holds tokens 0\.\.4; .* must be 0\.\.3"),
        (torch.tensor([-1, 3]), r"holds tokens -1\.\.3"),
        (torch.tensor([[0, 1]]), r"shape \(1, 2\)"),
        (torch.tensor([0, 1], dtype=torch.int32), "int32"),
        (torch.tensor([], dtype=torch.int64), "not empty"),
    ],
)
def test_a_task_refuses_a_stream_that_is_none(stream, message):
    good = torch.tensor([0, 3])
    with pytest.raises(ValueError, match=f"test of task 'toy'.*{message}"):
        tasks.Task("toy", 4, good, good, stream, unit="byte", describe="")
