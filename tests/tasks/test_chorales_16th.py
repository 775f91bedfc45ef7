"""The chorales in the paper's file and split, from a file and from its public address."""

import io
import json
import urllib.request
from http.client import IncompleteRead

import pytest
import torch

from whatwhere import tasks
from whatwhere.tasks import chorales, chorales_16th


@pytest.fixture
def content() -> dict:
    """As many pieces as the data set has, of two sixteenths each."""
    return {
        split: [[[74, 70, 53, 46], [74, -1, 53, 40 + i % 5]] for i in range(count)]
        for split, count in chorales_16th.PIECES.items()
    }


def test_the_split_of_the_file_is_kept(tmp_path, content):
    path = tmp_path / "some.json"
    path.write_text(json.dumps(content))
    task = tasks.load("chorales_16th", path)
    assert (task.name, task.unit) == ("chorales_16th", "note")
    assert chorales.decode(task.test, task.metadata["pitches"]) == content["test"]
    assert torch.equal(task.train, tasks.load("chorales", path).train)
    assert task.metadata["pieces"] == {"train": 229, "valid": 76, "test": 77}


def test_another_number_of_pieces_is_refused(tmp_path, content):
    content["test"].pop()
    path = tmp_path / "some.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"'test': 76.*the paper holds.*'test': 77"):
        tasks.load("chorales_16th", path)
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        tasks.load("chorales_16th", tmp_path / "absent.json")
    with pytest.raises(FileNotFoundError, match="that is a folder; give the file"):
        tasks.load("chorales_16th", tmp_path)


def test_it_is_fetched_once(tmp_path, content, monkeypatch):
    monkeypatch.setenv("WHATWHERE_CACHE", str(tmp_path / "cache"))
    asked = []

    def refuse(url, timeout):
        raise OSError("no route to host")

    def answer(url, timeout):
        asked.append(url)
        return io.BytesIO(json.dumps(content).encode())

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(OSError, match=r"cannot be fetched \(.*no route.*give data=FILE"):
        tasks.load("chorales_16th")

    class Cut(io.BytesIO):
        def read(self, *size):
            raise IncompleteRead(b"{", 99)

    for broken in (io.BytesIO(b"<html>sign in</html>"), io.BytesIO(b"\xff"), Cut()):
        monkeypatch.setattr(urllib.request, "urlopen", lambda *_, broken=broken, **__: broken)
        with pytest.raises(OSError, match=r"cannot be fetched \(.*give data=FILE"):
            tasks.load("chorales_16th")
    monkeypatch.setattr(urllib.request, "urlopen", answer)
    first, second = tasks.load("chorales_16th"), tasks.load("chorales_16th")
    assert asked == [chorales_16th.URL]
    assert torch.equal(first.test, second.test)
